"""Every setting of a run, typed, with a comment on each field.

A file in `configs/` returns one `Config` from `get_config()`; any field can be set on the command line, for example
`--config configs/base.py --config.train.batch_size=4`. Values derived from others are properties, never fields, so that an override can't
leave them stale. An unknown field or a value of a wrong type is refused by the flag parser.

The recipe's numbers are those of Gong et al., arXiv 2210.07839.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

MaskMode = Literal["unstructured", "time", "freq", "tf"]
Modality = Literal["both", "audio", "image"]


class Size(NamedTuple):
    """One row of the table of model sizes; the decoder is sized separately, as in He et al., arXiv 2111.06377."""

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
class ModelConfig:
    """What is built: sizes, positions, masking."""

    kind: str = "cavmae"  # cavmae | cavmae_classifier | mae | ast: a row of models/registry.py
    modality: str = "both"  # both | audio | image: which modalities the model has; mae takes one of them, ast audio
    size: str = "base"  # a row of SIZES; the six fields below replace single values of that row
    depth: int | None = None  # encoder blocks a token goes through, joint ones included
    width: int | None = None  # D, channels of a token in the encoder
    heads: int | None = None  # attention heads in the encoder
    decoder_depth: int | None = None  # decoder blocks
    decoder_width: int | None = None  # channels of a token in the decoder
    decoder_heads: int | None = None  # attention heads in the decoder
    joint_depth: int = 1  # how many of the `depth` blocks see both modalities; without meaning for one modality
    mlp_ratio: float = 4.0  # hidden width of the MLP over the width of its block
    norm_eps: float = 1e-5  # epsilon of every LayerNorm: the original's; ViT, MAE and AST have 1e-6 or 1e-12
    class_token: bool = False  # one modality only: a token that belongs to no patch, as MAE for images has it
    audio_frames: int = 1024  # T, 10 ms each; divisible by patch
    mel_bins: int = 128  # M; divisible by patch
    image_size: int = 224  # H = W in pixels; divisible by patch
    patch: int = 16  # P, side of a square patch in both modalities
    learned_positions: bool = False  # False: positions stay sin-cos; True: they are trained from that start
    audio_mask_ratio: float = 0.75  # share of audio patches hidden, in [0, 1)
    image_mask_ratio: float = 0.75  # share of image patches hidden, in [0, 1)
    audio_mask_mode: str = "unstructured"  # unstructured | time | freq | tf
    unchained_contrastive: bool = False  # True: as the official code, only the last joint block acts on the contrastive streams
    remat: bool = False  # recompute each block in the backward pass: less memory and more time on accelerators, nothing on a CPU
    compute_dtype: str = "float32"  # float32 | bfloat16; parameters, norms, softmax and losses are always float32

    @property
    def shape(self) -> Size:
        """The row of SIZES with this config's replacements."""
        if self.size not in SIZES:
            raise ValueError(f"model.size is {self.size!r}; choose one of {', '.join(SIZES)}")
        replaced = {name: getattr(self, name) for name in Size._fields if getattr(self, name) is not None}
        return SIZES[self.size]._replace(**replaced)

    def picture(self, modality: str) -> tuple[int, int, int]:
        """(height, width, channels) of what a modality's patches are cut from; for audio (mel bins, frames, 1)."""
        sides = (self.mel_bins, self.audio_frames) if modality == "audio" else (self.image_size, self.image_size)
        return *sides, 1 if modality == "audio" else 3

    def grid(self, modality: str) -> tuple[int, int]:
        """Patches as (rows, columns); for audio (mel rows, time columns)."""
        height, width, _ = self.picture(modality)
        return height // self.patch, width // self.patch

    def validate(self) -> None:
        """Raises ValueError naming the first field that can't work."""
        shape = self.shape
        if self.modality not in get_args(Modality):
            raise ValueError(f"model.modality is {self.modality!r}; choose one of {', '.join(get_args(Modality))}")
        if self.class_token and self.modality == "both":
            raise ValueError("model.class_token is for one modality; set model.modality to audio or image")
        sizes = {**shape._asdict(), "patch": self.patch, "mlp_ratio": self.mlp_ratio, "norm_eps": self.norm_eps}
        for name, value in sizes.items():
            if value < 0 or (value == 0 and name != "decoder_depth"):
                raise ValueError(f"model.{name} is {value}; it must be positive")
        for name in ("audio_frames", "mel_bins", "image_size"):
            if getattr(self, name) <= 0 or getattr(self, name) % self.patch:
                raise ValueError(f"model.{name} is {getattr(self, name)}; it must be a positive multiple of model.patch = {self.patch}")
        for name in ("audio_mask_ratio", "image_mask_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}; it must lie in [0, 1)")
        if self.audio_mask_mode not in get_args(MaskMode):
            raise ValueError(f"model.audio_mask_mode is {self.audio_mask_mode!r}; choose one of {', '.join(get_args(MaskMode))}")
        for name in ("", "decoder_"):
            width, heads = getattr(shape, f"{name}width"), getattr(shape, f"{name}heads")
            if width % heads:
                raise ValueError(f"model.{name}width is {width}; it must be a multiple of model.{name}heads = {heads}")
            if width % 4:
                raise ValueError(f"model.{name}width is {width}; 2-D sin-cos positions need a multiple of 4")
        if not 1 <= self.joint_depth <= shape.depth:
            raise ValueError(f"model.joint_depth is {self.joint_depth}; it must be between 1 and the depth {shape.depth}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.compute_dtype is {self.compute_dtype!r}; choose float32 or bfloat16")


