"""python -m launch.finetune --config configs/finetune_sync.py --config.data.path=DATASET --config.init_from=RUN

Fine-tunes a CAV-MAE Sync on AudioSet-20K, by the training script of its first author: Araujo et al., arXiv 2505.01237. DATASET is a folder
by `launch.prepare --frames=16`; RUN is a run of configs/sync.py, or the published checkpoint.

What stands for a pair is the mean of its tokens after the joint blocks. The published classifier throws these blocks away and takes the
class tokens before them: `--config.model.pair_pool=late`. Its script also names masks and mixup, which its loader ignores.
"""

from avmae_jax.config import Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("sync")
    config.name = "finetune_sync"
    config.model.kind = "sync_classifier"
    config.data.source = "prepared"
    config.requires = ("data.path", "init_from")
    config.tune.loss = "bce"
    config.tune.head_lr_ratio = 100.0
    config.tune.average_first, config.tune.average_last = 13, 25
    config.augment.label_smoothing = 0.1
    config.train.workdir = "runs/finetune_sync"
    config.train.batch_size = 48
    config.train.epochs = 25
    return config
