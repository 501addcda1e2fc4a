"""Computes what a model says of one medium along time: given both modalities, audio alone and images alone, and how well the two match.

A medium is decoded once. Its windows begin about a second apart; every n-th of them, and the last one, are those of `predict`, so that
the means over them are the same answer. Where time is short, only these are computed.

Axis letters: n windows, C classes, B batch.
"""

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jax
import numpy as np

from avmae_jax.config import Modality
from avmae_jax.data.decode.form import Span
from avmae_jax.data.frontend import model_inputs
from avmae_jax.errors import ClipError
from avmae_jax.inference.forward import Forward, probabilities
from avmae_jax.inference.predict import Predictor
from avmae_jax.inference.stream import Ahead, End
from avmae_jax.inference.windows import SECOND, Medium, Row, rows_every, window_seconds
from avmae_jax.models.modes import Mode, learned
from avmae_jax.models.pairs import side_by_side
from avmae_jax.weights.calibration import of_mode
from avmae_jax.weights.trained import Trained

BATCH = 4  # windows computed at once
MATCH = "match"
_UNKNOWN_SHARE = 0.5  # of the time that may be spent on finer windows where the medium's length is unknown
_OVER = 1.01  # a medium may be so much longer than the limit: containers and streams rarely end at once


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits the work on one medium."""

    media_seconds: float = math.inf  # of the medium, from its beginning
    computing_seconds: float = math.inf  # of the clock, decoding included


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
    """Holds what a model says of the n windows of one medium, in order of time."""

    starts: np.ndarray  # float64[n], s
    seconds: np.ndarray  # float64[n], the length of each; 0 of an image
    has: tuple[Modality, ...]  # of each window: audio or image may end before the other
    answers: np.ndarray  # bool[n], True for the windows that `predict` takes
    values: dict[str, np.ndarray]  # "both", "audio", "image" -> float32[n, C]; "match" -> float32[n]; NaN where a window has none
    complete: bool  # False: a limit ended it early

    @property
    def end(self) -> float:
        """Returns up to which second windows reach."""
        return float((self.starts + self.seconds).max())

    def mean(self, name: str) -> np.ndarray | None:
        """Computes the mean of values over the windows that `predict` takes; None if none of them has any."""
        values = self.values.get(name)
        if values is None:
            return None
        there = self.answers & np.isfinite(values).reshape(len(values), -1).all(axis=1)
        return values[there].mean(axis=0) if there.any() else None

    def given_all(self) -> np.ndarray | None:
        """Returns the probabilities of each window given all that it has: float32[n, C], NaN where it lacks what the classifier needs."""
        found = None
        for name in ("image", "audio", "both"):
            values = self.values.get(name)
            if values is not None:
                found = values if found is None else np.where(np.isfinite(values), values, found)
        return found


class AlongTime:
    """Applies one model to one medium at a time; several threads may call it, and take turns batch by batch."""

    def __init__(self, trained: Trained, device: threading.Lock):
        """Compiles nothing yet.

        Args:
          trained: a classifier, or a pretraining model with a match of audio and image.
          device: is held while the model computes.

        Raises:
          ValueError: if the model has neither classes nor a match.
        """
        self._trained, self._device = trained, device
        self._predictor = Predictor(trained)
        tuned = trained.tuned
        self.modes: dict[str, Mode] = {mode.given: mode for mode in reversed(learned(tuned, trained.spec.modes))} if tuned else {}
        functions = {has: self._function(has) for has in get_args(Modality)}
        self._forwards = {(has, size): Forward(function, size) for has, function in functions.items() for size in (1, BATCH)}

    @property
    def spans(self) -> Span:
        """Returns which of a file's audio and images the windows span."""
        return self._predictor.spans

    def __call__(
        self, medium: Medium, length: float, budget: Budget, on_progress: Callable[[float], None] = lambda seconds: None
    ) -> Course | None:
        """Computes a medium's course; None if not even one window was finished in time.

        Args:
          medium: a file, or arrays.
          length: seconds of the medium, as far as known; 0: unknown.
          budget: its limits.
          on_progress: is told up to which second windows are computed.

        Raises:
          ClipError: if the medium can't be read, or lacks what the model needs.
        """
        return _Walk(self, medium, min(length or math.inf, budget.media_seconds), budget, on_progress).course()

    @property
    def steps(self) -> int:
        """Returns how many windows begin within the length of one."""
        return max(1, round(window_seconds(self._trained.config) / SECOND))

    def rows(self, medium: Medium, number: int) -> Iterator[Row]:
        """Yields the rows of a medium's windows."""
        stride = window_seconds(self._trained.config) / self.steps
        return rows_every(stride, medium, number, self._trained.config, spans=self.spans)

    def mode_of(self, has: Modality, name: str = "the input") -> Mode | None:
        """Returns the mode in which a classifier is applied to a window with these modalities; raises ClipError as Predictor.mode_of."""
        return self._predictor.mode_of(has, name)

    def compute(self, rows: list[Row]) -> list[dict[str, np.ndarray]]:
        """Computes the outputs of at most BATCH rows with the same modalities."""
        batch = {"id": np.arange(len(rows))} | {name: np.stack([row.arrays[name] for row in rows]) for name in rows[0].arrays}
        with self._device:
            ((_, outputs),) = self._forwards[rows[0].has, 1 if len(rows) == 1 else BATCH](self._trained.module, [batch])
        return [{name: values[place] for name, values in outputs.items()} for place in range(len(rows))]

    def _function(self, has: Modality) -> Callable[[Any, Any], Any]:
        config, calibration = self._trained.config, self._trained.calibration
        there = ("audio", "image") if has == "both" else (has,)

        def outputs(module: Any, batch: Any) -> dict[str, jax.Array]:
            modes = {given: mode for given, mode in self.modes.items() if set(mode.inputs) <= set(there)}
            matched = self._predictor.matches and has == "both"
            both, tokens = ("audio", "image"), dict[str, jax.Array]()
            inputs, found = model_inputs(batch, config), dict[str, jax.Array]()
            if modes:
                wanted = {name for mode in modes.values() for name in mode.inputs} | set(both if matched else ())
                tokens = module.separate({name: value for name, value in inputs.items() if name in wanted})
                for given, mode in modes.items():
                    found[given] = probabilities(config, module.logits(tokens, mode), of_mode(calibration, mode).temperature)
            if matched:
                vectors = side_by_side(module.vectors(tokens, both) if modes else module.embed(inputs, both))
                found[MATCH] = (vectors["audio"] * vectors["image"]).sum(axis=-1)
            return found

        return outputs


