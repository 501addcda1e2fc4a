"""Turns clips into batches: picks a frame, decodes it, shuffles, batches, reads a process's rows of a batch.

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

Rows of `example` with F frames have image uint8[F, H, W, 3], and with audio="per_frame" waveform int16[F, S] and samples int32[F]; batches
of them have [B, F, ...].

The order and every random choice follow from the seed and the position alone, so that the reader's whole state is one number, which
survives another number of processes or workers.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import grain
import numpy as np

from avmae_jax.config import AugmentConfig, DataConfig, Frames, Modality, ModelConfig
from avmae_jax.data.augment import random_piece, soft_targets
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.decode.images import decode_image, decode_piece
from avmae_jax.data.example import example
from avmae_jax.data.fbank import num_samples

_USUAL_FRAMES = 10  # rows that a clip is expected to give with frames="all", to choose how far to read ahead

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainOptions:
    """Says what training batches carry besides plain clips."""

    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)  # random changes; the default makes none
    classes: int = 0  # C of the targets; 0: batches carry none
    # float64[N], how often each clip is drawn where augment.balanced, as augment.balanced_weights computes it. A pass is then N draws with
    # replacement, instead of every clip once.
    weights: np.ndarray | None = None
    needs: Modality | None = None  # which modalities batches carry; None: those of the model


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Says which rows evaluation makes of which clips, and what they carry."""

    limit: int = 0  # read only this many clips, spread evenly over the set, which may be sorted by class; 0: all
    crops: int = 1  # pieces of audio that is too long: its centre, or several, evenly spaced from its beginning to its end
    frames: Frames = "middle"  # "first": the one at index 0; "middle": Clip.middle; "all": each
    classes: int = 0  # C of the targets, not smoothed; 0: none
    needs: Modality | None = None  # which modalities batches carry; None: those of the model
    only: Sequence[int] | None = None  # read only these of the clips, numbered after `limit`; None: all


