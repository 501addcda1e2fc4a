"""python -m launch.pretrain --config configs/sync_tiny.py

Pretrains a small CAV-MAE Sync on short clips of the built-in set: the whole job in minutes on two CPU cores.

It hears and sees the same clips as tiny.py. Each of a clip's ten frames is paired with the 0.96 s of audio around it.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("tiny")
    config.name = "sync_tiny"
    config.model.kind = "sync"
    config.model.class_token = True
    config.model.registers = 4
    config.model.audio_frames = 96
    config.model.audio_mask_ratio = 0.5
    config.model.clip_frames = 256
    config.optim.schedule = "cosine"
    config.optim.cosine_floor = 0.1
    config.optim.warmup_share = 0.1
    config.train.workdir = "runs/sync_tiny"
    config.train.steps = 680
    config.train.eval_every = 170
    config.train.checkpoint_every = 170
    return config
