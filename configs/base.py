"""CAV-MAE base as published: the AudioSet-2M recipe of Gong et al., arXiv 2210.07839. The other configs differ from it in a few lines."""

from avmae_jax.config import Config


def get_config() -> Config:
    """The defaults of avmae_jax/config.py are this run's; clips come from the built-in set until --config.data says otherwise."""
    config = Config(name="base")
    config.train.workdir = "runs/base"
    return config
