"""The one form in which every source hands over an example."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

SAMPLE_RATE = 16_000  # Hz; everything is resampled to this rate when it is decoded
NUM_FRAMES = 10  # frames stored for a clip; evaluation takes the one at index 5


class Clip(NamedTuple):
    """A stored clip, before anything random is done to it."""

    id: str  # unique in its data set
    waveform: np.ndarray  # int16[N], mono at 16 kHz
    frames: tuple[bytes, ...]  # NUM_FRAMES encoded JPEGs in order of time
    labels: tuple[int, ...]  # indices into the source's label_names; empty where there are none


class ClipSource(Protocol):
    """Clips by index, as grain's RandomAccessDataSource wants them."""

    label_names: Sequence[str]

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def __getitem__(self, index: int) -> Clip:
        """The clip at an index in [0, len)."""
        ...
