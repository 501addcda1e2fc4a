"""Base model, larger batch ('scale+' in the paper's table of recipes)."""

from avmae_jax.config import Config
from configs import base


def get_config() -> Config:
    config = base.get_config()
    config.name = "scale_plus"
    config.train.workdir = "runs/scale_plus"
    config.train.batch_size = 108
    config.optim.learning_rate = 1e-4
    return config
