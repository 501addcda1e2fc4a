"""Predicts the classes of media files and arrays, and whether audio and image belong together.

    media --windows.py--> rows --stream.py: threads, batches--> outputs of each window --mean over the windows--> result

`Predictor` takes many media, in batches that they share; api.py is the public call for one or several.

Axis letters: B batch, L tokens, D width, C classes, S seconds.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast, get_args

import jax
import numpy as np

from avmae_jax.config import Fill, Frames, Modality
from avmae_jax.data.decode.form import Span
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError
from avmae_jax.inference.forward import probabilities
from avmae_jax.inference.stream import Ahead, Series, Shared
from avmae_jax.inference.windows import FILL, TIMELINE, WHOLE, Medium, Row, rows_of
from avmae_jax.models.modes import Mode, find_mode
from avmae_jax.models.pairs import side_by_side
from avmae_jax.weights.calibration import of_mode, to_json
from avmae_jax.weights.trained import Trained, load_trained, require_match

UNSURE = "unsure"  # the answer where no class is probable enough
BATCH = 8  # rows computed at once, at most, unless given
_THREADS = 2  # that decode
_SPARE = 0.1  # seconds; the last block of an audio stream is often padded with silence, which begins no new second
_TUNE = "fine-tune it first (launch.finetune with --config.init_from), or give a classifier"
_STAGE = {"audio": ("audio", "audio"), "image": ("video", "images")}  # the stage of a ClipError, and a word


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Holds the prediction for one medium."""

    top: tuple[tuple[str, float], ...]  # the likeliest classes with their probabilities, likeliest first; (): the model has no classes
    probabilities: np.ndarray  # float32[C], the mean over windows
    label_names: tuple[str, ...]  # C
    seen: Modality  # the modalities of the medium
    mode: Mode | None  # how the classifier was applied to the window at `start`; None: the model has no classes
    windows: int
    start: float  # seconds at which the window begins that is most probable for the first class or, without classes, matches best
    match: float | None  # cosine of audio and image in [-1, 1], the mean over the windows that have both; None if none has
    # The vectors of audio and image behind `match`, of length 1: float32[D] twice, of a model of pairs those of all pairs side by side.
    directions: tuple[np.ndarray, np.ndarray] | None
    timeline: np.ndarray | None  # float32[S, C], probabilities of each second, if requested
    named: tuple[str, ...] = ()  # the classes of the answer, likeliest first; () if the model is unsure or has no classes

    @property
    def answer(self) -> str:
        """Says what was found, as "guitar and flute", or "unsure"; "" for a model without classes."""
        if not self.label_names:
            return ""
        *others, last = self.named or (UNSURE,)
        return f"{', '.join(others)} and {last}" if others else last

    def __repr__(self) -> str:
        parts = [f"{name} {probability:.1%}" for name, probability in self.top]
        parts += [UNSURE] if self.label_names and not self.named else []
        parts += [] if self.match is None else [f"match {self.match:.3f}"]
        return f"<Prediction: {', '.join(parts)}>"


