"""Defines every setting of a run, typed, with a comment on each field; `PROGRAM --help` prints these comments.

A file in `configs/` returns one `Config` from `get_config()`; any field can be set on the command line, for example
`--config configs/base.py --config.train.batch_size=4`. Values derived from others are properties, never fields, so that an override can't
leave them stale. An unknown field or a value of a wrong type is refused wherever it is set; `Config.validate` refuses values that can't
work, alone or together.

The recipe's numbers are those of Gong et al., arXiv 2210.07839.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

from avmae_jax.errors import ConfigError
from avmae_jax.files import is_remote
from avmae_jax.settings import Settings

AUDIO_MEAN, AUDIO_STD = -5.081, 4.4849  # of the log-mel, the original's; used where neither the config nor the data set has them

Channels = Literal["first", "mean"]  # the first audio channel that isn't silent, or the mean of all
Fill = Literal["zeros", "repeat"]  # what audio that is too short is filled up with
Frames = Literal["first", "middle", "all"]  # which of a clip's frames evaluation uses
MaskMode = Literal["unstructured", "time", "freq", "tf"]
Modality = Literal["both", "audio", "image"]


class Size(NamedTuple):
    """Holds one row of the table of model sizes; the decoder has its own size, as in He et al., arXiv 2111.06377."""

    depth: int  # encoder blocks a token goes through, joint ones included
    width: int  # D
    heads: int
    decoder_depth: int
    decoder_width: int
    decoder_heads: int


SIZES = {
    "tiny": Size(12, 192, 3, 4, 128, 4),
    "small": Size(12, 384, 6, 4, 256, 8),
    "base": Size(12, 768, 12, 8, 512, 16),
    "large": Size(24, 1024, 16, 8, 512, 16),
    "huge": Size(32, 1280, 16, 8, 512, 16),
}


@dataclasses.dataclass
class ModelConfig(Settings, group="model"):
    """Defines the model: sizes, positions, masking."""

    kind: str = "cavmae"  # cavmae | cavmae_classifier | mae | ast: a row of models/registry.py
    modality: str = "both"  # both | audio | image: which modalities the model has; mae takes one of them, ast audio
    size: str = "base"  # a row of SIZES; the six fields below replace single values of that row
    depth: int | None = None  # encoder blocks a token goes through, joint ones included
    width: int | None = None  # D, channels of a token in the encoder
    heads: int | None = None  # attention heads in the encoder
    decoder_depth: int | None = None  # decoder blocks
    decoder_width: int | None = None  # channels of a token in the decoder
    decoder_heads: int | None = None  # attention heads in the decoder
    joint_depth: int = 1  # how many of the `depth` blocks process both modalities; unused for one modality
    mlp_ratio: float = 4.0  # hidden width of the MLP divided by the width of its block
    norm_eps: float = 1e-5  # epsilon of every LayerNorm, as in CAV-MAE; ViT, MAE and AST use 1e-6 or 1e-12
    class_token: bool = False  # one modality only: add a token that belongs to no patch, as the image MAE does
    audio_frames: int = 1024  # T, 10 ms each; divisible by patch
    mel_bins: int = 128  # M; divisible by patch
    image_size: int = 224  # H = W in pixels; divisible by patch
    patch: int = 16  # P, side of a square patch in both modalities
    learned_positions: bool = False  # True: train the positions, starting from sin-cos; False: keep sin-cos
    audio_mask_ratio: float = 0.75  # share of audio patches hidden, in [0, 1)
    image_mask_ratio: float = 0.75  # share of image patches hidden, in [0, 1)
    audio_mask_mode: str = "unstructured"  # unstructured | time | freq | tf
    unchained_contrastive: bool = False  # True: like the official code, apply only the last joint block to the contrastive streams
    remat: bool = False  # recompute each block in the backward pass: less memory, more time on accelerators; no effect on a CPU
    compute_dtype: str = "float32"  # float32 | bfloat16; parameters, norms, softmax and losses are always float32

    @property
    def shape(self) -> Size:
        """Returns the row of SIZES with this config's replacements; raises ConfigError for an unknown size."""
        self.require_choice("size", SIZES)
        replaced = {name: getattr(self, name) for name in Size._fields if getattr(self, name) is not None}
        return SIZES[self.size]._replace(**replaced)

    def input_shape(self, modality: str) -> tuple[int, int, int]:
        """Returns (height, width, channels) of the input that a modality's patches are cut from; for audio (mel bins, frames, 1)."""
        sides = (self.mel_bins, self.audio_frames) if modality == "audio" else (self.image_size, self.image_size)
        return *sides, 1 if modality == "audio" else 3

    def grid(self, modality: str) -> tuple[int, int]:
        """Returns the number of patches as (rows, columns); for audio (mel rows, time columns)."""
        height, width, _ = self.input_shape(modality)
        return height // self.patch, width // self.patch

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_choice("modality", get_args(Modality))
        self.require("class_token", not self.class_token or self.modality != "both", "set model.modality to audio or image for it")
        shape = self.shape
        sizes = {**shape._asdict(), "patch": self.patch, "mlp_ratio": self.mlp_ratio, "norm_eps": self.norm_eps}
        for name, value in sizes.items():
            if value < 0 or (value == 0 and name != "decoder_depth"):
                raise ConfigError(f"model.{name} is {value}; it must be positive")
        for name in ("audio_frames", "mel_bins", "image_size"):
            size = getattr(self, name)
            self.require(name, size > 0 and size % self.patch == 0, f"it must be a positive multiple of model.patch = {self.patch}")
        self.require_share("audio_mask_ratio", "image_mask_ratio", one=False)
        self.require_choice("audio_mask_mode", get_args(MaskMode))
        for name in ("", "decoder_"):
            width, heads = getattr(shape, f"{name}width"), getattr(shape, f"{name}heads")
            if width % heads:
                raise ConfigError(f"model.{name}width is {width}; it must be a multiple of model.{name}heads = {heads}")
            if width % 4:
                raise ConfigError(f"model.{name}width is {width}; 2-D sin-cos positions need a multiple of 4")
        self.require("joint_depth", 1 <= self.joint_depth <= shape.depth, f"it must be between 1 and the depth {shape.depth}")
        self.require_choice("compute_dtype", ("float32", "bfloat16"))


