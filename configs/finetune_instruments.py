"""Naming instruments with few labels: the classifier on the encoder that configs/pretrain_instruments.py pretrained.

One class a clip, so softmax; SpecAug, mixup and smoothing as in the original's fine-tuning on VGGSound. Another encoder wants the `model`
fields of its own config.

A few photographs are learned by heart long before the sounds are understood, and then what is seen drowns what is heard. So each has a loss
of its own, a light one where it overfits (Wang et al., arXiv 1905.12681), and half of the pictures are another clip's, so that the
classifier of both learns to trust them no more than that.
"""

from avmae_jax.config import Config
from configs import pretrain_instruments


def get_config() -> Config:
    config = pretrain_instruments.get_config()
    config.name = "finetune_instruments"
    config.tune.loss = "ce"
    config.tune.head_lr_ratio = 2.0
    config.tune.audio_weight, config.tune.image_weight = 1.0, 0.3
    config.tune.swap_pictures = 0.5
    config.tune.eval_crops = 4
    config.tune.average_first, config.tune.average_last = 21, 30
    config.optim.learning_rate = 5e-4
    config.optim.beta1, config.optim.beta2 = 0.95, 0.999
    config.optim.decay_start, config.optim.decay_every = 20, 5
    config.augment.specaug_freq, config.augment.specaug_time = 24, 64
    config.augment.mixup, config.augment.label_smoothing = 0.5, 0.1
    config.train.workdir = "runs/finetune_instruments"
    config.train.steps = 0
    config.train.epochs = 30
    config.train.eval_every, config.train.checkpoint_every = 0, 0
    return config
