"""python -m launch.finetune --config configs/linear_probe.py --config.init_from=runs/pretrain_instruments

Measures how much the pretrained encoder knows: trains only a head on the frozen encoder, without augmentation.
"""

from avmae_jax.config import AugmentConfig, Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("finetune_instruments")
    config.name = "linear_probe"
    config.tune.freeze_base = True
    config.tune.head_lr_ratio = 1.0  # the rate below is the head's
    config.optim.learning_rate = 1e-3
    config.augment = AugmentConfig()
    config.train.workdir = "runs/linear_probe"
    return config
