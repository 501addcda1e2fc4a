"""How much the pretrained encoder knows: it stays as it is, and a head alone is trained on it, without augmentation."""

from avmae_jax.config import AugmentConfig, Config
from configs import finetune_instruments


def get_config() -> Config:
    config = finetune_instruments.get_config()
    config.name = "linear_probe"
    config.tune.freeze_base = True
    config.tune.head_lr_ratio = 1.0  # the rate below is the head's
    config.optim.learning_rate = 1e-3
    config.augment = AugmentConfig()
    config.train.workdir = "runs/linear_probe"
    return config
