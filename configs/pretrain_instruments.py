"""A small model on a few hundred prepared clips of 10 s, such as a folder of instruments: minutes on two CPU cores, before fine-tuning."""

from avmae_jax.config import Config
from configs import tiny


def get_config() -> Config:
    config = tiny.get_config()
    config.name = "pretrain_instruments"
    config.model.audio_frames = 1024
    config.model.image_size = 224
    config.model.image_mask_ratio = 0.75
    config.data.source = "prepared"
    config.data.path = "prepared"
    config.data.audio_mean = -5.081
    config.data.audio_std = 4.4849
    config.train.workdir = "runs/pretrain_instruments"
    config.train.batch_size = 24
    config.train.steps = 480
    config.train.eval_every = 120
    config.train.checkpoint_every = 120
    return config
