"""The one form in which every source hands over an example."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from avmae_jax.config import Modality

SAMPLE_RATE = 16_000  # Hz; everything is resampled to this rate when it is decoded
NUM_FRAMES = 10  # frames stored for a clip; evaluation takes the one at index 5


class Clip(NamedTuple):
    """A stored clip, before anything random is done to it. One of sound and pictures may be missing, never both."""

    id: str  # unique in its data set
    waveform: np.ndarray  # int16[N], mono at 16 kHz; N = 0: no sound
    frames: tuple[bytes, ...]  # encoded JPEGs in order of time: NUM_FRAMES of a video, fewer of a short rest or a picture, none of a sound
    labels: tuple[int, ...]  # indices into the source's label_names; empty where there are none
    video: str = ""  # what the clip was cut from: clips of one video never stand in two splits; empty: the id says it
    start: float = 0.0  # seconds into the video

    @property
    def modality(self) -> Modality:
        """What the clip has."""
        return "both" if len(self.waveform) and self.frames else "audio" if len(self.waveform) else "image"


class ClipSource(Protocol):
    """Clips by index, as grain's RandomAccessDataSource wants them."""

    label_names: Sequence[str]

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def __getitem__(self, index: int) -> Clip:
        """The clip at an index in [0, len)."""
        ...
