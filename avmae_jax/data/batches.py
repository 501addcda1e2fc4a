"""Clips to batches: pick a frame, decode it, shuffle, batch, give each host its share.

The host only decodes; mixing, scaling, the log-mel and normalisation are part of the jitted step. A batch is a dict of NumPy arrays, those
of one modality left out where only the other is needed:

  id            str[B]
  waveform      int16[B, S], zeros after the clip's end
  samples       int32[B], how many of the S belong to the clip
  image         uint8[B, H, W, 3]
  targets       float32[B, C], where a number of classes is given
  mix           float32[B], where clips are mixed: each clip's own share, 1 for those that stay alone ...
  waveform_b, samples_b, image_b    ... and their partners, zeros for those that stay alone
  augment_seed  uint32[B], where spectrograms are changed at random: what is drawn for the clip follows from it

The order and every random choice follow from the seed and the position alone, so that the reader's whole state is one number, which
survives another number of hosts or workers.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import grain
import jax
import numpy as np

from avmae_jax.config import AugmentConfig, DataConfig, Frames, Modality, ModelConfig
from avmae_jax.data.augment import random_piece, soft_targets
from avmae_jax.data.clip import NUM_FRAMES, Clip, ClipSource
from avmae_jax.data.decode.images import Piece, decode_image, decode_piece
from avmae_jax.data.fbank import num_samples

EVAL_FRAME = NUM_FRAMES // 2  # the middle one of ten, as in the original

Batch = dict[str, np.ndarray]


def example(
    clip: Clip,
    frame: int,
    *,
    samples: int,
    image_size: int,
    needs: str = "both",
    start: int = 0,
    reduced: bool = False,
    piece: Piece | None = None,
) -> dict[str, Any]:
    """One clip with one of its frames as arrays: a row of a batch.

    Args:
      clip: what is stored.
      frame: which of its frames.
      samples: S; a longer waveform is cut, a shorter one padded with zeros.
      image_size: H = W.
      needs: config.Modality: what the row carries.
      start: the first sample taken.
      reduced: see decode_image.
      piece: all that is seen of the picture; None: see decode_image.

    Raises:
      ValueError: naming the clip, if it lacks what is needed or its picture is damaged; nothing is ever replaced by constants.
    """
    made: dict[str, Any] = {"id": clip.id}
    if needs != "image":
        _require(clip, "sound", len(clip.waveform))
        waveform = np.zeros(samples, np.int16)
        taken = clip.waveform[start : start + samples]
        waveform[: len(taken)] = taken
        made |= {"waveform": waveform, "samples": np.int32(len(taken))}
    if needs != "audio":
        _require(clip, "picture", len(clip.frames))
        try:
            encoded = clip.frames[frame]
            made["image"] = decode_piece(encoded, image_size, piece) if piece else decode_image(encoded, image_size, reduced=reduced)
        except ValueError as error:
            raise ValueError(f"clip {clip.id}, frame {frame}: {error}; prepare the clip again or leave it out") from error
    return made


def _require(clip: Clip, what: str, there: int) -> None:
    if not there:
        raise ValueError(f"clip {clip.id} has no {what}, which the model needs; choose clips by what they have, or another model.modality")


@dataclasses.dataclass(frozen=True)
class _TrainExamples:
    """Positions to training examples; picklable for reader processes."""

    source: ClipSource
    model: ModelConfig
    augment: AugmentConfig
    classes: int  # of the targets; 0: none
    cumulative: np.ndarray | None  # float64[N], sums of the clips' weights where they are drawn by weight
    needs: str  # config.Modality: what batches carry

    def make(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        """The example at a place in the order; the rng is that place's own."""
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
        if options.specaug_freq or options.specaug_time or options.noise:
            made["augment_seed"] = np.uint32(rng.integers(2**32))
        return made

    def _view(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        """A random frame, or piece of it, and a random piece of a sound that is too long."""
        samples = num_samples(self.model.audio_frames)
        frame = int(rng.integers(max(1, len(clip.frames))))
        spare = len(clip.waveform) - samples
        start = int(rng.integers(spare + 1)) if spare > 0 else 0
        piece = random_piece(rng, self.augment.crop_area) if self.augment.crop_area < 1 else None
        size = self.model.image_size
        made = example(clip, frame, samples=samples, image_size=size, needs=self.needs, start=start, reduced=True, piece=piece)
        if self.augment.flip and "image" in made and rng.random() < 0.5:
            made["image"] = made["image"][:, ::-1]
        return made


class TrainBatches:
    """Endless batches, another order and another random frame of each clip in every pass.

    `state` is a small JSON dict; a reader made with the same arguments goes on exactly there.
    """

    def __init__(
        self,
        source: ClipSource,
        model: ModelConfig,
        data: DataConfig,
        batch_size: int,
        seed: int,
        *,
        augment: AugmentConfig | None = None,
        classes: int = 0,
        weights: np.ndarray | None = None,
        needs: Modality | None = None,
    ):
        """Opens the reader; it reads when it is first asked.

        Args:
          source: training clips.
          model: sizes of the inputs.
          data: reader threads and processes.
          batch_size: clips a batch, over all hosts.
          seed: of order and random choices, in [0, 2**32).
          augment: what is done to clips; None: nothing.
          classes: C of the targets; 0: batches carry none.
          weights: float[N], how often each clip is drawn where augment.balanced; see augment.balanced_weights. A pass is then N draws with
            replacement, in place of every clip once.
          needs: which modalities batches carry; None: those of the model.

        Raises:
          ValueError: if balanced sampling lacks weights, or they don't fit the source.
        """
        augment = augment or AugmentConfig()
        cumulative = _cumulative(weights, len(source)) if augment.balanced else None
        examples = _TrainExamples(source, model, augment, classes, cumulative, needs or model.modality)
        order = grain.MapDataset.range(len(source)).seed(seed)
        order = order if augment.balanced else order.shuffle()
        workers = grain.MultiprocessingOptions(num_workers=data.workers) if data.workers else None
        self._iterator = iter(
            grain.experimental.ElasticIterator(
                order.repeat().random_map(examples.make),
                batch_size,
                grain.sharding.ShardOptions(jax.process_index(), jax.process_count()),
                read_options=grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch),  # of whole batches
                multiprocessing_options=workers,
            )
        )

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch, this host's share of it."""
        return next(self._iterator)

    @property
    def state(self) -> dict[str, Any]:
        """Where the reader is."""
        return self._iterator.get_state()

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._iterator.set_state(state)

    def close(self) -> None:
        """Ends the reader's threads and processes."""
        self._iterator.close()


