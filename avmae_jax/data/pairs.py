"""Places the window of audio that belongs to each image of a clip.

Axis letters: F images of a clip, T frames of a window, L frames of the whole clip's spectrogram.
"""

from collections.abc import Sequence

import numpy as np

from avmae_jax.config import ModelConfig


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
