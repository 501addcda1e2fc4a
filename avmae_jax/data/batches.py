"""Turns clips into batches: shuffles, makes rows (data/rows.py), batches them, reads a process's rows of a batch.

The host only decodes; mixing, scaling, the log-mel and normalisation are part of the jitted step. A batch is a dict of NumPy arrays; those
of one modality are left out where only the other is needed:

  id            str[B]
  waveform      int16[B, S], zeros after the clip's end
  samples       int32[B], how many of the S belong to the clip
  image         uint8[B, H, W, 3]
  targets       float32[B, C], where a number of classes is given
  mix           float32[B], where clips are mixed: each clip's own share, 1 for those that stay alone ...
  waveform_b, samples_b, image_b    ... and their partners, zeros for those that stay alone
  augment_seed  uint32[B], where spectrograms or images are changed at random: all random choices for the clip follow from it

For models that pair several images of a clip with the audio around each, image and image_b are uint8[B, F, H, W, 3], the waveform is that
of the whole clip, and one more says which part of its spectrogram belongs to each image:

  window        int32[B, F], the first spectrogram frame of each image's window; frontend.model_inputs cuts them

The order and every random choice follow from the seed and the position alone, so that the reader's whole state is one number, which
survives another number of processes or workers.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import grain
import numpy as np
from absl import logging

from avmae_jax.config import DataConfig, ModelConfig, ReadConfig
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.rows import EvalOptions, TrainExamples, TrainOptions, views
from avmae_jax.data.store.reader import frames_of
from avmae_jax.errors import DatasetError

_USUAL_FRAMES = 10  # rows that a clip is expected to give with frames="all", to choose how far to read ahead

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Holds some clips of a source."""

    source: ClipSource
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Clip:
        return self.source[self.numbers[index]]


class _Rows(grain.MapDataset[dict[str, Any]]):
    """Holds the same rows of every batch of an endless data set of examples."""

    def __init__(self, examples: grain.MapDataset[dict[str, Any]], batch_size: int, rows: Sequence[int]):
        super().__init__(examples)
        self._batch_size, self._rows = batch_size, rows

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, len(self._rows))
        return self._parent[batch * self._batch_size + self._rows[row]]