class Predictor:
    """Applies a classifier, or a pretraining model, to any number of media."""

    def __init__(self, trained: Trained, *, match_with: Trained | None = None, given: str | None = None, batch_size: int = BATCH):
        """Compiles nothing yet.

        Args:
          trained: the model.
          match_with: the model for the match, which must take audio and images of the same sizes; None: the model itself.
          given: what the classifier is given, "both", "audio" or "image", or the official name of a mode; None: whatever a medium has.
          batch_size: windows computed at once.

        Raises:
          ValueError: if the model can't do what is requested.
        """
        config, spec = trained.config, trained.spec
        self.trained, self.matcher = trained, match_with or trained
        if not spec.modes and not spec.vectors:
            raise ValueError(f"{trained.path} is a {spec.title}, which has neither classes nor a match of audio and image; {_TUNE}")
        if given and not trained.classes:
            raise ValueError(f"{trained.path} has no classes, so nothing can be given to a classifier; {_TUNE}")
        self.mode: Mode | None = find_mode(given, spec.modes, trained.tuned) if given else None
        if (own := _inputs_of(trained)) != (other := _inputs_of(self.matcher)):
            raise ValueError(f"{trained.path} takes {own}, {self.matcher.path} {other}; they must agree: give another model for the match")
        if match_with:
            require_match(match_with)
        self.matches = match_with is not None or trained.has_match
        used = self.mode or trained.tuned
        self.spans: Span = "longer" if not used else used.given if used.given != "both" else "shorter" if self.mode else "longer"
        self._modules = (trained.module, None if match_with is None else match_with.module)
        functions: dict[Modality, Callable[[Any, Any], Any]] = {has: self._function(has) for has in get_args(Modality)}
        configs = [dataclasses.asdict(each) for each in (config, self.matcher.config)]
        modes = trained.calibration and to_json(trained.calibration)["modes"]
        computed = json.dumps([configs, modes, str(self.mode), match_with is None, self.matches])
        self._shared = Shared(functions, batch_size, identity=f"predict {computed}")

    def __call__(
        self,
        media: Iterable[Medium],
        *,
        top: int = 5,
        frames: Frames = "middle",
        timeline: bool = False,
        fill: Fill = FILL,
        threads: int = _THREADS,
        unsure_below: float = 0.0,
    ) -> Iterator[tuple[int, Prediction | Exception]]:
        """Yields each medium's number with its prediction, or with the error that prevents one, as it is finished.

        Raises:
          ValueError: if `top` is less than 1, `unsure_below` no probability, or something is requested of a model without classes.
        """
        if not 0 <= unsure_below <= 1:
            raise ValueError(f"unsure_below is {unsure_below}; it must lie in [0, 1]")
        if unsure_below and not self.trained.classes:
            raise ValueError(f"{self.trained.path} has no classes, so unsure_below does nothing; {_TUNE}")
        if timeline and not self.trained.classes:
            raise ValueError(f"{self.trained.path} has no classes, so there is no timeline of them; {_TUNE}")
        if top < 1:
            raise ValueError(f"top is {top}; it must be at least 1")
        make = functools.partial(self._rows, frames=frames, timeline=timeline, fill=fill)
        for number, series in self._shared(self._modules, Ahead(media, make, threads)):
            yield number, series if isinstance(series, Exception) else self._prediction(series, top, unsure_below)

    def mode_of(self, has: Modality, name: str = "the input") -> Mode | None:
        """Returns the mode in which the classifier is applied to a medium with these modalities; None: the model is no classifier.

        Raises:
          ClipError: naming the medium, if it lacks what the model needs.
        """
        tuned = self.trained.tuned
        if tuned and not self.mode and tuned.given == "both":
            return find_mode(has, self.trained.spec.modes, tuned)
        mode = self.mode or tuned
        for modality in mode.inputs if mode else ("audio", "image"):
            if has not in (modality, "both"):
                stage, word = _STAGE[modality]
                raise ClipError(name, stage, f"has no {word}, which {self._needing()}")
        return mode

    def _needing(self) -> str:
        if not self.trained.classes:
            return f"a match needs; the model has no classes: {_TUNE}"
        return f"--given={self.mode.given} needs" if self.mode else f"a model tuned {self.trained.tuned} needs"

    def _rows(self, medium: Medium, number: int, **options: Any) -> Iterator[Row]:
        """Yields the rows that the model can use, and raises ClipError if there is none: audio or image may end before the other."""
        used, refused = False, None
        for row in rows_of(medium, number, self.trained.config, spans=self.spans, **options):
            try:
                self.mode_of(row.has, medium.name)
            except ClipError as error:
                refused = error
                continue
            used = True
            yield row
        if refused and not used:
            raise refused

    def _function(self, has: Modality) -> Callable[[Any, Any], Any]:
        """Returns the function that computes the outputs, float32[B, ...] by name, of rows with these modalities."""
        config, match_config, calibration = self.trained.config, self.matcher.config, self.trained.calibration

        def outputs(modules: Any, batch: Any) -> dict[str, jax.Array]:
            (module, matcher), mode = modules, self.mode_of(has)
            matched = self.matches and has == "both"
            both, found = ("audio", "image"), dict[str, jax.Array]()
            if matcher or not mode:
                found |= side_by_side((matcher or module).embed(model_inputs(batch, match_config), both)) if matched else {}
            if mode:
                wanted = {*mode.inputs, *(both if matched and not matcher else ())}
                tokens = module.separate({modality: value for modality, value in model_inputs(batch, config).items() if modality in wanted})
                found["probabilities"] = probabilities(config, module.logits(tokens, mode), of_mode(calibration, mode).temperature)
                found |= side_by_side(module.vectors(tokens, both)) if matched and not matcher else {}
            return found

        return outputs

    def _prediction(self, series: dict[str, Series], top: int, unsure_below: float) -> Prediction | Exception:
        windows, names = series[WHOLE], self.trained.label_names
        if broken := [name for name, values in windows.values.items() if not np.isfinite(values).all()]:
            return ValueError(f"the model's {' and '.join(broken)} aren't finite; its weights are damaged")
        scores = windows.values.get("probabilities", np.zeros((len(windows.starts), 0), np.float32))
        means = scores.mean(axis=0)
        order = np.argsort(-means, kind="stable")[:top]
        match, directions, strongest = None, None, 0
        if "audio" in windows.values:
            cosines = (windows.values["audio"] * windows.values["image"]).sum(axis=1)
            match, directions = float(cosines.mean()), (mean_direction(windows.values["audio"]), mean_direction(windows.values["image"]))
            strongest = int(windows.where["audio"][np.argmax(cosines)])
        if len(order):
            strongest = int(np.argmax(scores[:, order[0]]))
        has, mode = set(windows.has), self.mode_of(windows.has[strongest])
        return Prediction(
            top=tuple((names[label], float(means[label])) for label in order),
            probabilities=means,
            label_names=names,
            seen=has.pop() if len(has) == 1 else "both",
            mode=mode,
            windows=len(windows.starts),
            start=float(windows.starts[strongest]),
            match=match,
            directions=directions,
            timeline=by_second(series[TIMELINE]) if TIMELINE in series else None,
            named=tuple(names[label] for label in self._named(means, mode, unsure_below)),
        )

    def _named(self, means: np.ndarray, mode: Mode | None, unsure_below: float) -> list[int]:
        """Returns the classes of the answer that are probable enough: those above their thresholds, or the likeliest without thresholds."""
        thresholds = np.array(of_mode(self.trained.calibration, mode).thresholds)
        order = np.argsort(-means, kind="stable")
        chosen = [label for label in order.tolist() if means[label] >= thresholds[label]] if len(thresholds) else order[:1].tolist()
        return [label for label in chosen if means[label] >= unsure_below]


