"""Makes the row of a batch from a clip: one of its frames or several, with all of its audio or a window around each frame.

Axis letters: F frames of a row, S samples, H W image.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from avmae_jax.config import Fill
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.decode.images import decode_image

Audio = Literal["whole", "per_frame"]


def example(
    clip: Clip,
    frames: int | Sequence[int],
    *,
    samples: int,
    image_size: int,
    needs: str = "both",
    audio: Audio = "whole",
    start: int = 0,
    fill: Fill = "zeros",
    decode: Callable[[bytes, int], np.ndarray] = decode_image,
) -> dict[str, Any]:
    """Decodes a clip and one or several of its frames: a row of a batch.

    Args:
      clip: what is stored.
      frames: the index of a frame, or the indices of F frames, which give arrays with a leading axis F.
      samples: S; a longer waveform is cut, a shorter one filled up.
      image_size: H = W.
      needs: config.Modality: what the row carries.
      audio: "whole": one waveform for the clip; "per_frame": for each frame the window of S samples around its time, centred there, moved
        inside the clip at its ends, and filled up only where the clip is shorter.
      start: the first sample taken of the whole waveform.
      fill: what a waveform that is too short is filled up with: zeros, or its own beginning, over and over.
      decode: encoded image, side -> uint8[side, side, 3].

    Raises:
      ValueError: naming the clip, if it lacks what is needed or an image is damaged; nothing is ever replaced by constants.
    """
    made: dict[str, Any] = {"id": clip.id}
    if needs != "image":
        _require(clip, "audio", len(clip.waveform))
        starts = _window_starts(clip, frames, samples) if audio == "per_frame" else start
        made["waveform"], made["samples"] = _for_each(starts, partial(_window, clip.waveform, samples=samples, fill=fill))
    if needs != "audio":
        _require(clip, "image", len(clip.frames))
        (made["image"],) = _for_each(frames, lambda frame: (_decoded(clip, frame, image_size, decode),))
    return made


def _for_each(chosen: int | Sequence[int], make: Callable[[int], tuple[Any, ...]]) -> tuple[Any, ...]:
    """Makes the arrays of one index, or stacks those of several."""
    if isinstance(chosen, int | np.integer):
        return make(int(chosen))
    return tuple(np.stack(parts) for parts in zip(*map(make, chosen), strict=True))


def _window(waveform: np.ndarray, start: int, *, samples: int, fill: Fill) -> tuple[np.ndarray, np.int32]:
    """Takes int16[samples] from `start` on, filled up, and how many of them aren't filling zeros."""
    taken = waveform[start : start + samples]
    if fill == "repeat":
        return np.resize(taken, samples), np.int32(samples)
    window = np.zeros(samples, np.int16)
    window[: len(taken)] = taken
    return window, np.int32(len(taken))


def _window_starts(clip: Clip, frames: int | Sequence[int], samples: int) -> Any:
    """Finds the first sample of the window around each frame."""
    _require(clip, "image", len(clip.frames))
    if len(clip.frame_times) != len(clip.frames):
        raise ValueError(
            f"clip {clip.id} has {len(clip.frames)} frames, but {len(clip.frame_times)} frame_times; audio='per_frame' needs both"
        )
    last = max(0, len(clip.waveform) - samples)

    def start(frame: int) -> int:
        return min(max(0, round(clip.frame_times[frame] * SAMPLE_RATE) - samples // 2), last)

    return start(frames) if isinstance(frames, int | np.integer) else [start(frame) for frame in frames]


def _decoded(clip: Clip, frame: int, size: int, decode: Callable[[bytes, int], np.ndarray]) -> np.ndarray:
    try:
        return decode(clip.frames[frame], size)
    except ValueError as error:
        raise ValueError(f"clip {clip.id}, frame {frame}: {error}; prepare the clip again or leave it out") from error


def _require(clip: Clip, what: str, there: int) -> None:
    if not there:
        raise ValueError(f"clip {clip.id} has no {what}, which the model needs; choose clips by what they have, or another model.modality")
