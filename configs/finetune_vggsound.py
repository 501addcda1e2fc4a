"""Fine-tuning on VGGSound as published: Gong et al., arXiv 2210.07839; --config.init_from says on what."""

from avmae_jax.config import Config
from configs import finetune_audioset2m


def get_config() -> Config:
    config = finetune_audioset2m.get_config()
    config.name = "finetune_vggsound"
    config.tune.loss = "ce"
    config.tune.head_lr_ratio = 10.0
    config.optim.learning_rate = 1e-4
    config.train.workdir = "runs/finetune_vggsound"
    config.tune.average_first, config.tune.average_last = 3, 10
    return config
