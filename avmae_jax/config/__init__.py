"""Defines every setting of a run, typed, with a comment on each field; `PROGRAM --help` prints these comments.

    model.py      ModelConfig: kind, sizes, positions, masking
    data.py       ReadConfig, DataConfig and AugmentConfig: which clips are read, how, and how they are changed at random
    training.py   LossConfig, TuneConfig, OptimConfig, MeshConfig, TrainConfig
    run.py        Config: all of them, and the rules between them
    applied.py    AppliedConfig: what is known of a trained model

A file in `configs/` returns one `Config` from `get_config()`; any field can be set on the command line, for example
`--config configs/base.py --config.train.batch_size=4`. Values derived from others are properties, never fields, so that an override can't
leave them stale. An unknown field or a value of a wrong type is refused wherever it is set; `Config.validate` refuses values that can't
work, alone or together.

The recipe's numbers are those of Gong et al., arXiv 2210.07839.
"""

from avmae_jax.config.applied import Applied, AppliedConfig
from avmae_jax.config.data import AUDIO_MEAN, AUDIO_STD, AugmentConfig, Channels, DataConfig, Fill, Frames, Normalise, ReadConfig
from avmae_jax.config.model import SIZES, HeadPool, MaskMode, Modality, ModelConfig, PairPool, Size
from avmae_jax.config.run import Config
from avmae_jax.config.training import LossConfig, MeshConfig, OptimConfig, TrainConfig, TuneConfig

__all__ = [
    "AUDIO_MEAN",
    "AUDIO_STD",
    "SIZES",
    "Applied",
    "AppliedConfig",
    "AugmentConfig",
    "Channels",
    "Config",
    "DataConfig",
    "Fill",
    "Frames",
    "HeadPool",
    "LossConfig",
    "MaskMode",
    "MeshConfig",
    "Modality",
    "ModelConfig",
    "Normalise",
    "OptimConfig",
    "PairPool",
    "ReadConfig",
    "Size",
    "TrainConfig",
    "TuneConfig",
]