@dataclasses.dataclass
class LossConfig:
    """How the parts of the pretraining loss are weighed."""

    mae_weight: float = 1.0  # weight of audio + image reconstruction
    contrast_weight: float = 0.01  # weight of the contrastive loss
    temperature: float = 0.05  # fixed temperature of the contrastive softmax
    bidirectional: bool = False  # False: softmax over audio for each image; True: the mean of both directions
    norm_pix: bool = True  # reconstruct patches normalised one by one; inpainting needs False
    negatives: str = "global"  # global | shard: whether negatives come from all devices or from one device's share


_TUNE_CHOICES = {"mode": ("multimodal", "audioonly", "videoonly"), "loss": ("bce", "ce"), "eval_frames": ("middle", "all")}


@dataclasses.dataclass
class TuneConfig:
    """What fine-tuning adds: a classifier on the pretrained encoder. Pretraining doesn't look at it."""

    mode: str = "multimodal"  # multimodal | audioonly | videoonly: what the classifier sees
    loss: str = "bce"  # bce | ce: each class by itself, or one class a clip
    head_lr_ratio: float = 1.0  # how many times as high the head's learning rate is
    freeze_base: bool = False  # train the head alone: a linear probe
    average_first: int = 0  # epochs whose weights are averaged into the run's averaged/: the first one, counted from 1; 0: none ...
    average_last: int = 0  # ... and the last one
    audio_weight: float = 0.0  # of the loss of a multimodal classifier that is given the sound alone, beside that of both ...
    image_weight: float = 0.0  # ... and of the picture alone; the original has neither
    swap_pictures: float = 0.0  # share of a multimodal batch's clips that get another one's picture and keep their label, in [0, 1]
    eval_crops: int = 1  # pieces of a sound longer than the model's whose predictions are averaged; 1: its centre
    eval_frames: str = "middle"  # middle | all: the frame that is looked at, or all of them, averaged

    def validate(self) -> None:
        """Raises ValueError naming the first field that can't work."""
        for name, choices in _TUNE_CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"tune.{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        for name in ("audio_weight", "image_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"tune.{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.swap_pictures <= 1:
            raise ValueError(f"tune.swap_pictures is {self.swap_pictures}; it must lie in [0, 1]")
        for name in ("head_lr_ratio", "eval_crops"):
            if not getattr(self, name) > 0:
                raise ValueError(f"tune.{name} is {getattr(self, name)}; it must be positive")
        if not (0 < self.average_first <= self.average_last or self.average_first == self.average_last == 0):
            raise ValueError(
                f"tune.average_first is {self.average_first} and tune.average_last {self.average_last}; give the first and the last epoch "
                "of the mean, counted from 1, or 0 twice for none"
            )


@dataclasses.dataclass
class OptimConfig:
    """Adam with L2 inside the gradient and a step-wise schedule."""

    learning_rate: float = 5e-5
    weight_decay: float = 5e-7  # L2 added to the gradient before the moments; this is not AdamW
    beta1: float = 0.95
    beta2: float = 0.999
    eps: float = 1e-8
    decay_start: int = 10  # the rate is multiplied by `decay_rate` after this many epochs ...
    decay_every: int = 5  # ... and again after every this many
    decay_rate: float = 0.5


@dataclasses.dataclass
class DataConfig:
    """Where clips come from and how they are read."""

    source: str = "builtin"  # builtin | prepared | manifest
    path: str = ""  # prepared: the folder written by launch.prepare; manifest: the JSON file
    eval_path: str = ""  # manifest only: the JSON file of the held-out clips; empty: no evaluation
    labels_csv: str = ""  # manifest only: CSV with the columns index,mid,display_name
    root: str = ""  # manifest only: folder that all paths of the manifest must lie in; empty: the manifest's own folder
    cache_dir: str = "~/.cache/avmae_jax"  # where the built-in set is generated
    builtin_train: int = 1000  # training clips of the built-in set
    builtin_test: int = 200  # held-out clips of the built-in set
    builtin_seconds: float = 10.0  # length of a built-in clip
    builtin_image_size: int = 224  # pixels a side of a built-in frame
    builtin_seed: int = 1  # another seed, another set; 0 is the one that was looked at while the set was designed
    workers: int = 0  # reader processes; 0: threads in this process
    threads: int = 4  # reader threads a process
    prefetch: int = 4  # batches made ahead
    max_damaged: int = 10  # damaged clips that are named and passed over, in each reader process, before the run stops; 0: none
    audio_mean: float = -5.081  # of the log-mel; the spectrogram becomes (x - mean) / std
    audio_std: float = 4.4849


