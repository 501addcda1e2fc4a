"""A small model on a few hundred prepared clips, such as a folder of instruments: minutes on two CPU cores, before fine-tuning.

It hears random pieces of 2.56 s and sees random pieces of the pictures: with so few clips it would learn these by heart instead.
"""

from avmae_jax.config import Config
from configs import tiny


def get_config() -> Config:
    config = tiny.get_config()
    config.name = "pretrain_instruments"
    config.model.image_size = 112
    config.model.image_mask_ratio = 0.75
    config.loss.contrast_weight = 0.1
    config.data.source = "prepared"
    config.data.path = "prepared"
    config.data.audio_mean, config.data.audio_std = (
        -5.68,
        4.01,
    )  # of 288 clips of 12 instruments; launch.data_statistics tells those of others
    config.augment.crop_area, config.augment.flip = 0.3, True
    config.train.workdir = "runs/pretrain_instruments"
    config.train.batch_size = 24
    config.train.steps = 1500
    config.train.eval_every, config.train.checkpoint_every = 500, 500
    config.optim.decay_start, config.optim.decay_every = 80, 20
    return config