class _Walk:
    """Goes through the windows of one medium."""

    def __init__(self, along: AlongTime, medium: Medium, length: float, budget: Budget, on_progress: Callable[[float], None]) -> None:
        self._along, self._medium, self._length, self._budget, self._tell = along, medium, length, budget, on_progress
        self._began = time.monotonic()
        self._waiting: dict[Modality, list[Row]] = {has: [] for has in get_args(Modality)}
        self._found: dict[int, tuple[Row, dict[str, np.ndarray]]] = {}
        self._last: Row | None = None  # the latest window ...
        self._refused: ClipError | None = None  # ... and why the first one that is of no use isn't
        self._cut = False  # whether the medium is longer than the limit

    def course(self) -> Course | None:
        """Computes the windows until the medium or the budget ends."""
        until, ended = self._began + self._budget.computing_seconds, False
        for item in Ahead([self._medium], self._rows, 1, until):
            if isinstance(item, End):
                if item.error is not None:
                    raise item.error
                ended = not self._cut
            elif time.monotonic() > until:
                break
            elif self._is_usable(item) and not (item.window % self._along.steps and self._is_late(item)):
                self._add(item)
        if ended and self._last and self._last.arrays:
            self._add(self._last)  # what `predict` takes whatever its number
        for rows in self._waiting.values():
            self._compute(rows)
        if not self._found and self._refused:
            raise self._refused
        return self._made(ended) if self._found else None

    def _rows(self, medium: Medium, number: int) -> Iterator[Row]:
        """Yields the windows that end within the limit, and the first one."""
        for row in self._along.rows(medium, number):
            if row.window and row.start + row.seconds > self._budget.media_seconds * _OVER:
                self._cut = True
                return
            yield row

    def _is_usable(self, row: Row) -> bool:
        try:
            self._along.mode_of(row.has, self._medium.name)
        except ClipError as error:
            self._refused = self._refused or error
            return False
        self._last = row
        return True

    def _is_late(self, row: Row) -> bool:
        """Returns whether a larger share of the time is spent than of the medium is done."""
        spent = (time.monotonic() - self._began) / self._budget.computing_seconds
        return spent > (row.start / self._length if self._length < math.inf else _UNKNOWN_SHARE)

    def _add(self, row: Row) -> None:
        """Computes a window together with others."""
        if self._last is row:
            self._last = row._replace(arrays={})
        self._waiting[row.has].append(row)
        if len(self._waiting[row.has]) == BATCH:
            self._compute(self._waiting[row.has])

    def _compute(self, rows: list[Row]) -> None:
        """Computes the rows and empties the list."""
        if rows:
            for row, outputs in zip(rows, self._along.compute(rows), strict=True):
                self._found[row.window] = row._replace(arrays={}), outputs
            self._tell(max(row.start + row.seconds for row in rows))
            rows.clear()

    def _made(self, ended: bool) -> Course:
        rows, outputs = zip(*(self._found[number] for number in sorted(self._found)), strict=True)
        answers = np.array([row.window % self._along.steps == 0 for row in rows])
        answers[-1] |= ended
        shapes = {name: values for found in outputs for name, values in found.items()}
        values = {name: np.stack([found.get(name, np.full_like(like, np.nan)) for found in outputs]) for name, like in shapes.items()}
        starts, seconds = (np.array(numbers) for numbers in ([row.start for row in rows], [row.seconds for row in rows]))
        return Course(starts, seconds, tuple(row.has for row in rows), answers, values, complete=ended)
