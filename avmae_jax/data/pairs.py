"""Chooses several images of a clip, and places the window of audio that belongs to each.

Axis letters: F images of a clip, T frames of a window, L frames of the whole clip's spectrogram, S samples that fill it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from avmae_jax.config import ModelConfig
from avmae_jax.data.clip import SAMPLE_RATE, Clip, even_times
from avmae_jax.data.fbank import num_samples

_SECONDS = 10.0  # length of a clip of which nothing else is known


def window_starts(times: Sequence[float] | np.ndarray, model: ModelConfig) -> np.ndarray:
    """Computes where the window of each image begins in the spectrogram of its clip.

    The window lies around the image's time, and is moved inside the spectrogram at its ends; so images near an end share a window.

    Args:
      times: seconds from the beginning of the spectrogram, one for each image; any, in any order.
      model: of which window_rate, audio_frames (T) and spectrogram_frames (L) are used. The published rate of 102.4 takes 10 s to be 1024
        frames; frames of 10 ms have a rate of 100.

    Returns:
      int32[F], in [0, L - T].
    """
    position = np.rint(np.asarray(times, np.float64) * model.window_rate)
    last = model.spectrogram_frames - model.audio_frames
    return np.clip(position - model.audio_frames // 2, 0, last).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class PieceImages:
    """Holds images of a piece of a clip: which they are, and when they were taken."""

    start: int  # first sample of the piece
    frames: np.ndarray  # int[F], their numbers in the clip
    times: np.ndarray  # float64[F], seconds from the beginning of the piece

    def take(self, chosen: np.ndarray) -> "PieceImages":
        """Takes some of them, int[K] of their places."""
        return dataclasses.replace(self, frames=self.frames[chosen], times=self.times[chosen])


def all_images(clip: Clip, model: ModelConfig, start: int, count: int) -> PieceImages:
    """Chooses the images that evaluation takes of a piece of a clip: `count` of them, spread evenly.

    Those count whose time lies in the piece, or the one that is nearest to it; where there are fewer, they are repeated evenly. Of one
    image a clip it is the middle one.

    Args:
      clip: what is stored. Without images, times that divide the piece evenly are chosen.
      model: of which spectrogram_frames is used, the length of the piece.
      start: first sample of the piece.
      count: F.
    """
    found = _inside(clip, model, start, count)
    return found.take(_spread(len(found.frames), count))


def draw_images(clip: Clip, model: ModelConfig, rng: np.random.Generator, frames: int, count: int) -> PieceImages:
    """Draws a piece of a clip, and images whose time lies in it, all of them and their windows different as far as there are so many.

    Args:
      clip: what is stored. Audio that fits is taken whole.
      model: of which spectrogram_frames is used, the length of the piece.
      rng: source of the choice.
      frames: F, the images of a clip among which is drawn; those that all_images would take.
      count: how many are drawn.
    """
    samples = num_samples(model.spectrogram_frames)
    spare = len(clip.waveform) - samples
    start = int(rng.integers(spare + 1)) if spare > 0 else 0
    found = _inside(clip, model, start, frames)
    if len(found.times) == 1 and not 0 <= found.times[0] < samples / SAMPLE_RATE:  # the piece moves to the nearest image
        start = int(np.clip(start + round(found.times[0] * SAMPLE_RATE) - samples // 2, 0, max(0, spare)))
        found = _inside(clip, model, start, frames)
    several = found.take(np.unique(_spread(len(found.frames), frames)))
    several = several.take(rng.permutation(len(several.frames)))
    _, first = np.unique(window_starts(several.times, model), return_index=True)
    order = np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(several.frames)), first)])
    return several.take(np.resize(order, count))


def images_at(clip: Clip, model: ModelConfig, start: int, times: np.ndarray) -> PieceImages:
    """Chooses the images of a piece that are nearest to some times, float64[F] seconds from its beginning: an image for each."""
    found = _inside(clip, model, start, len(times))
    return found.take(np.abs(found.times[None] - times[:, None]).argmin(axis=1))


def when_shown(clip: Clip, count: int, seconds: float) -> Clip:
    """Gives the images of a slow film, some of which were taken twice, the moments for which they were taken.

    Args:
      clip: of a medium that was just decoded: `count` images, evenly over so many seconds, or fewer where it ends earlier. One image alone,
        or one that is shown all the time, belongs to all of the audio.
      count: F.
      seconds: length of the clip that they were taken from.
    """
    different = len(set(clip.frame_times))
    if different == 1:
        audible = min(seconds, len(clip.waveform) / SAMPLE_RATE or seconds)
        return clip._replace(frames=clip.frames[:1] * count, frame_times=even_times(count, audible))
    return clip if different == len(clip.frames) else clip._replace(frame_times=even_times(count, seconds)[: len(clip.frames)])


def _spread(there: int, count: int) -> np.ndarray:
    """Returns int[count], places among `there`, evenly from the first one on; of one place the middle one."""
    return np.array([there // 2]) if count == 1 else np.arange(count) * there // count


def _inside(clip: Clip, model: ModelConfig, start: int, count: int) -> PieceImages:
    """Finds the images whose time lies in a piece, or the one that is nearest to its centre; all, where the audio isn't cut.

    A clip without images gets `count` times without one; of one time it is the middle, where the middle image would be.
    """
    samples = num_samples(model.spectrogram_frames)
    cut = len(clip.waveform) > samples
    seconds = len(clip.waveform) / SAMPLE_RATE or _SECONDS
    if not clip.frames:
        length = samples / SAMPLE_RATE if cut else seconds
        return PieceImages(start, np.zeros(count, int), np.array([length / 2] if count == 1 else even_times(count, length)))
    known = len(clip.frame_times) == len(clip.frames)
    times = np.array(clip.frame_times if known else even_times(len(clip.frames), seconds)) - start / SAMPLE_RATE
    length = samples / SAMPLE_RATE
    chosen = np.flatnonzero((times >= 0) & (times < length)) if cut else np.arange(len(times))
    if not len(chosen):
        chosen = np.array([np.abs(times - length / 2).argmin()])
    return PieceImages(start, chosen, times[chosen])
