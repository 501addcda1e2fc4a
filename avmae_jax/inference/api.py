"""predict and embed: one call for one medium, a file or arrays.

A model that is given as load_trained's result is compiled once for each kind of question; a path is loaded and compiled anew by each call.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from avmae_jax.data.batches import Frames
from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.inference.predict import Embedder, Embedding, Prediction, Predictor, open_matcher
from avmae_jax.inference.windows import Medium, of_file, of_parts
from avmae_jax.models.classifier import Mode
from avmae_jax.weights.trained import Trained, load_trained


def predict(
    model: str | Path | Trained,
    media: str | Path | None = None,
    *,
    audio: np.ndarray | str | Path | None = None,
    image: np.ndarray | str | Path | None = None,
    rate: int = SAMPLE_RATE,
    top: int = 5,
    frames: Frames = "middle",
    mode: Mode | None = None,
    timeline: bool = False,
    match_with: str | Path | Trained | None = None,
) -> Prediction:
    """The classes of one medium of any length, and whether its sound belongs to its picture.

    Args:
      model: what load_trained gives, which may be asked often, or the path of one. A pretraining model has no classes, but a match.
      media: path of a video, a sound or a picture; or give the two apart:
      audio: float32[N] in [-1, 1] or int16[N], one channel; or the path of a file with sound.
      image: uint8[H, W, 3], red, green, blue; or the path of a JPEG or PNG. With a sound it belongs to every window of it.
      rate: Hz of the array.
      top: how many classes are named.
      frames: the middle frame of each window, the "first" one, or "all" ten, averaged.
      mode: how the classifier is asked, see CAVMAEClassifier; None: by what the medium has and what the model was tuned on.
      timeline: the probabilities of each second as well: those of the window around it.
      match_with: the model for the match, a pretraining checkpoint: tuning needn't keep what contrastive learning has brought together.

    Raises:
      ValueError: if nothing or too much is given, an array isn't as said, or the model can't do what is asked for.
      ClipError: if a file can't be read, or lacks what the model needs.
      WeightsError: if a model can't be read.
    """
    medium, opened = _medium(media, audio, image, rate), _opened(model)
    matcher = None if match_with is None else open_matcher(opened, match_with)
    kept = isinstance(model, Trained) and isinstance(match_with, Trained | None)
    return (_predictor if kept else _predictor.__wrapped__)(opened, matcher, mode).one(medium, top=top, frames=frames, timeline=timeline)


def embed(
    model: str | Path | Trained,
    media: str | Path | None = None,
    *,
    audio: np.ndarray | str | Path | None = None,
    image: np.ndarray | str | Path | None = None,
    rate: int = SAMPLE_RATE,
    frames: Frames = "middle",
) -> Embedding:
    """Vectors of one medium, for search and for classifiers of one's own; see predict, which has the arguments and the errors."""
    medium, opened = _medium(media, audio, image, rate), _opened(model)
    return (_embedder if isinstance(model, Trained) else _embedder.__wrapped__)(opened)(medium, frames)


@functools.lru_cache(maxsize=4)  # compiled functions of the models that were asked last
def _predictor(model: Trained, match_with: Trained | None, mode: Mode | None) -> Predictor:
    return Predictor(model, match_with=match_with, mode=mode)


@functools.lru_cache(maxsize=4)
def _embedder(model: Trained) -> Embedder:
    return Embedder(model)


def _opened(model: str | Path | Trained) -> Trained:
    return model if isinstance(model, Trained) else load_trained(model)


def _medium(media: str | Path | None, audio: Any, image: Any, rate: int) -> Medium:
    if media is None:
        return of_parts(audio, image, rate)
    if audio is not None or image is not None:
        raise ValueError("give a media file, or audio and image, not both")
    if not isinstance(media, str | Path):
        raise ValueError(f"media is a {type(media).__name__}; give the path of a file here, and arrays as audio and image")
    return of_file(media)
