"""python -m launch.pretrain --config configs/sync_vggsound.py --config.data.path=DATASET --config.init_from=mae.pth

Pretrains CAV-MAE Sync on VGGSound by the one public script that does: rate 5e-5, a batch of 1008, decay in steps, a contrastive weight of
0.01, and patches that aren't normalised. DATASET is a folder by launch.prepare --frames=16.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("sync")
    config.name = "sync_vggsound"
    config.data.source = "prepared"
    config.requires = ("data.path", "init_from")
    config.loss.contrast_weight = 0.01
    config.loss.norm_pix = False
    config.optim.learning_rate = 5e-5
    config.optim.schedule = "steps"
    config.optim.cosine_floor = 0.0
    config.optim.warmup_share = 0.0
    config.train.workdir = "runs/sync_vggsound"
    config.train.batch_size = 144 * 7
    return config
