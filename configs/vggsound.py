"""Pretraining on VGGSound from an image MAE's weights."""

from avmae_jax.config import Config
from configs import base


def get_config() -> Config:
    config = base.get_config()
    config.name = "vggsound"
    config.train.workdir = "runs/vggsound"
    config.train.batch_size = 120
    config.optim.learning_rate = 1e-4
    return config
