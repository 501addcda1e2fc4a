"""Defines the settings of a model: its kind, sizes, positions and masking."""

import dataclasses
from typing import Literal, NamedTuple, get_args

from avmae_jax.errors import ConfigError
from avmae_jax.settings import Settings

MaskMode = Literal["unstructured", "time", "freq", "tf"]
Modality = Literal["both", "audio", "image"]
HeadPool = Literal["mean", "mean_std", "attentive"]
PairPool = Literal["mean", "global", "late"]


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

    kind: str = "cavmae"  # cavmae | sync | mae | cavmae_classifier | late_classifier | sync_classifier | ast: a row of models/registry.py
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
    class_token: bool = False  # mae, sync: add a token that belongs to no patch; that of sync, one a modality, is what is contrasted
    registers: int = 0  # sync: learned tokens a modality that only its separate blocks see
    contrast_depth: int = 0  # sync: further blocks a modality between the joint blocks and the contrastive loss
    audio_frames: int = 1024  # T, 10 ms each; divisible by patch
    clip_frames: int = 0  # sync: frames of a whole clip's spectrogram, of which each image sees audio_frames; 0: audio_frames
    window_rate: float = 100.0  # sync: spectrogram frames a second of an image's time, to place its window; the published 102.4 stretches
    mel_bins: int = 128  # M; divisible by patch
    image_size: int = 224  # H = W in pixels; divisible by patch
    patch: int = 16  # P, side of a square patch in both modalities
    learned_positions: bool = False  # True: train the positions, starting from sin-cos; False: keep sin-cos
    audio_mask_ratio: float = 0.75  # share of audio patches hidden, in [0, 1)
    image_mask_ratio: float = 0.75  # share of image patches hidden, in [0, 1)
    contrast_mask_ratio: float = 0.5  # share of the patches of both modalities hidden in the pass of loss.contrast_pass, in [0, 1)
    audio_mask_mode: str = "unstructured"  # unstructured | time | freq | tf
    unchained_contrastive: bool = False  # True: like the official code, apply only the last joint block to the contrastive streams
    drop_path: float = 0.0  # training: share of clips that skip the encoder's last block, in [0, 1); earlier blocks are skipped less
    head_pool: str = "mean"  # mean | mean_std | attentive: what a CAV-MAE classifier's head takes of the tokens; the published one is mean
    patch_dropout: float = 0.0  # training of a CAV-MAE classifier: share of the patches that are left out of each clip, in [0, 1)
    image_factor: float = 1.0  # late_classifier: what the image's logits are multiplied with before they are added to the audio's
    pair_pool: str = "mean"  # sync_classifier: mean | global | late: what stands for a pair of image and window (models/sync_classifier.py)
    pair_depth: int = 2  # sync_classifier: blocks over a clip's pairs; 0: each pair is classified by itself, and the logits are averaged
    head_dropout: float = 0.0  # training of a classifier: share of the values that its last layer is given and that are set to 0, in [0, 1)
    remat: bool = False  # recompute blocks in the backward pass: less memory, more time; False: where a batch needs it
    compute_dtype: str = "auto"  # of training: float32 | bfloat16 | auto, bfloat16 where GPU or TPU has it; parameters, losses: float32

    @property
    def shape(self) -> Size:
        """Returns the row of SIZES with this config's replacements; raises ConfigError for an unknown size."""
        self.require_choice("size", SIZES)
        replaced = {name: getattr(self, name) for name in Size._fields if getattr(self, name) is not None}
        return SIZES[self.size]._replace(**replaced)

    @property
    def spectrogram_frames(self) -> int:
        """Returns the frames of the log-mel that is computed of a clip: those of the model's input, or more where windows are cut."""
        return self.clip_frames or self.audio_frames

    @property
    def product_dtype(self) -> str:
        """Returns the dtype of matrix products; that of "auto" is float32 until a run has decided what its devices have."""
        return "float32" if self.compute_dtype == "auto" else self.compute_dtype

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
        shape = self.shape
        sizes = {**shape._asdict(), "patch": self.patch, "mlp_ratio": self.mlp_ratio, "norm_eps": self.norm_eps}
        for name, value in sizes.items():
            if value < 0 or (value == 0 and name != "decoder_depth"):
                raise ConfigError(f"model.{name} is {value}; it must be positive")
        for name in ("audio_frames", "mel_bins", "image_size"):
            size = getattr(self, name)
            self.require(name, size > 0 and size % self.patch == 0, f"it must be a positive multiple of model.patch = {self.patch}")
        longer = self.spectrogram_frames >= self.audio_frames
        self.require("clip_frames", longer, f"a clip holds windows of model.audio_frames = {self.audio_frames}; give at least these, or 0")
        self.require_positive("window_rate")
        self.require_not_negative("registers", "contrast_depth", "pair_depth")
        self.require_choice("pair_pool", get_args(PairPool))
        self.require_share("contrast_mask_ratio", one=False)
        self.require_share("audio_mask_ratio", "image_mask_ratio", "drop_path", "patch_dropout", "head_dropout", one=False)
        self.require_not_negative("image_factor")
        self.require_choice("head_pool", get_args(HeadPool))
        self.require_choice("audio_mask_mode", get_args(MaskMode))
        for name in ("", "decoder_"):
            width, heads = getattr(shape, f"{name}width"), getattr(shape, f"{name}heads")
            if width % heads:
                raise ConfigError(f"model.{name}width is {width}; it must be a multiple of model.{name}heads = {heads}")
            if width % 4:
                raise ConfigError(f"model.{name}width is {width}; 2-D sin-cos positions need a multiple of 4")
        self.require("joint_depth", 1 <= self.joint_depth <= shape.depth, f"it must be between 1 and the depth {shape.depth}")
        self.require_choice("compute_dtype", ("auto", "float32", "bfloat16"))
