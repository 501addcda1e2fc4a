"""python -m launch.finetune --config configs/finetune_audioset2m.py --config.data.path=DATASET --config.init_from=RUN

Fine-tunes on AudioSet-2M as published: Gong et al., arXiv 2210.07839. DATASET is a folder by launch.prepare, with the weights that
launch.data_statistics adds; RUN is a pretraining run, or a checkpoint of the authors.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("finetune_audioset20k")
    config.name = "finetune_audioset2m"
    config.tune.head_lr_ratio = 50.0
    config.optim.learning_rate = 1e-5
    config.optim.decay_start, config.optim.decay_every = 2, 1
    config.augment.balanced = True
    config.train.workdir = "runs/finetune_audioset2m"
    config.train.batch_size = 48
    config.train.epochs = 10
    config.tune.average_first, config.tune.average_last = 1, 10
    return config
