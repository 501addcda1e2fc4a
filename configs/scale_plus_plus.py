"""python -m launch.pretrain --config configs/scale_plus_plus.py --config.data.path=DATASET

Pretrains the base model on AudioSet with the largest batch, "scale++" in the paper, for GPUs with 24 to 48 GB. DATASET is a folder by
launch.prepare.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("base")
    config.name = "scale_plus_plus"
    config.data.source = "prepared"
    config.requires = ("data.path",)
    config.train.workdir = "runs/scale_plus_plus"
    config.train.batch_size = 256
    config.optim.learning_rate = 2e-4
    return config
