"""What a trained model says of any media: classes, whether sound and picture belong together, and embeddings.

    media --windows.py--> rows --ahead.py: threads, batches--> outputs of each window --mean over the windows--> result

`Predictor` takes many media, in batches that they share; one_call.py is for a single one.

Axis letters: B batch, L tokens, D width, C classes, S seconds.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast, get_args

import jax
import numpy as np

from avmae_jax.config import Config, Modality
from avmae_jax.data.batches import Frames
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError
from avmae_jax.inference.embed import encoder_of, vectors
from avmae_jax.inference.forward import probabilities
from avmae_jax.inference.stream import Ahead, Found, Shared
from avmae_jax.inference.windows import TIMELINE, WHOLE, Medium, Row, rows_of
from avmae_jax.models.classifier import Mode, final_tokens, modality_of
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.pooling import embedding
from avmae_jax.weights.trained import Trained, load_trained

BATCH = 8  # rows computed at once, at most, unless told otherwise
_THREADS = 2  # that decode
_SPARE = 0.1  # seconds; a sound's last block is often filled up with silence, which begins no new second
_TUNE = "fine-tune it first (launch.finetune with --config.init_from), or give a classifier"
_STAGE = {"audio": ("audio", "sound"), "image": ("video", "pictures")}  # of a ClipError, and in words


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one medium."""

    top: tuple[tuple[str, float], ...]  # the likeliest classes with their probabilities, the first one first; (): the model has none
    probabilities: np.ndarray  # float32[C], the mean over windows
    label_names: tuple[str, ...]  # C
    seen: Modality  # what the medium has
    mode: Mode | None  # how the classifier was asked; None: the model has no classes
    windows: int
    start: float  # seconds at which the window begins that speaks most for the first class, or without classes matches best
    match: float | None  # cosine of sound and picture in [-1, 1], the mean over windows; None where there aren't both
    directions: tuple[np.ndarray, np.ndarray] | None  # sound's and picture's vector behind `match`: float32[D] twice, of length 1
    timeline: np.ndarray | None  # float32[S, C], probabilities of each second, if asked for


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors of one medium, float32[D] of length 1; None for what it doesn't have."""

    audio: np.ndarray | None  # of the sound alone: what the contrastive loss compares ...
    image: np.ndarray | None  # ... with that of the picture
    joint: np.ndarray | None  # of both together
    windows: int


_MISSING: dict[Modality, Mode] = {"both": "multimodal", "audio": "missingaudioonly", "image": "missingvideoonly"}


