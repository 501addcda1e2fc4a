"""python -m launch.pretrain --config configs/pretrain_instruments.py

Pretrains a small model on a few hundred clips, such as instruments, in minutes on two CPU cores; fine-tuning follows. The clips are those
of the folder `prepared`; `--config.data.path=DATASET` names another one.

Training sees random pieces of 2.56 s and random crops of the images: the model would memorise so few clips otherwise.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("tiny")
    config.name = "pretrain_instruments"
    config.model.image_size = 112
    config.model.image_mask_ratio = 0.75
    config.loss.contrast_weight = 0.1
    config.data.source = "prepared"
    config.data.path = "prepared"
    # of 288 clips of 12 instruments; launch.data_statistics prints those of other clips
    config.data.audio_mean, config.data.audio_std = -5.68, 4.01
    config.augment.crop_area, config.augment.flip = 0.3, True
    config.train.workdir = "runs/pretrain_instruments"
    config.train.batch_size = 24
    config.train.steps = 4000
    config.train.eval_every, config.train.checkpoint_every = 1000, 1000
    config.optim.decay_start, config.optim.decay_every = 220, 55
    return config
