"""python -m launch.finetune --config configs/finetune_audioset20k.py --config.data.path=DATASET --config.init_from=RUN

Fine-tunes on AudioSet-20K as published: Gong et al., arXiv 2210.07839. DATASET is a folder by launch.prepare; RUN is a pretraining run, or
a checkpoint of the authors.
"""

from avmae_jax.config import Config


def get_config() -> Config:
    config = Config(name="finetune_audioset20k")
    config.data.source = "prepared"
    config.requires = ("data.path", "init_from")
    config.model.kind = "cavmae_classifier"
    config.tune.loss = "bce"
    config.tune.head_lr_ratio = 100.0
    config.optim.learning_rate = 5e-5
    config.optim.decay_start, config.optim.decay_every = 5, 1
    config.augment.specaug_freq, config.augment.specaug_time = 48, 192
    config.augment.mixup, config.augment.label_smoothing = 0.5, 0.1
    config.train.workdir = "runs/finetune_audioset20k"
    config.train.batch_size = 36
    config.train.epochs = 15
    config.tune.average_first, config.tune.average_last = 3, 15
    return config
