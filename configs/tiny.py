"""A small model on short built-in clips: the whole job in minutes on two CPU cores."""

from avmae_jax.config import Config
from configs import base


def get_config() -> Config:
    config = base.get_config()
    config.name = "tiny"
    config.model.size = "tiny"
    config.model.depth = 4
    config.model.decoder_depth = 2
    config.model.audio_frames = 256
    config.model.image_size = 96
    config.loss.contrast_weight = 0.1
    config.loss.bidirectional = True
    config.data.builtin_train = 2800
    config.data.builtin_seconds = 2.56
    config.data.builtin_image_size = 96
    config.optim.learning_rate = 5e-4
    config.train.workdir = "runs/tiny"
    config.train.batch_size = 32
    config.train.epochs = 12
    return config