@dataclasses.dataclass
class LossConfig(Settings, group="loss"):
    """Weighs the parts of the pretraining loss."""

    mae_weight: float = 1.0  # weight of audio + image reconstruction
    contrast_weight: float = 0.01  # weight of the contrastive loss
    temperature: float = 0.05  # fixed temperature of the contrastive softmax
    bidirectional: bool = False  # False: softmax over audio for each image; True: the mean of both directions
    norm_pix: bool = True  # predict patches that are each normalised by their own mean and deviation; inpainting needs False
    negatives: str = "global"  # global | shard: take negatives from all devices, or from each device's share of the batch

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_not_negative("mae_weight", "contrast_weight")
        self.require("mae_weight", self.mae_weight + self.contrast_weight > 0, "it must be positive where loss.contrast_weight is 0")
        self.require_positive("temperature")
        self.require_finite("mae_weight", "contrast_weight", "temperature")
        self.require_choice("negatives", ("global", "shard"))


@dataclasses.dataclass
class TuneConfig(Settings, group="tune"):
    """Configures fine-tuning: a classifier on the pretrained encoder. Pretraining ignores it."""

    mode: str = "multimodal"  # multimodal | audioonly | videoonly: the classifier's inputs
    loss: str = "bce"  # bce | ce: several classes a clip, each decided by itself, or exactly one
    head_lr_ratio: float = 1.0  # the head's learning rate divided by that of the other layers
    freeze_base: bool = False  # True: train only the head, a linear probe
    average_first: int = 0  # first epoch, counted from 1, whose weights are averaged into the run's averaged/; 0: no average
    average_last: int = 0  # last epoch of that average
    audio_weight: float = 0.0  # multimodal only: weight of an additional loss of the classifier given the audio alone
    image_weight: float = 0.0  # the same for the image alone; the original has neither loss
    swap_pictures: float = 0.0  # multimodal only: share of clips that get another clip's image and keep their label, in [0, 1]
    eval_crops: int = 1  # pieces of an audio longer than the model's input whose predictions are averaged; 1: its centre
    eval_frames: str = "middle"  # middle | all: evaluate on the middle frame, or average over all frames

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_choice("mode", ("multimodal", "audioonly", "videoonly"))
        self.require_choice("loss", ("bce", "ce"))
        self.require_choice("eval_frames", ("middle", "all"))
        self.require_positive("head_lr_ratio", "eval_crops")
        self.require_not_negative("audio_weight", "image_weight")
        self.require_share("swap_pictures")
        if not (0 < self.average_first <= self.average_last or self.average_first == self.average_last == 0):
            raise ConfigError(
                f"tune.average_first is {self.average_first} and tune.average_last {self.average_last}; give the first and the last epoch "
                "of the mean, counted from 1, or 0 twice for none"
            )