@dataclasses.dataclass(frozen=True)
class _TrainExamples:
    """Makes training examples from positions in the order; picklable for reader processes."""

    source: ClipSource
    model: ModelConfig
    augment: AugmentConfig
    classes: int  # of the targets; 0: none
    cumulative: np.ndarray | None  # float64[N], sums of the clips' weights where they are drawn by weight
    needs: str  # config.Modality: what batches carry

    def make(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        """Makes the example at a position; the rng is that position's own."""
        if self.cumulative is not None:
            # in (0, sum]: a clip of weight 0 is never the first whose sum reaches it
            position = int(np.searchsorted(self.cumulative, (1 - rng.random()) * self.cumulative[-1]))
        options, clip = self.augment, self.source[position]
        made, mixed = self._view(clip, rng), None
        if options.mixup > 0:
            own = {name: made[name] for name in ("waveform", "samples", "image") if name in made}
            if rng.random() < options.mixup:
                partner, share = self.source[int(rng.integers(len(self.source)))], float(rng.beta(options.mixup_alpha, options.mixup_alpha))
                seen, mixed = self._view(partner, rng), (partner, share)
                made |= {f"{name}_b": seen[name] for name in own} | {"mix": np.float32(share)}
            else:
                made |= {f"{name}_b": np.zeros_like(value) for name, value in own.items()} | {"mix": np.float32(1)}
        if self.classes:
            made["targets"] = _targets(clip, self.classes, options.label_smoothing, mixed)
        if options.changes_audio or options.changes_images:
            made["augment_seed"] = np.uint32(rng.integers(2**32))
        return made

    def _view(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        """Takes a random frame, or piece of it, and a random piece of audio that is too long."""
        samples = num_samples(self.model.audio_frames)
        frame = int(rng.integers(max(1, len(clip.frames))))
        spare = len(clip.waveform) - samples
        start = int(rng.integers(spare + 1)) if spare > 0 else 0
        cropped = self.augment.crop_area < 1
        decode = partial(decode_piece, piece=random_piece(rng, self.augment.crop_area)) if cropped else partial(decode_image, reduced=True)
        made = example(clip, frame, samples=samples, image_size=self.model.image_size, needs=self.needs, start=start, decode=decode)
        if self.augment.flip and "image" in made and rng.random() < 0.5:
            made["image"] = made["image"][:, ::-1]
        return made


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
          data: reader threads and processes.
          batch_size: clips a batch, over all processes.
          seed: of order and random choices, in [0, 2**32).
          options: what batches carry besides plain clips; None: nothing.
          rows: those of each batch that this process reads; None: all.

        Raises:
          ValueError: if balanced sampling lacks weights, or they don't fit the source.
        """
        options = options or TrainOptions()
        balanced = options.augment.balanced
        cumulative = _cumulative(options.weights, len(source)) if balanced else None
        examples = _TrainExamples(source, model, options.augment, options.classes, cumulative, options.needs or model.modality)
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
    data: DataConfig,
    batch_size: int,
    options: EvalOptions | None = None,
) -> Iterator[Batch]:
    """Yields the clips in their order; the last batch may be smaller.

    A clip gives one row, or several next to each other with the same id, whose predictions are to be averaged: one for each crop of its
    audio with each of its frames. Audio that fits gives one crop, whatever options.crops says.

    Args:
      source: held-out clips.
      model: sizes of the inputs.
      data: reader threads.
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
    ahead = -(-data.prefetch * batch_size // (crops * (_USUAL_FRAMES if options.frames == "all" else 1)))
    reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=ahead)
    views = clips.map(partial(_views, model=model, options=options)).to_iter_dataset(read_options=reading)
    return _batched(itertools.chain.from_iterable(views), batch_size)


def centre(clip: Clip, model: ModelConfig) -> int:
    """Returns the first sample that evaluation takes of a clip: the middle part of audio that is too long for the model."""
    return max(0, len(clip.waveform) - num_samples(model.audio_frames)) // 2


def covering(clip: Clip, model: ModelConfig) -> list[int]:
    """Returns the first samples of the fewest evenly spaced windows that cover all of a clip's audio."""
    samples = num_samples(model.audio_frames)
    spare = max(0, len(clip.waveform) - samples)
    count = -(-spare // samples) + 1
    return [number * spare // max(1, count - 1) for number in range(count)]


def _views(clip: Clip, *, model: ModelConfig, options: EvalOptions) -> list[dict[str, Any]]:
    """Makes all rows of a clip in evaluation."""
    samples, crops, needs = num_samples(model.audio_frames), options.crops, options.needs or cast(Modality, model.modality)
    spare = max(0, len(clip.waveform) - samples) if needs != "image" else 0
    starts = sorted({index * spare // (crops - 1) for index in range(crops)}) if crops > 1 else [centre(clip, model)]
    one = 0 if options.frames == "first" else clip.middle
    shown = range(max(1, len(clip.frames))) if options.frames == "all" and needs != "audio" else [one]
    targets = {"targets": _targets(clip, options.classes)} if options.classes else {}
    make = partial(example, clip, samples=samples, image_size=model.image_size, needs=needs)
    return [make(frame, start=start) | targets for start in starts for frame in shown]


def _batched(rows: Iterator[dict[str, Any]], batch_size: int) -> Iterator[Batch]:
    while batch := list(itertools.islice(rows, batch_size)):
        yield {name: np.stack([row[name] for row in batch]) for name in batch[0]}


def _targets(clip: Clip, classes: int, smoothing: float = 0.0, mixed: tuple[Clip, float] | None = None) -> np.ndarray:
    """Computes soft_targets; an error names the clip."""
    try:
        return soft_targets(clip.labels, classes, smoothing, (mixed[0].labels, mixed[1]) if mixed else None)
    except ValueError as error:
        raise ValueError(f"clip {clip.id}{f', mixed with {mixed[0].id}' if mixed else ''}: {error}") from error


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
