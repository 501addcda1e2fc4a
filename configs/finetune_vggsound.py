"""python -m launch.finetune --config configs/finetune_vggsound.py --config.data.path=DATASET --config.init_from=RUN

Fine-tunes on VGGSound as published: Gong et al., arXiv 2210.07839. DATASET is a folder by launch.prepare, with the weights that
launch.data_statistics adds; RUN is a pretraining run, or a checkpoint of the authors.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("finetune_audioset2m")
    config.name = "finetune_vggsound"
    config.tune.loss = "ce"
    config.tune.head_lr_ratio = 10.0
    config.optim.learning_rate = 1e-4
    config.train.workdir = "runs/finetune_vggsound"
    config.tune.average_first, config.tune.average_last = 3, 10
    return config