@dataclasses.dataclass
class OptimConfig(Settings, group="optim"):
    """Configures Adam, with L2 inside the gradient, and its step-wise schedule."""

    learning_rate: float = 5e-5  # of the first epochs, before any decay
    weight_decay: float = 5e-7  # L2 added to the gradient before the moments; this is not AdamW
    beta1: float = 0.95  # decay of Adam's first moment, in [0, 1)
    beta2: float = 0.999  # decay of Adam's second moment, in [0, 1)
    eps: float = 1e-8  # added to the root of the second moment
    decay_start: int = 10  # epochs after which the rate is first multiplied by decay_rate
    decay_every: int = 5  # epochs between further decays
    decay_rate: float = 0.5  # factor of each decay

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_not_negative("learning_rate", "weight_decay", "eps", "decay_start", "decay_rate")
        self.require_finite("learning_rate", "weight_decay", "eps", "decay_rate")
        self.require_share("beta1", "beta2", one=False)
        self.require_positive("decay_every")


@dataclasses.dataclass
class DataConfig(Settings, group="data"):
    """Names the clips and configures how they are read."""

    source: str = "builtin"  # builtin | prepared | manifest: a generated set of instruments, a folder by launch.prepare, or JSON files
    path: str = ""  # prepared: the folder written by launch.prepare; manifest: the JSON file of the training clips
    eval_path: str = ""  # manifest only: the JSON file of the held-out clips; empty: no evaluation
    labels_csv: str = ""  # manifest only: CSV with the columns index,mid,display_name
    root: str = ""  # manifest only: folder that all paths of the manifest must lie in; empty: the manifest's own folder
    cache_dir: str = "~/.cache/avmae_jax"  # folder in which the built-in set is generated
    builtin_train: int = 1000  # training clips of the built-in set
    builtin_test: int = 200  # held-out clips of the built-in set
    builtin_seconds: float = 10.0  # length of a built-in clip
    builtin_image_size: int = 224  # pixels a side of a built-in frame
    builtin_seed: int = 1  # each seed generates another set; 0 is the one that was viewed while the set was designed
    workers: int = 0  # reader processes; 0: threads in this process
    threads: int = 4  # reader threads a process
    prefetch: int = 4  # batches read ahead
    max_damaged: float = 10  # damaged clips, or below 1 their share, that each reader process reports and skips before it stops; 0: none
    audio_mean: float | None = None  # subtracted from the log-mel; None: as the data set's statistics.json says, or -5.081
    audio_std: float | None = None  # divides the log-mel after that; None: as the data set's statistics.json says, or 4.4849
    channels: str | None = None  # first or mean: the audio channels trained on, and predicted with; None: as the data set says, or first

    @property
    def normalisation(self) -> tuple[float, float]:
        """Returns mean and standard deviation of the log-mel, the original's where the config leaves them open."""
        return AUDIO_MEAN if self.audio_mean is None else self.audio_mean, AUDIO_STD if self.audio_std is None else self.audio_std

    @property
    def audio_channels(self) -> Channels:
        """Returns which audio channels are used: the first, as in the original, where the config leaves it open."""
        return "mean" if self.channels == "mean" else "first"

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_choice("source", ("builtin", "prepared", "manifest"))
        self.require("channels", self.channels in (None, *get_args(Channels)), f"choose one of {', '.join(get_args(Channels))}")
        what = "the folder that launch.prepare wrote" if self.source == "prepared" else "the JSON manifest of the training clips"
        self.require("path", self.source == "builtin" or bool(self.path), f"with data.source={self.source} give {what}")
        named = self.source != "manifest" or bool(self.labels_csv)
        self.require("labels_csv", named, "give the CSV with the columns index,mid,display_name")
        self.require_positive("builtin_train", "builtin_test", "builtin_seconds", "builtin_image_size", "threads")
        self.require_not_negative("builtin_seed", "workers", "prefetch", "max_damaged")
        self.require("max_damaged", self.max_damaged < 1 or float(self.max_damaged).is_integer(), "give a number, or a share below 1")
        self.require_finite("builtin_seconds")
        mean, std = self.normalisation
        self.require("audio_mean", math.isfinite(mean), "it must be finite")
        self.require("audio_std", math.isfinite(std) and std > 0, "it must be positive and finite")