@dataclasses.dataclass
class AugmentConfig:
    """What training does to examples at random; evaluation never does. All off, as in the original's pretraining."""

    specaug_freq: int = 0  # F: a band of fewer than F mel bins is set to zero before normalisation; 0: off
    specaug_time: int = 0  # likewise a span of fewer than so many frames; the original fine-tunes with 48 and 192
    crop_area: float = 1.0  # smallest share of a picture that a random piece of it has, which is then all that is seen; 1: off
    flip: bool = False  # half of the pictures are mirrored; crop_area and flip are not in the original
    noise: bool = False  # noise on the normalised spectrogram, which is then rolled around in time
    mixup: float = 0.0  # share of the clips that are mixed with another one, sound and picture alike; in [0, 1]
    mixup_alpha: float = 10.0  # the first clip's weight in a mixture is drawn from Beta(alpha, alpha)
    label_smoothing: float = 0.0  # eps of the targets, in [0, 1); without meaning where there are none
    balanced: bool = False  # clips of rare classes are drawn more often, by the weights stored with the data set

    def validate(self) -> None:
        """Raises ValueError naming the first field that can't work."""
        for name in ("specaug_freq", "specaug_time"):
            if getattr(self, name) < 0:
                raise ValueError(f"augment.{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.crop_area <= 1:
            raise ValueError(f"augment.crop_area is {self.crop_area}; it must lie in (0, 1]")
        if not 0 <= self.mixup <= 1:
            raise ValueError(f"augment.mixup is {self.mixup}; it must lie in [0, 1]")
        if not self.mixup_alpha > 0:
            raise ValueError(f"augment.mixup_alpha is {self.mixup_alpha}; it must be positive")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"augment.label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")


@dataclasses.dataclass
class MeshConfig:
    """How devices are laid out; the product must be the number of devices. -1 takes what is left."""

    data: int = -1  # copies of the model, each with its share of the batch
    fsdp: int = 1  # parameters and moments are cut into this many parts, as is the batch
    tensor: int = 1  # heads and MLP channels are cut into this many parts


@dataclasses.dataclass
class TrainConfig:
    """The loop: how long, how often, where to."""

    workdir: str = "runs/default"  # checkpoints, metrics and pictures of the run; starting again in it resumes
    batch_size: int = 48  # pairs a step, over all devices
    micro_batch: int = 0  # pairs computed at once; 0: as many as fit in memory. Negatives come from one micro-batch
    epochs: float = 25.0  # passes over the training set; may be fractional
    steps: int = 0  # > 0: this many steps, whatever `epochs` says
    seed: int = 0
    log_every: int = 10  # steps between lines of metrics.jsonl
    eval_every: int = 0  # steps between evaluations; 0: after every epoch
    picture_every: int = 0  # steps between reconstruction pictures; 0: with every evaluation
    checkpoint_every: int = 0  # steps between checkpoints; 0: after every epoch
    keep_last: int = 3  # newest checkpoints kept
    keep_every: int = 0  # also keep every checkpoint whose step is a multiple of this; 0: none
    eval_batches: int = 0  # batches of an evaluation; 0: the whole held-out set
    retrieval_clips: int = 200  # held-out clips that the final retrieval is computed on; 0: none


@dataclasses.dataclass
class Config:
    """A whole run."""

    name: str = "base"
    init_from: str = ""  # weights to start from: a run, a CAV-MAE or an image MAE (.pth, .pt, .bin, .safetensors); empty: fresh ones
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an older run, as `dataclasses.asdict` gave it, with the fields that there weren't yet.

    Their defaults stand for what was done before there was a choice; a new field of which that isn't true needs a rule here.
    """
    defaults = dataclasses.asdict(Config())
    groups = {name: {**value, **saved.get(name, {})} for name, value in defaults.items() if isinstance(value, dict)}
    return {**defaults, **saved, **groups}


def older_kind(modality: str, *, classifies: bool) -> str:
    """Derives the kind of a model that was saved before configs had `model.kind`."""
    if modality == "both":
        return "cavmae_classifier" if classifies else "cavmae"
    return "ast" if classifies else "mae"
