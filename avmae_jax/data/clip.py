# pyright: strict
"""Defines the one form in which every source hands over an example."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from avmae_jax.config import Modality

SAMPLE_RATE = 16_000  # Hz; all audio is resampled to this rate when it is decoded


class Clip(NamedTuple):
    """Holds a stored clip, before anything random is done to it. Audio or image frames may be missing, never both."""

    id: str  # unique in its data set
    waveform: npt.NDArray[Any]  # int16[N], mono at 16 kHz; N = 0: no audio
    frames: tuple[bytes, ...]  # encoded JPEGs in order of time: as many as the recipe says, fewer of a short rest, 1 of an image file
    labels: tuple[int, ...]  # indices into the source's label_names; empty where there are none
    video: str = ""  # what the clip was cut from: clips of one video are never in two splits; empty: the id says it
    start: float = 0.0  # seconds into the video
    frame_times: tuple[float, ...] = ()  # seconds from the beginning of the clip, one for each frame; empty: unknown
    channel: int = 0  # the file's audio channel that was taken; above 0 where those before it are silent. Known while decoding; not stored
    beyond: float = 0.0  # seconds of the file behind its first clip, by its header. Known while decoding; not stored

    @property
    def modality(self) -> Modality:
        """Returns what the clip has."""
        return "both" if len(self.waveform) and self.frames else "audio" if len(self.waveform) else "image"

    @property
    def middle(self) -> int:
        """Returns the index of the middle frame, which evaluation takes: n // 2 of n."""
        return len(self.frames) // 2


def even_times(count: int, seconds: float) -> tuple[float, ...]:
    """Returns the times of frames that divide a clip evenly, the first at its beginning: i * seconds / count."""
    return tuple(index * seconds / count for index in range(count))


class ClipSource(Protocol):
    """Gives clips by index, as grain's RandomAccessDataSource wants them."""

    label_names: Sequence[str]

    def __len__(self) -> int:
        """Returns the number of clips."""
        ...

    def __getitem__(self, index: int) -> Clip:
        """Returns the clip at an index in [0, len)."""
        ...