def _inputs_of(trained: Trained) -> str:
    """Describes what a model takes of a window."""
    model = trained.config.model
    window = f" in windows of {model.audio_frames} placed {model.window_rate:g} a second" if trained.spec.pairs else ""
    return f"{model.spectrogram_frames} frames of {model.mel_bins} mel bins{window} and {model.image_size} pixels"


def by_second(found: Series) -> np.ndarray:
    """Computes the timeline: for second t the probabilities of the window whose centre is nearest to t + 0.5, float32[S, C]."""
    centres = found.starts + found.seconds / 2
    seconds = max(1, math.ceil(float((found.starts + found.seconds).max()) - _SPARE))
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, np.arange(seconds) + 0.5)
    return found.values["probabilities"][nearest]


def open_matcher(trained: Trained, match_with: str | Path | Trained, **sizes: Any) -> Trained:
    """Loads the model for the match, for audio as long as the other model's; `sizes` and errors are those of load_trained."""
    if isinstance(match_with, Trained):
        return match_with
    own = trained.config.model
    return load_trained(match_with, audio_frames=own.audio_frames, compute_dtype=own.product_dtype, **sizes)


def mean_direction(vectors: np.ndarray) -> np.ndarray:
    """Computes the mean over windows, of length 1: float32[n, D] -> float32[D]."""
    mean = vectors.mean(axis=0)
    return cast(np.ndarray, mean / max(float(np.linalg.norm(mean)), float(np.finfo(np.float32).tiny)))
