"""python -m launch.pretrain --config configs/scale_plus.py --config.data.path=DATASET

Pretrains the base model on AudioSet with a larger batch: "scale+" in the paper's table of recipes. DATASET is a folder by launch.prepare.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("base")
    config.name = "scale_plus"
    config.data.source = "prepared"
    config.requires = ("data.path",)
    config.train.workdir = "runs/scale_plus"
    config.train.batch_size = 108
    config.optim.learning_rate = 1e-4
    return config
