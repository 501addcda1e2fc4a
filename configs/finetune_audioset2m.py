"""Fine-tuning on AudioSet-2M as published: Gong et al., arXiv 2210.07839; --config.init_from says on what."""

from avmae_jax.config import Config
from configs import finetune_audioset20k


def get_config() -> Config:
    config = finetune_audioset20k.get_config()
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
