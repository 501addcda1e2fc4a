"""Clips to batches: pick a frame, decode it, shuffle, batch, give each host its share.

The host only decodes; scaling, the log-mel and normalisation are part of the jitted step. A batch is a dict of NumPy arrays:

  id        str[B]
  waveform  int16[B, S], zeros after the clip's end
  samples   int32[B], how many of the S belong to the clip
  image     uint8[B, H, W, 3]

The order and every random choice follow from the seed and the position alone, so that the reader's whole state is one number, which
survives another number of hosts or workers.
"""

import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import grain
import jax
import numpy as np
from PIL import Image

from avmae_jax.config import DataConfig, ModelConfig
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.fbank import num_samples

EVAL_FRAME = 5  # the middle one of ten, as in the original

Batch = dict[str, np.ndarray]


def example(clip: Clip, frame: int, *, samples: int, image_size: int) -> dict[str, Any]:
    """One clip with one of its frames as arrays; a longer waveform is cut, a shorter one padded with zeros."""
    waveform = np.zeros(samples, np.int16)
    length = min(samples, len(clip.waveform))
    waveform[:length] = clip.waveform[:length]
    image = decode_image(clip.frames[frame], image_size)
    return {"id": clip.id, "waveform": waveform, "samples": np.int32(length), "image": image}


def decode_image(jpeg: bytes, size: int) -> np.ndarray:
    """Encoded picture -> uint8[size, size, 3]: short side resized (bicubic) unless it fits, then the centre cut out.

    Sides and offsets are rounded as by torchvision's Resize and CenterCrop, which the original loads its pictures with.
    """
    with Image.open(io.BytesIO(jpeg)) as opened:
        picture = opened.convert("RGB")
    short = min(picture.size)
    if short != size:
        width, height = (int(size * side / short) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in picture.size)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


class TrainBatches:
    """Endless shuffled batches, another order and another random frame of each clip in every pass.

    `state` is a small JSON dict; a reader made with the same arguments goes on exactly there.
    """

    def __init__(self, source: ClipSource, model: ModelConfig, data: DataConfig, batch_size: int, seed: int):
        sizes = {"samples": num_samples(model.audio_frames), "image_size": model.image_size}
        clips = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(partial(_random_frame, **sizes))
        workers = grain.MultiprocessingOptions(num_workers=data.workers) if data.workers else None
        self._iterator = iter(
            grain.experimental.ElasticIterator(
                clips,
                batch_size,
                grain.sharding.ShardOptions(jax.process_index(), jax.process_count()),
                read_options=grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch * batch_size),
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


def eval_batches(source: ClipSource, model: ModelConfig, data: DataConfig, batch_size: int, *, limit: int = 0) -> Iterator[Batch]:
    """The clips in their order, with the middle frame; the last batch may be smaller.

    Args:
      source: held-out clips.
      model: sizes of the inputs.
      data: reader threads.
      batch_size: clips a batch.
      limit: read only this many clips, spread evenly over the set, which may be sorted by class; 0: all.
    """
    make = partial(_middle_frame, samples=num_samples(model.audio_frames), image_size=model.image_size)
    clips = grain.MapDataset.source(source).map(make)
    clips = clips[:: max(1, len(clips) // limit)][:limit] if limit else clips
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch * batch_size)
    return iter(clips.batch(batch_size).to_iter_dataset(read_options=options))


def _random_frame(clip: Clip, rng: np.random.Generator, **sizes: int) -> dict[str, Any]:
    return example(clip, int(rng.integers(len(clip.frames))), **sizes)


def _middle_frame(clip: Clip, **sizes: int) -> dict[str, Any]:
    return example(clip, EVAL_FRAME, **sizes)
