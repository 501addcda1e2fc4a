"""Defines the config of a whole run, and the rules between its groups."""

import dataclasses
import math

from avmae_jax.config.data import AugmentConfig, DataConfig
from avmae_jax.config.model import ModelConfig
from avmae_jax.config.training import LossConfig, MeshConfig, OptimConfig, TrainConfig, TuneConfig
from avmae_jax.errors import ConfigError
from avmae_jax.files import is_remote
from avmae_jax.settings import Settings

_GIVE = {  # what a user gives for a field that a recipe leaves open
    "data.path": "the folder that launch.prepare wrote",
    "init_from": "the run or the file of weights to start from",
}


@dataclasses.dataclass
class Config(Settings):
    """Describes a whole run."""

    name: str = "base"  # of the run, in its log and its figures
    init_from: str = ""  # weights to start from: a run, a pretrained folder or its id on a hub, a file of a CAV-MAE or MAE; empty: none
    requires: tuple[str, ...] = ()  # fields that the recipe leaves empty and a user must give, such as data.path
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def validate(self) -> None:
        """Checks every field and the fields against each other; raises ConfigError for the first that can't work.

        What depends on the devices or on the clips is checked once these are known.
        """
        self._require_given()
        self._require_local()
        for group in self.groups.values():
            group.validate()
        self._require_fitting_batch()
        self._require_fitting_augmentation()
        self._require_fitting_schedule()
        if not self.train.steps and self.tune.average_last > math.ceil(self.train.epochs):
            raise ConfigError(
                f"tune.average_last is {self.tune.average_last}, but train.epochs is {self.train.epochs:g}; change one of them"
            )

    def _require_given(self) -> None:
        """Raises ConfigError unless the fields that the recipe leaves open are given."""
        missing: list[str] = []
        for name in self.requires:
            given = getattr(self.holder(name), name.rpartition(".")[2])
            if not given and not (name == "data.path" and self.data.source == "builtin"):
                missing.append(f"--config.{name}=PATH ({_GIVE.get(name, 'which has no default')})")
        if missing:
            raise ConfigError(f"the recipe {self.name} needs {' and '.join(missing)}")

    def _require_local(self) -> None:
        """Raises ConfigError for a path of another machine."""
        for group in (self, *self.groups.values()):
            for name, value in vars(group).items():
                group.require(name, not (isinstance(value, str) and is_remote(value)), "copy it to this machine or mount it")

    def _require_fitting_batch(self) -> None:
        """Raises ConfigError for a batch that the mesh can't share or the built-in set can't fill."""
        batch, parts = self.train.batch_size, [self.mesh.data, self.mesh.fsdp]
        if -1 not in parts and batch % math.prod(parts):
            raise ConfigError(f"train.batch_size is {batch}; it must be a multiple of mesh.data * mesh.fsdp = {math.prod(parts)}")
        if self.data.source == "builtin" and batch > self.data.builtin_train:
            raise ConfigError(f"train.batch_size is {batch}, but data.builtin_train is {self.data.builtin_train}; change one of them")

    def _require_fitting_augmentation(self) -> None:
        """Raises ConfigError for a SpecAug span that is wider than the spectrogram, where one is used."""
        if self.model.modality == "image" or self.tune.mode == "videoonly":
            return
        for name, size in (("freq", "mel_bins"), ("time", "clip_frames" if self.model.clip_frames else "audio_frames")):
            widest, there = getattr(self.augment, f"specaug_{name}"), getattr(self.model, size)
            if widest > there:
                raise ConfigError(f"augment.specaug_{name} is {widest}, but model.{size} is {there}; change one of them")
        if self.augment.mel_shift >= self.model.mel_bins:
            raise ConfigError(f"augment.mel_shift is {self.augment.mel_shift:g}, but model.mel_bins is {self.model.mel_bins}; give less")

    def _require_fitting_schedule(self) -> None:
        """Raises ConfigError for a warm-up that is longer than the run, where the config says how long that is."""
        if 0 < self.train.steps < self.optim.warmup_steps:
            raise ConfigError(f"optim.warmup_steps is {self.optim.warmup_steps}, but train.steps is {self.train.steps}; change one of them")
