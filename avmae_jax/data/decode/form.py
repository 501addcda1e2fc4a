"""Defines what a clip of a media file holds."""

import dataclasses
import math
from typing import Literal

from PIL import Image

from avmae_jax.config import Channels

FrameRule = Literal["time", "count"]
Span = Literal["longer", "shorter", "audio", "image"]

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485  # Pillow's own limit, 1/4 GiB of RGB
SPECTROGRAM_WINDOW, _SPECTROGRAM_HOP = 400, 160  # samples; a waveform shorter than the window has no spectrogram
_SPECTROGRAM_FRAMES_PER_SECOND = 102.4  # 1024 for a clip of 10 s


@dataclasses.dataclass(frozen=True)
class ClipForm:
    """Says what a clip of a media file holds, and which files may become one."""

    seconds: float = 10.0  # length of a clip
    frames: int = 10  # stored frames, spread evenly over the clip
    frame_size: int = 224  # side of the stored frames in pixels
    channels: Channels = "first"  # the first audio channel, or the first that isn't silent where it is; "mean": of all
    allow_missing: bool = False  # audio alone or images alone (an image file among them) give clips of one modality
    # Which of audio and images the clips of a long file span; where one may not be missing, that is the shorter one. A file that lacks what
    # is named here is spanned whole, and so is a still.
    spans: Span = "longer"
    max_mismatch: float = math.inf  # seconds by which the ends of audio and video may differ
    frame_rule: FrameRule = "time"  # "count": the original's counting on any file; both agree where the frame rate is constant
    max_pixels: int = MAX_PIXELS  # an image or a video with more pixels is refused before it is decoded


def clip_samples(seconds: float) -> int:
    """Returns how many samples at 16 kHz are kept of a clip: enough to fill its spectrogram.

    A clip of 10 s has 1024 spectrogram frames of 25 ms every 10 ms, which take (1024 - 1) * 160 + 400 = 164080 samples or 10.255 s; 160000
    samples would fill only 998 of them. Other lengths are in proportion.
    """
    return (math.ceil(_SPECTROGRAM_FRAMES_PER_SECOND * seconds) - 1) * _SPECTROGRAM_HOP + SPECTROGRAM_WINDOW


def clip_seconds(spectrogram_frames: int) -> float:
    """Returns the seconds of the clip that fills so many spectrogram frames, the inverse of clip_samples."""
    return spectrogram_frames / _SPECTROGRAM_FRAMES_PER_SECOND