def eval_batches(
    source: ClipSource,
    model: ModelConfig,
    data: DataConfig,
    batch_size: int,
    *,
    limit: int = 0,
    crops: int = 1,
    frames: Frames = "middle",
    classes: int = 0,
    needs: Modality | None = None,
) -> Iterator[Batch]:
    """The clips in their order; the last batch may be smaller.

    A clip gives one row, or several next to each other with the same id, whose predictions are to be averaged: one for each crop of its
    sound with each of its frames. A sound that fits gives one crop, whatever `crops` says.

    Args:
      source: held-out clips.
      model: sizes of the inputs.
      data: reader threads.
      batch_size: rows a batch.
      limit: read only this many clips, spread evenly over the set, which may be sorted by class; 0: all.
      crops: pieces of a sound that is too long: its centre, or several, evenly spaced from its beginning to its end.
      frames: "first": the one at index 0; "middle": the one at index n // 2 of n; "all": each.
      classes: C of the targets, not smoothed; 0: none.
      needs: which modalities batches carry; None: those of the model.

    Raises:
      ValueError: if `crops` is less than 1.
    """
    if crops < 1:
        raise ValueError(f"crops is {crops}; it must be at least 1")
    clips = grain.MapDataset.source(source)
    clips = clips[:: max(1, len(clips) // limit)][:limit] if limit else clips
    ahead = -(-data.prefetch * batch_size // (crops * (NUM_FRAMES if frames == "all" else 1)))
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=ahead)
    needs = needs or cast(Modality, model.modality)
    views = clips.map(partial(_views, model=model, crops=crops, frames=frames, classes=classes, needs=needs)).to_iter_dataset(
        read_options=options
    )
    return _batched(itertools.chain.from_iterable(views), batch_size)


def centre(clip: Clip, model: ModelConfig) -> int:
    """The first sample of the part of a clip's sound that evaluation hears: the middle of a sound that is too long for the model."""
    return max(0, len(clip.waveform) - num_samples(model.audio_frames)) // 2


def _views(clip: Clip, *, model: ModelConfig, crops: int, frames: str, classes: int, needs: Modality) -> list[dict[str, Any]]:
    """All rows of a clip in evaluation."""
    samples = num_samples(model.audio_frames)
    spare = max(0, len(clip.waveform) - samples) if needs != "image" else 0
    starts = sorted({index * spare // (crops - 1) for index in range(crops)}) if crops > 1 else [centre(clip, model)]
    one = 0 if frames == "first" else len(clip.frames) // 2
    shown = range(max(1, len(clip.frames))) if frames == "all" and needs != "audio" else [one]
    targets = {"targets": _targets(clip, classes)} if classes else {}
    make = partial(example, clip, samples=samples, image_size=model.image_size, needs=needs)
    return [make(frame, start=start) | targets for start in starts for frame in shown]


def _batched(rows: Iterator[dict[str, Any]], batch_size: int) -> Iterator[Batch]:
    while batch := list(itertools.islice(rows, batch_size)):
        yield {name: np.stack([row[name] for row in batch]) for name in batch[0]}


def _targets(clip: Clip, classes: int, smoothing: float = 0.0, mixed: tuple[Clip, float] | None = None) -> np.ndarray:
    """As soft_targets; an error names the clip."""
    try:
        return soft_targets(clip.labels, classes, smoothing, (mixed[0].labels, mixed[1]) if mixed else None)
    except ValueError as error:
        raise ValueError(f"clip {clip.id}{f', mixed with {mixed[0].id}' if mixed else ''}: {error}") from error


def _cumulative(weights: np.ndarray | None, clips: int) -> np.ndarray:
    """Sums of the weights up to each clip: float64[N]; raises ValueError."""
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