class TrainBatches:
    """Yields endless batches, with another order and another random frame of each clip in every pass.

    `state` is a small JSON dict; a reader made with the same arguments continues exactly there.
    """

    def __init__(
        self,
        source: ClipSource,
        model: ModelConfig,
        data: DataConfig,
        batch_size: int,
        seed: int,
        options: TrainOptions | None = None,
        rows: Sequence[int] | None = None,
    ):
        """Opens the reader; it starts reading at the first batch.

        Args:
          source: training clips.
          model: sizes of the inputs.
          data: reader threads and processes; with options.pairs also which images of a clip are drawn.
          batch_size: clips a batch, over all processes.
          seed: of order and random choices, in [0, 2**32).
          options: what batches carry besides plain clips; None: nothing.
          rows: those of each batch that this process reads; None: all.

        Raises:
          ValueError: if balanced sampling lacks weights, or they don't fit the source.
          DatasetError: if the clips have fewer images than data.frames or data.pairs_per_clip.
        """
        options = options or TrainOptions()
        balanced = options.augment.balanced
        cumulative = _cumulative(options.weights, len(source)) if balanced else None
        frames = frames_a_clip(source, data) if options.pairs else 0
        drawn = frames if options.all_pairs else data.pairs_per_clip
        if options.pairs and drawn > frames:
            raise DatasetError(f"data.pairs_per_clip is {drawn}, but the clips have {frames} frames; draw at most as many")
        examples = TrainExamples(source, model, options, cumulative, frames, drawn)
        order = grain.MapDataset.range(len(source)).seed(seed)
        order = order if balanced else order.shuffle()
        workers = grain.MultiprocessingOptions(num_workers=data.workers) if data.workers else None
        self._batch_size, self._own = batch_size, range(batch_size) if rows is None else rows
        # Not the iterator's own sharding: its rows lie in other places of the batch for each number of processes.
        self._iterator = iter(
            grain.experimental.ElasticIterator(
                _Rows(order.repeat().random_map(examples.make), batch_size, self._own),
                len(self._own),
                grain.sharding.ShardOptions(0, 1),
                read_options=grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch),  # of whole batches
                multiprocessing_options=workers,
            )
        )

    def __iter__(self) -> Iterator[Batch]:
        """Returns itself."""
        return self

    def __next__(self) -> Batch:
        """Returns this process's rows of the next batch."""
        return next(self._iterator)

    @property
    def state(self) -> dict[str, Any]:
        """Returns the reader's position: the number of clips that all processes have read."""
        return {name: number // len(self._own) * self._batch_size for name, number in self._iterator.get_state().items()}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._iterator.set_state({name: number // self._batch_size * len(self._own) for name, number in state.items()})

    def close(self) -> None:
        """Ends the reader's threads and processes."""
        self._iterator.close()


def eval_batches(
    source: ClipSource,
    model: ModelConfig,
    data: ReadConfig,
    batch_size: int,
    options: EvalOptions | None = None,
) -> Iterator[Batch]:
    """Yields the clips in their order; the last batch may be smaller.

    A clip gives one row, or several next to each other with the same id, whose predictions are to be averaged: one for each crop of its
    audio with each of its frames; with options.pairs, for each crop with all frames in it. Audio that fits gives one crop.

    Args:
      source: held-out clips.
      model: sizes of the inputs.
      data: reader threads; with options.pairs also how many images of a clip a row has, at most as many as there are.
      batch_size: rows a batch.
      options: which rows, of which clips; None: the middle frame and the centre of the audio of each.

    Raises:
      ValueError: if `crops` is less than 1.
    """
    options = options or EvalOptions()
    crops, limit = options.crops, options.limit
    if crops < 1:
        raise ValueError(f"crops is {crops}; it must be at least 1")
    numbers = range(len(source))
    numbers = numbers[:: max(1, len(numbers) // limit)][:limit] if limit else numbers
    clips = grain.MapDataset.source(_Chosen(source, numbers if options.only is None else [numbers[place] for place in options.only]))
    ahead = -(-data.prefetch * batch_size // (crops * (_USUAL_FRAMES if options.frames == "all" and not options.pairs else 1)))
    reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=ahead)
    make = partial(views, model=model, options=options, frames=frames_there(source, data) if options.pairs else 0)
    rows = itertools.chain.from_iterable(clips.map(make).to_iter_dataset(read_options=reading))
    return _batched(rows, batch_size)


def frames_a_clip(source: ClipSource, data: ReadConfig) -> int:
    """Returns how many images each clip of a source is to give: data.frames, or as many as the source was prepared with.

    A source that doesn't know the latter is taken to be like its first clip.

    Raises:
      DatasetError: if the source was prepared with fewer images than data.frames.
    """
    there = frames_of(source)
    if there is not None and data.frames > there:
        raise DatasetError(
            f"data.frames is {data.frames}, but the data set was prepared with {there} frames of each clip; give data.frames=0, which uses "
            f"those there are, or prepare it again with --frames={data.frames}"
        )
    return data.frames or there or max(1, len(source[0].frames))


def frames_there(source: ClipSource, data: ReadConfig) -> int:
    """Returns how many images each clip of a source gives where a model is applied: data.frames, or what there is if that is fewer."""
    there = frames_of(source)
    if there is None or data.frames <= there:
        return frames_a_clip(source, data)
    logging.warning("the model was trained on %d frames of each clip, and these clips have %d; all of these are used", data.frames, there)
    return there


def _batched(rows: Iterator[dict[str, Any]], batch_size: int) -> Iterator[Batch]:
    while batch := list(itertools.islice(rows, batch_size)):
        yield {name: np.stack([row[name] for row in batch]) for name in batch[0]}


def _cumulative(weights: np.ndarray | None, clips: int) -> np.ndarray:
    """Sums the weights up to each clip: float64[N]; raises ValueError if they don't fit the clips."""
    if weights is None:
        raise ValueError(
            "augment.balanced is on, but the training clips come without weights; compute them for the data set, or turn it off"
        )
    found = np.asarray(weights, np.float64)
    if found.shape != (clips,) or not np.isfinite(found).all() or (found < 0).any() or not found.sum() > 0:
        raise ValueError(
            f"weights are {found.dtype}{list(found.shape)} for {clips} clips; one each is needed, finite, none negative, not all 0"
        )
    return np.cumsum(found)
