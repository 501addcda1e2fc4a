"""Base model, largest batch ('scale++'), for GPUs with 24 to 48 GB."""

from avmae_jax.config import Config
from configs import base


def get_config() -> Config:
    config = base.get_config()
    config.name = "scale_plus_plus"
    config.train.workdir = "runs/scale_plus_plus"
    config.train.batch_size = 256
    config.optim.learning_rate = 2e-4
    return config
