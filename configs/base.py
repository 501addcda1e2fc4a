"""python -m launch.pretrain --config configs/base.py

Pretrains CAV-MAE base as published: the AudioSet-2M recipe of Gong et al., arXiv 2210.07839. The other configs differ from it in a few
lines. Without `--config.data.source=prepared --config.data.path=DATASET` it trains on the built-in set, and says so first.
"""

from avmae_jax.config import Config


def get_config() -> Config:
    """Returns the defaults of avmae_jax/config, which are this recipe's."""
    config = Config(name="base")
    config.train.workdir = "runs/base"
    return config
