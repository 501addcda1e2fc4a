"""Makes the row of a batch from a clip: one of its frames or several, with its audio or a piece of it.

Axis letters: F frames of a row, S samples, H W image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from avmae_jax.config import Fill
from avmae_jax.data.clip import Clip
from avmae_jax.data.decode.images import decode_image


def example(
    clip: Clip,
    frames: int | Sequence[int],
    *,
    samples: int,
    image_size: int,
    needs: str = "both",
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
      start: the first sample taken of the waveform.
      fill: what a waveform that is too short is filled up with: zeros, or its own beginning, over and over.
      decode: encoded image, side -> uint8[side, side, 3].

    Raises:
      ValueError: naming the clip, if it lacks what is needed or an image is damaged; nothing is ever replaced by constants.
    """
    made: dict[str, Any] = {"id": clip.id}
    if needs != "image":
        _require(clip, "audio", len(clip.waveform))
        made["waveform"], made["samples"] = _piece(clip.waveform, start, samples, fill)
    if needs != "audio":
        _require(clip, "image", len(clip.frames))
        several = [frames] if isinstance(frames, int | np.integer) else frames
        images = np.stack([_decoded(clip, frame, image_size, decode) for frame in several])
        made["image"] = images[0] if several is not frames else images
    return made


def _piece(waveform: np.ndarray, start: int, samples: int, fill: Fill) -> tuple[np.ndarray, np.int32]:
    """Takes int16[samples] from `start` on, filled up, and how many of them aren't filling zeros."""
    taken = waveform[start : start + samples]
    if fill == "repeat":
        return np.resize(taken, samples), np.int32(samples)
    piece = np.zeros(samples, np.int16)
    piece[: len(taken)] = taken
    return piece, np.int32(len(taken))


def _decoded(clip: Clip, frame: int, size: int, decode: Callable[[bytes, int], np.ndarray]) -> np.ndarray:
    try:
        return decode(clip.frames[frame], size)
    except ValueError as error:
        raise ValueError(f"clip {clip.id}, frame {frame}: {error}; prepare the clip again or leave it out") from error


def _require(clip: Clip, what: str, there: int) -> None:
    if not there:
        raise ValueError(f"clip {clip.id} has no {what}, which the model needs; choose clips by what they have, or another model.modality")
