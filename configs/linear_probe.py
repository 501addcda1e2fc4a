"""python -m launch.finetune --config configs/linear_probe.py --config.init_from=runs/pretrain_instruments

Measures how much the pretrained encoder knows: trains only a head on the frozen encoder, without augmentation.
"""

from avmae_jax.config import AugmentConfig, Config, TuneConfig
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("finetune_instruments")
    config.name = "linear_probe"
    config.model = shipped("pretrain_instruments").model
    config.model.kind = "cavmae_classifier"
    config.tune = TuneConfig(loss="ce", freeze_base=True, eval_crops=7)
    config.optim.learning_rate = 1e-3
    config.optim.decay_start, config.optim.decay_every = 20, 5
    config.augment = AugmentConfig()
    config.train.workdir = "runs/linear_probe"
    config.train.epochs = 30
    return config
