"""python -m launch.finetune --config configs/finetune_instruments.py --config.init_from=runs/pretrain_instruments

Learns to name instruments from few labels: a classifier on the encoder that configs/pretrain_instruments.py pretrained. The clips are those
of the folder `prepared`; `--config.data.path=DATASET` names another one.

Each clip has one class, so the loss is a softmax; SpecAug, mixup and smoothing follow the original's fine-tuning on VGGSound. To start from
another encoder, copy the `model` fields of its config.

The classifier memorises a few photographs long before it understands the audio, and the image then dominates. So audio and image each get a
loss of their own, with a small weight for the image, which overfits (Wang et al., arXiv 1905.12681), and half of the images are exchanged
between clips, so that the classifier learns how little an image tells.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("pretrain_instruments")
    config.name = "finetune_instruments"
    config.model.kind = "cavmae_classifier"
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