class Predictor:
    """A classifier, or a pretraining model, on any number of media."""

    def __init__(self, trained: Trained, *, match_with: Trained | None = None, mode: Mode | None = None, batch_size: int = BATCH):
        """See one_call.predict; match_with must take sounds and pictures of the same sizes.

        Raises:
          ValueError: if the model can't do what is asked for.
        """
        config = trained.config
        self.trained, self.matcher = trained, match_with or trained
        self.mode: Mode | None = mode
        self._tuned: Mode = config.tune.mode  # pyright: ignore[reportAttributeAccessIssue]  # checked when it was read
        encoder_of(trained)
        if mode is not None:
            modality_of(mode)
        if mode and not trained.classes:
            raise ValueError(f"{trained.path} has no classes, so there is no mode; {_TUNE}")
        sizes = [(c.audio_frames, c.mel_bins, c.image_size) for c in (config.model, self.matcher.config.model)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{trained.path} takes (frames, mel bins, pixels) {sizes[0]}, {self.matcher.path} {sizes[1]}; they must agree")
        # The parts that tuning on one modality left alone are no match for those that it moved.
        self.matches = match_with is not None or not trained.classes or config.tune.mode == "multimodal"
        self._models = (trained.model, None if match_with is None else match_with.model)
        functions: dict[Modality, Callable[[Any, Any], Any]] = {has: self._function(has) for has in get_args(Modality)}
        self._shared = Shared(functions, batch_size)

    def __call__(
        self, media: Iterable[Medium], *, top: int = 5, frames: Frames = "middle", timeline: bool = False, threads: int = _THREADS
    ) -> Iterator[tuple[int, Prediction | Exception]]:
        """Each medium's number with its prediction, or with the error (see End) that prevents one, as it is finished."""
        if timeline and not self.trained.classes:
            raise ValueError(f"{self.trained.path} has no classes, so there is no timeline of them; {_TUNE}")
        if top < 1:
            raise ValueError(f"top is {top}; it must be at least 1")
        make = functools.partial(self._rows, frames=frames, timeline=timeline)
        for number, series in self._shared(self._models, Ahead(media, make, threads)):
            yield number, series if isinstance(series, Exception) else self._prediction(series, top)

    def one(self, medium: Medium, **options: Any) -> Prediction:
        """The prediction for one medium; see __call__ and one_call.predict."""
        return cast(Prediction, _only(self([medium], **options)))

    def mode_of(self, has: Modality, name: str = "the input") -> Mode | None:
        """How the classifier is asked of a medium that has this; None: it isn't one.

        Raises:
          ClipError: naming the medium, if it lacks what the model needs.
        """
        mode = self.mode or self._tuned
        if self.trained.classes and not self.mode and mode == "multimodal":
            return _MISSING[has]
        needed = modality_of(mode) if self.trained.classes else "both"
        for modality, (stage, word) in _STAGE.items():
            if needed in (modality, "both") and has not in (modality, "both"):
                raise ClipError(name, stage, f"has no {word}, which {self._needing()}")
        return mode if self.trained.classes else None

    def _needing(self) -> str:
        if not self.trained.classes:
            return f"a match needs; the model has no classes: {_TUNE}"
        return f"the mode {self.mode} needs" if self.mode else f"a model tuned {self.trained.config.tune.mode} needs"

    def _rows(self, medium: Medium, number: int, *, frames: Frames, timeline: bool) -> Iterator[Row]:
        for row in rows_of(medium, number, self.trained.config.model, frames=frames, timeline=timeline):
            self.mode_of(row.has, medium.name)
            yield row

    def _function(self, has: Modality) -> Callable[[Any, Any], Any]:
        """What is computed for rows that have this: names to arrays float32[B, ...]."""
        config, match_config = self.trained.config, self.matcher.config

        def outputs(models: Any, batch: Any) -> dict[str, jax.Array]:
            (model, matcher), mode = models, self.mode_of(has)
            matched = self.matches and has == "both"
            tokens = separate(model.encoder, batch, config, has if (matched and matcher is None) or not mode else modality_of(mode))
            found = {}
            if mode:
                pooled = final_tokens(model.encoder, tokens, mode).mean(axis=1)
                found["probabilities"] = probabilities(config, model.head(pooled))
            if matched:
                encoder = model.encoder if matcher is None else matcher.encoder
                tokens = tokens if matcher is None else separate(encoder, batch, match_config, has)
                found |= {name: embedding(encoder.joint(tokens[name], name)) for name in ("audio", "image")}
            return found

        return outputs

    def _prediction(self, series: dict[str, Found], top: int) -> Prediction | Exception:
        windows, names = series[WHOLE], self.trained.label_names
        if broken := [name for name, values in windows.values.items() if not np.isfinite(values).all()]:
            return ValueError(f"the model gives {' and '.join(broken)} that aren't finite; its weights are damaged")
        scores = windows.values.get("probabilities", np.zeros((len(windows.starts), 0), np.float32))
        means = scores.mean(axis=0)
        order = np.argsort(-means, kind="stable")[:top]
        match, directions, cosines = None, None, np.zeros(len(windows.starts))
        if "audio" in windows.values:
            cosines = (windows.values["audio"] * windows.values["image"]).sum(axis=1)
            match, directions = float(cosines.mean()), (_direction(windows.values["audio"]), _direction(windows.values["image"]))
        speaks = scores[:, order[0]] if len(order) else cosines
        return Prediction(
            top=tuple((names[label], float(means[label])) for label in order),
            probabilities=means,
            label_names=names,
            seen=windows.has,
            mode=self.mode_of(windows.has),
            windows=len(windows.starts),
            start=float(windows.starts[np.argmax(speaks)]),
            match=match,
            directions=directions,
            timeline=by_second(series[TIMELINE]) if TIMELINE in series else None,
        )


class Embedder:
    """The vectors of media, one at a time."""

    def __init__(self, trained: Trained):
        """Raises ValueError if the model is no CAV-MAE or classifier."""
        encoder_of(trained)
        config = trained.config
        self.trained = trained

        def outputs(model: Any, batch: Any) -> dict[str, jax.Array]:
            return vectors(model.encoder, *model_inputs(batch, config))

        self._shared = Shared(dict.fromkeys(get_args(Modality), outputs), BATCH)

    def __call__(self, medium: Medium, frames: Frames = "middle") -> Embedding:
        """See one_call.embed."""
        make = functools.partial(rows_of, model=self.trained.config.model, frames=frames, timeline=False)
        windows = _only(self._shared(self.trained.model, Ahead([medium], make, _THREADS)))[WHOLE]
        values = {name: _direction(rows) for name, rows in windows.values.items()}
        return Embedding(values.get("audio"), values.get("image"), values.get("joint"), len(windows.starts))


def separate(encoder: Encoder, batch: Any, config: Config, needs: Modality) -> dict[str, jax.Array]:
    """A batch of data/batches.py -> the tokens [B, L, D] of each modality that is needed, before the joint blocks."""
    inputs = dict(zip(("audio", "image"), model_inputs(batch, config), strict=True))
    return {name: encoder.separate(name, values) for name, values in inputs.items() if needs in (name, "both")}


def by_second(found: Found) -> np.ndarray:
    """The timeline: for second t the probabilities of the window whose centre is nearest to t + 0.5, float32[S, C].

    A window that the medium's end cuts short has its centre in the middle of what there is of it.
    """
    centres = found.starts + found.seconds / 2
    seconds = max(1, math.ceil(float((found.starts + found.seconds).max()) - _SPARE))
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, np.arange(seconds) + 0.5)
    return found.values["probabilities"][nearest]


def open_matcher(trained: Trained, match_with: str | Path | Trained, **sizes: Any) -> Trained:
    """The model for the match, for sounds as long as the other model's; see load_trained, which has the sizes and the errors."""
    if isinstance(match_with, Trained):
        return match_with
    return load_trained(match_with, audio_frames=trained.config.model.audio_frames, **sizes)


def _only(results: Iterator[tuple[int, Any]]) -> Any:
    ((_, result),) = results
    if isinstance(result, Exception):
        raise result
    return result


def _direction(vectors: np.ndarray) -> np.ndarray:
    """The mean over windows, of length 1: float32[n, D] -> float32[D]."""
    mean = vectors.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), float(np.finfo(np.float32).tiny))
