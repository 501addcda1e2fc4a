"""Defines what applying a model needs of a config: that of a run has it, and so have weights, whose run may be unknown."""

import dataclasses
from typing import Protocol, runtime_checkable

from avmae_jax.config.data import AugmentConfig, ReadConfig
from avmae_jax.config.model import ModelConfig
from avmae_jax.config.training import LossConfig, TuneConfig
from avmae_jax.settings import Settings


@dataclasses.dataclass
class AppliedConfig(Settings):
    """Describes a trained model, as far as weights/notes.py stores it beside weights. Which clips it was trained on only its run knows."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: ReadConfig = dataclasses.field(default_factory=ReadConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)  # of which only norm_pix is stored
    tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)  # of which only mode and loss are stored

    @property
    def augment(self) -> AugmentConfig:
        """Returns that nothing is changed at random."""
        return AugmentConfig()


@runtime_checkable
class Applied(Protocol):
    """Is a config by which a model can be applied: an AppliedConfig, or the Config of a run."""

    @property
    def model(self) -> ModelConfig:
        """Returns kind and sizes."""
        ...

    @property
    def data(self) -> ReadConfig:
        """Returns how clips are read."""
        ...

    @property
    def loss(self) -> LossConfig:
        """Returns what it was pretrained for."""
        ...

    @property
    def tune(self) -> TuneConfig:
        """Returns how it was tuned."""
        ...

    @property
    def augment(self) -> AugmentConfig:
        """Returns what is changed at random in training."""
        ...