@dataclasses.dataclass
class AugmentConfig(Settings, group="augment"):
    """Changes training examples at random; evaluation never does. All off by default, as in the original's pretraining."""

    specaug_freq: int = 0  # F: zero a band of fewer than F mel bins before normalisation; 0: off
    specaug_time: int = 0  # zero a span of fewer than this many frames; the original fine-tunes with F = 48 and 192 frames
    crop_area: float = 1.0  # smallest share of an image's area that a random crop keeps; 1: no crop
    flip: bool = False  # mirror half of the images; the original has neither crop_area nor flip
    noise: bool = False  # add noise to the normalised spectrogram, then roll it in time
    mixup: float = 0.0  # share of clips whose audio and image are both mixed with another clip's; in [0, 1]
    mixup_alpha: float = 10.0  # the first clip's weight in a mixture is drawn from Beta(alpha, alpha)
    label_smoothing: float = 0.0  # eps of the targets, in [0, 1); unused without targets
    balanced: bool = False  # draw clips of rare classes more often, by the weights that launch.data_statistics stored

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_not_negative("specaug_freq", "specaug_time")
        self.require("crop_area", 0 < self.crop_area <= 1, "it must lie in (0, 1]")
        self.require_share("mixup")
        self.require_positive("mixup_alpha")
        self.require_share("label_smoothing", one=False)


@dataclasses.dataclass
class MeshConfig(Settings, group="mesh"):
    """Lays out the devices; the product must be the number of devices. One of the three may be -1: the devices that are left."""

    data: int = -1  # copies of the model, each with its share of the batch
    fsdp: int = 1  # parts into which parameters, moments and the batch are cut
    tensor: int = 1  # parts into which heads and MLP channels are cut

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work; the number of devices is compared when the mesh is made."""
        sizes = (self.data, self.fsdp, self.tensor)
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            self.require(name, size >= 1 or (size == -1 and sizes.count(-1) == 1), "give at least 1, or -1 for one of the three")


@dataclasses.dataclass
class TrainConfig(Settings, group="train"):
    """Configures the loop: length, intervals, folder."""

    workdir: str = "runs/default"  # folder of the run's checkpoints, metrics and images; starting again in it resumes the run
    batch_size: int = 48  # pairs a step, over all devices
    micro_batch: int = 0  # pairs computed at once; 0: as many as fit in memory. Negatives come from one micro-batch
    epochs: float = 25.0  # passes over the training set; may be fractional
    steps: int = 0  # > 0: train for this many steps, regardless of `epochs`
    seed: int = 0  # of the initial weights, the order of clips, masks and augmentation
    log_every: int = 10  # steps between flushes of metrics.jsonl to the disk, and between lines on the screen where it shows no bar
    eval_every: int = 0  # steps between evaluations; 0: after every epoch
    picture_every: int = 0  # steps between images of reconstructions; 0: with every evaluation
    checkpoint_every: int = 0  # steps between checkpoints; 0: after every epoch
    checkpoint_minutes: float = 15.0  # also save when this many minutes have passed since the last checkpoint; 0: off
    keep_last: int = 3  # newest checkpoints kept
    keep_every: int = 0  # also keep every checkpoint whose step is a multiple of this; 0: none
    eval_batches: int = 0  # batches of an evaluation; 0: the whole held-out set
    retrieval_clips: int = 200  # held-out clips that the final retrieval is computed on; 0: none

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require("workdir", bool(self.workdir), "give a folder for the run")
        self.require_positive("batch_size", "epochs", "log_every", "keep_last")
        self.require_finite("epochs")
        self.require_not_negative("micro_batch", "steps", "seed", "eval_every", "picture_every", "checkpoint_every", "keep_every")
        self.require_not_negative("eval_batches", "retrieval_clips", "checkpoint_minutes")
        fits = not self.micro_batch or self.batch_size % self.micro_batch == 0
        self.require("micro_batch", fits, f"train.batch_size = {self.batch_size} must be a multiple of it")


_GIVE = {  # what a user gives for a field that a recipe leaves open
    "data.path": "the folder that launch.prepare wrote",
    "init_from": "the run or the file of weights to start from",
}


@dataclasses.dataclass
class Config(Settings):
    """Describes a whole run."""

    name: str = "base"  # of the run, in its log and its figures
    init_from: str = ""  # weights to start from: a run, a CAV-MAE or an image MAE (.pth, .pt, .bin, .safetensors); empty: random ones
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
        for name, size in (("freq", "mel_bins"), ("time", "audio_frames")):
            widest, there = getattr(self.augment, f"specaug_{name}"), getattr(self.model, size)
            if widest > there:
                raise ConfigError(f"augment.specaug_{name} is {widest}, but model.{size} is {there}; change one of them")
