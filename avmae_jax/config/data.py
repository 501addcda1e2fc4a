"""Defines the settings of the data: which clips are read, and how training examples are changed at random."""

import dataclasses
import math
from typing import Literal, get_args

from avmae_jax.settings import Settings

AUDIO_MEAN, AUDIO_STD = -5.081, 4.4849  # of the log-mel, the original's; used where neither the config nor the data set has them

Channels = Literal["first", "mean"]  # the first audio channel that isn't silent, or the mean of all
Fill = Literal["zeros", "repeat"]  # what audio that is too short is filled up with
Normalise = Literal["dataset", "clip"]  # by the mean and deviation of the data set, or by each clip's own
Frames = Literal["first", "middle", "all"]  # which of a clip's frames evaluation uses


@dataclasses.dataclass
class ReadConfig(Settings, group="data"):
    """Configures how clips are read, whichever these are."""

    frames: int = 0  # sync: frames of a clip, each with the audio around it; 0: as many as the data set was prepared with
    threads: int = 4  # reader threads a process
    prefetch: int = 4  # batches read ahead
    normalise: str = "dataset"  # dataset | clip: the log-mel by the two values below, or by each clip's own mean and deviation
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


@dataclasses.dataclass
class DataConfig(ReadConfig, group="data"):
    """Names the clips of a run and configures how they are read."""

    source: str = "builtin"  # builtin | prepared | manifest: a generated set of instruments, a folder by launch.prepare, or JSON files
    path: str = ""  # prepared: the folder written by launch.prepare; manifest: the JSON file of the training clips
    eval_path: str = ""  # manifest only: the JSON file of the held-out clips; empty: no evaluation
    labels_csv: str = ""  # manifest only: CSV with the columns index,mid,display_name
    root: str = ""  # manifest only: folder that all paths of the manifest must lie in; empty: the manifest's own folder
    cache_dir: str = "~/.cache/avmae_jax"  # folder in which the built-in set is generated
    builtin_train: int = 1000  # training clips of the built-in set
    builtin_test: int = 200  # held-out clips of the built-in set
    builtin_seconds: float = 10.0  # length of a built-in clip
    builtin_frames: int = 10  # frames of a built-in clip
    builtin_image_size: int = 224  # pixels a side of a built-in frame
    builtin_seed: int = 1  # each seed generates another set; 0 is the one that was viewed while the set was designed
    labelled_per_class: int = 0  # fine-tuning: use the clips of so many videos of each class, drawn at random; 0: all
    labelled_seed: int = 0  # of that draw; with the same seed, fewer videos are among more
    pairs_per_clip: int = 1  # sync: pairs of a frame and its audio that training draws of a clip
    workers: int = 0  # reader processes; 0: threads in this process
    max_damaged: float = 10  # damaged clips, or below 1 their share, that each reader process reports and skips before it stops; 0: none

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_choice("source", ("builtin", "prepared", "manifest"))
        self.require("channels", self.channels in (None, *get_args(Channels)), f"choose one of {', '.join(get_args(Channels))}")
        self.require_choice("normalise", get_args(Normalise))
        what = "the folder that launch.prepare wrote" if self.source == "prepared" else "the JSON manifest of the training clips"
        self.require("path", self.source == "builtin" or bool(self.path), f"with data.source={self.source} give {what}")
        named = self.source != "manifest" or bool(self.labels_csv)
        self.require("labels_csv", named, "give the CSV with the columns index,mid,display_name")
        self.require_positive("builtin_train", "builtin_test", "builtin_seconds", "builtin_image_size", "threads")
        self.require_positive("builtin_frames", "pairs_per_clip")
        self.require_not_negative("frames", "builtin_seed", "labelled_per_class", "labelled_seed", "workers", "prefetch", "max_damaged")
        drawn = self.source != "builtin" or self.frames <= self.builtin_frames
        self.require("frames", drawn, f"data.builtin_frames is {self.builtin_frames}; give as many to both, or data.frames=0")
        self.require("max_damaged", self.max_damaged < 1 or float(self.max_damaged).is_integer(), "give a number, or a share below 1")
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
    gain: float = 0.0  # dB by which the level of a clip's audio is changed, at most, up or down
    equaliser: float = 0.0  # dB by which a smooth curve over the mel bins changes them, at most, up or down
    mel_shift: float = 0.0  # mel bins by which a clip's spectrogram is moved, at most, up or down, as another pitch would
    noise_floor: float = 0.0  # add noise that lies this many dB below a clip's mean power, or up to 30 dB lower still; 0: off
    brightness: float = 0.0  # share by which an image is made brighter or darker, at most, in [0, 1]
    contrast: float = 0.0  # share by which an image's contrast is raised or lowered, at most, in [0, 1]
    saturation: float = 0.0  # share by which an image's colours are made stronger or weaker, at most, in [0, 1]
    hue: float = 0.0  # share of a full turn of the colour circle by which an image's hues are turned, at most, in [0, 0.5]
    cutout: float = 0.0  # share of an image's area that one random rectangle hides, in [0, 1)

    @property
    def changes_audio(self) -> bool:
        """Returns whether the device changes spectrograms at random."""
        return any((self.specaug_freq, self.specaug_time, self.noise, self.gain, self.equaliser, self.mel_shift, self.noise_floor))

    @property
    def changes_images(self) -> bool:
        """Returns whether the device changes images at random."""
        return any((self.brightness, self.contrast, self.saturation, self.hue, self.cutout))

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_not_negative("specaug_freq", "specaug_time", "gain", "equaliser", "mel_shift", "noise_floor")
        self.require_share("brightness", "contrast", "saturation")
        self.require("hue", 0 <= self.hue <= 0.5, "it must lie in [0, 0.5]")
        self.require_share("cutout", one=False)
        self.require("crop_area", 0 < self.crop_area <= 1, "it must lie in (0, 1]")
        self.require_share("mixup")
        self.require_positive("mixup_alpha")
        self.require_share("label_smoothing", one=False)
