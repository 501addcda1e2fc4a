"""python -m launch.finetune --config configs/finetune_instruments.py --config.init_from=runs/pretrain_instruments

Learns to name instruments from a few hundred labelled clips: a classifier on the encoder that configs/pretrain_instruments.py pretrained.
The clips are those of the folder `prepared`; `--config.data.path=DATASET` names another one.

Each clip has one class, so the loss is a softmax. What differs from the published recipe was chosen by cross-validation inside the 288
training clips of the README's table, for sets as small as that. Audio and image have a head and a loss of their own, since a few
photographs are memorised long before the audio is understood (Wang et al., arXiv 1905.12681). A head is given classical statistics beside
the tokens. Half of the patches are left out in training, in place of SpecAug, and training is longer.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("pretrain_instruments")
    config.name = "finetune_instruments"
    config.model.kind = "late_classifier"
    config.model.head_pool = "mean_std"
    config.model.image_factor = 0.35
    config.model.patch_dropout = 0.5
    config.tune.loss = "ce"
    config.tune.head_lr_ratio = 2.0
    config.tune.both_weight, config.tune.audio_weight, config.tune.image_weight = 0.0, 1.0, 1.0
    config.tune.eval_crops = 7
    config.tune.average_first, config.tune.average_last = 61, 90
    config.optim.learning_rate = 5e-4
    config.optim.beta1, config.optim.beta2 = 0.95, 0.999
    config.optim.decay_start, config.optim.decay_every = 60, 15
    config.augment.mixup, config.augment.label_smoothing = 0.5, 0.1
    config.augment.brightness = config.augment.contrast = config.augment.saturation = 0.2
    config.train.workdir = "runs/finetune_instruments"
    config.train.steps = 0
    config.train.epochs = 90
    config.train.eval_every, config.train.checkpoint_every = 120, 120
    return config
