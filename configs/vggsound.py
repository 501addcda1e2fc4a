"""python -m launch.pretrain --config configs/vggsound.py --config.data.path=DATASET --config.init_from=mae.pth

Pretrains the base model on VGGSound, starting from the weights of an image MAE. DATASET is a folder by launch.prepare.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("base")
    config.name = "vggsound"
    config.data.source = "prepared"
    config.requires = ("data.path", "init_from")
    config.train.workdir = "runs/vggsound"
    config.train.batch_size = 120
    config.optim.learning_rate = 1e-4
    return config
