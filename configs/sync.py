"""python -m launch.pretrain --config configs/sync.py

Pretrains CAV-MAE Sync on AudioSet-2M: Araujo et al., arXiv 2505.01237, by the training script of its first author. Each of 16 frames of a
clip is paired with the 4.16 s of audio around it. The published run starts from an image MAE (`--config.init_from=mae.pth`).

Without `--config.data.source=prepared --config.data.path=DATASET` it trains on the built-in set. DATASET is a folder by
`launch.prepare --frames=16`; one with fewer frames is used with `--config.data.frames=0`.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("base")
    config.name = "sync"
    config.model.kind = "sync"
    config.model.class_token = True
    config.model.registers = 8
    config.model.audio_frames = 416
    config.model.clip_frames = 1024
    config.model.window_rate = 102.4
    config.loss.contrast_weight = 0.1
    config.optim.learning_rate = 2e-4
    config.optim.schedule = "cosine"
    config.optim.cosine_floor = 0.1
    config.optim.warmup_share = 0.1
    config.data.frames = 16
    config.data.builtin_frames = 16
    config.train.workdir = "runs/sync"
    config.train.batch_size = 512
    return config
