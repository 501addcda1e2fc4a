"""Runs a model over many media files: threads decode ahead, and windows of different files share batches.

Memory holds a window for each thread, a few rows in a queue, one unfinished batch for each kind of medium, and the outputs of unfinished
media, however many media there are and however long they last.
"""

import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from avmae_jax.config import Modality
from avmae_jax.errors import ClipError
from avmae_jax.inference.forward import Forward
from avmae_jax.inference.windows import WHOLE, Medium, Row

_AHEAD = 16  # rows in the queue between the threads and the device

Outputs = dict[str, np.ndarray]


class End(NamedTuple):
    """Marks the end of a medium's rows."""

    medium: int
    rows: int  # of the medium in all
    error: Exception | None  # ClipError, ValueError or OSError that ended them early


class Ahead:
    """Makes the rows of many media in threads. Those of one medium come in order, mixed with those of others."""

    def __init__(self, media: Iterable[Medium], make: Callable[[Medium, int], Iterator[Row]], threads: int, until: float = math.inf):
        """Keeps what the threads will do.

        Args:
          media: what rows are made of.
          make: yields the rows of a medium, given with its number; its ClipError, ValueError or OSError becomes the medium's End.
          threads: how many work at once.
          until: on the clock time.monotonic, when to stop waiting for them: media that are unfinished then get no End.
        """
        self._until = until
        self._media, self._make = enumerate(media), make
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._made: queue.Queue[Row | End | BaseException | None] = queue.Queue(_AHEAD)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def __iter__(self) -> Iterator[Row | End]:
        """Starts the threads; they end with the iterator, even one that is closed early."""
        for thread in self._threads:
            thread.start()
        working = len(self._threads)
        try:
            while working:
                try:
                    item = self._made.get(timeout=max(0.0, min(self._until - time.monotonic(), threading.TIMEOUT_MAX)))
                except queue.Empty:
                    return
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    working -= 1
                else:
                    yield item
        finally:
            self._stopped.set()

    def _work(self) -> None:
        try:
            while not self._stopped.is_set():
                with self._lock:
                    number, medium = next(self._media, (0, None))
                if medium is None:
                    break
                self._one(medium, number)
            self._put(None)
        except BaseException as error:  # raised in the thread that takes the rows
            self._put(error)

    def _one(self, medium: Medium, number: int) -> None:
        count, failure = 0, None
        try:
            for row in self._make(medium, number):
                count += 1
                if not self._put(row):
                    return
        except (ClipError, ValueError, OSError) as error:
            failure = error
        self._put(End(number, count, failure))

    def _put(self, item: Row | End | BaseException | None) -> bool:
        """Returns False if the consumer has stopped iterating."""
        while not self._stopped.is_set():
            try:
                self._made.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


class Series(NamedTuple):
    """Holds the outputs for the n windows of one series of one medium, in order of time."""

    starts: np.ndarray  # float64[n], s
    seconds: np.ndarray  # float64[n], the length of each, shorter than the model's input only where the whole medium is
    has: tuple[Modality, ...]  # of each window: audio or image may end before the other
    values: Outputs  # name -> float32[k, ...], means over the rows of each of the k windows that have this output
    where: dict[str, np.ndarray]  # name -> int[k], which windows these are


class Shared:
    """Applies a function of a model and a batch to the rows of many media, which share batches."""

    def __init__(self, functions: dict[Modality, Callable[[Any, Any], Any]], batch_size: int, identity: str = ""):
        """Keeps `functions`, which, by what rows have, are those that Forward takes, with `identity`; they return arrays by name."""
        self._functions, self._batch_size, self._identity = functions, batch_size, identity
        self._forwards: dict[tuple[Modality, int], Forward] = {}

    def __call__(self, model: Any, items: Iterable[Row | End]) -> Iterator[tuple[int, dict[str, Series] | Exception]]:
        """Yields each medium's number with its series, or with the error that prevents them, as soon as it is finished."""
        waiting: dict[Modality, list[Row]] = defaultdict(list)
        media: dict[int, _Unfinished] = {}
        for item in items:
            medium = media.setdefault(item.medium, _Unfinished())
            if isinstance(item, End):
                medium.end = item
                done = [item.medium] if medium.finished else []
            else:
                waiting[item.has].append(item)
                done = self._compute(model, waiting[item.has], media) if len(waiting[item.has]) == self._batch_size else []
            for number in done:
                yield number, media.pop(number).result()
        for rows in waiting.values():
            for number in self._compute(model, rows, media) if rows else []:
                yield number, media.pop(number).result()

    def _compute(self, model: Any, rows: list[Row], media: dict[int, "_Unfinished"]) -> list[int]:
        """Computes the rows, empties the list, and returns the media that are finished by it."""
        names = list(rows[0].arrays)
        batch = {"id": np.arange(len(rows))} | {name: np.stack([row.arrays[name] for row in rows]) for name in names}
        ((_, outputs),) = self._forward(rows[0].has, len(rows))(model, [batch])
        for place, row in enumerate(rows):
            if row.medium in media:  # those of a medium that failed are dropped
                media[row.medium].add(row, {name: values[place] for name, values in outputs.items()})
        done = [number for number in dict.fromkeys(row.medium for row in rows) if number in media and media[number].finished]
        rows.clear()
        return done

    def _forward(self, has: Modality, rows: int) -> Forward:
        """Returns the compiled function for so many rows; a short last batch gets a smaller one unless the full one is compiled already."""
        whole = (has, self._batch_size)
        key = whole if whole in self._forwards else (has, min(self._batch_size, 1 << (rows - 1).bit_length()))
        if key not in self._forwards:
            self._forwards[key] = Forward(self._functions[has], key[1], self._identity and f"{self._identity} {has}")
        return self._forwards[key]


class _Unfinished:
    """Collects the outputs of a medium."""

    def __init__(self) -> None:
        self.end: End | None = None
        self._computed = 0
        self._windows: dict[str, dict[int, tuple[Row, Outputs]]] = defaultdict(dict)

    @property
    def finished(self) -> bool:
        """Returns True once no more outputs will come."""
        return self.end is not None and (self.end.error is not None or self.end.rows == self._computed)

    def add(self, row: Row, outputs: Outputs) -> None:
        """Adds the outputs for a row."""
        self._computed += 1
        if row.series != WHOLE:  # a timeline has many windows, and only their classes are reported
            outputs = {name: value for name, value in outputs.items() if name == "probabilities"}
        sums = self._windows[row.series].get(row.window, (row, {}))[1]
        weighted = {name: value * np.float32(row.share) + sums.get(name, np.float32(0)) for name, value in outputs.items()}
        self._windows[row.series][row.window] = row._replace(arrays={}), weighted

    def result(self) -> dict[str, Series] | Exception:
        """Returns the series, or the error."""
        if self.end is not None and self.end.error is not None:
            return self.end.error
        series = {}
        for name, windows in self._windows.items():
            rows, outputs = zip(*(windows[number] for number in sorted(windows)), strict=True)
            keys = dict.fromkeys(key for found in outputs for key in found)
            where = {key: np.array([place for place, found in enumerate(outputs) if key in found]) for key in keys}
            values = {key: np.stack([outputs[place][key] for place in places]) for key, places in where.items()}
            starts, seconds = (np.array(numbers) for numbers in ([row.start for row in rows], [row.seconds for row in rows]))
            series[name] = Series(starts, seconds, tuple(row.has for row in rows), values, where)
        return series
