"""Makes the rows of batches from clips: one at random for training, all that evaluation averages.

Axis letters: F images of a clip, S samples, C classes.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from avmae_jax.config import AugmentConfig, Frames, Modality, ModelConfig
from avmae_jax.data.augment import random_piece, soft_targets
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.decode.images import decode_image, decode_piece
from avmae_jax.data.example import example
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.pairs import PieceImages, all_images, draw_images, images_at, window_starts


@dataclasses.dataclass(frozen=True, eq=False)
class TrainOptions:
    """Says what training batches carry besides plain clips."""

    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)  # random changes; the default makes none
    classes: int = 0  # C of the targets; 0: batches carry none
    # float64[N], how often each clip is drawn where augment.balanced, as augment.balanced_weights computes it. A pass is then N draws with
    # replacement, instead of every clip once.
    weights: np.ndarray | None = None
    needs: Modality | None = None  # which modalities batches carry; None: those of the model
    pairs: bool = False  # rows hold data.pairs_per_clip images of a clip, and where the window of each begins
    all_pairs: bool = False  # with pairs: rows hold all images of a clip


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Says which rows evaluation makes of which clips, and what they carry."""

    limit: int = 0  # read only this many clips, spread evenly over the set, which may be sorted by class; 0: all
    crops: int = 1  # pieces of audio that is too long: its centre, or several, evenly spaced from its beginning to its end
    frames: Frames = "middle"  # "first": the one at index 0; "middle": Clip.middle; "all": each, in a row of its own
    classes: int = 0  # C of the targets, not smoothed; 0: none
    needs: Modality | None = None  # which modalities batches carry; None: those of the model
    only: Sequence[int] | None = None  # read only these of the clips, numbered after `limit`; None: all
    pairs: bool = False  # each row holds all images of a clip, whatever `frames` says, and where the window of each begins
    one_pair: bool = False  # with pairs: each row holds the middle image alone, for losses, which training computes of drawn ones


@dataclasses.dataclass(frozen=True, eq=False)
class TrainExamples:
    """Makes training examples from positions in the order; picklable for reader processes."""

    source: ClipSource
    model: ModelConfig
    options: TrainOptions
    cumulative: np.ndarray | None  # float64[N], sums of the clips' weights where they are drawn by weight
    frames: int = 0  # images of a clip among which options.pairs draws ...
    pairs: int = 1  # ... so many

    def make(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        """Makes the example at a position; the rng is that position's own."""
        if self.cumulative is not None:
            # in (0, sum]: a clip of weight 0 is never the first whose sum reaches it
            position = int(np.searchsorted(self.cumulative, (1 - rng.random()) * self.cumulative[-1]))
        augment, clip = self.options.augment, self.source[position]
        images = self._draw(clip, rng) if self.options.pairs else None
        made, mixed = self._view(clip, rng, images), None
        if augment.mixup > 0:
            own = {name: made[name] for name in ("waveform", "samples", "image") if name in made}
            if rng.random() < augment.mixup:
                partner, share = self.source[int(rng.integers(len(self.source)))], float(rng.beta(augment.mixup_alpha, augment.mixup_alpha))
                # the images that are mixed belong to the same window of the mixture
                other = None if images is None else images_at(partner, self.model, self._draw(partner, rng).start, images.times)
                seen, mixed = self._view(partner, rng, other), (partner, share)
                made |= {f"{name}_b": seen[name] for name in own} | {"mix": np.float32(share)}
            else:
                made |= {f"{name}_b": np.zeros_like(value) for name, value in own.items()} | {"mix": np.float32(1)}
        if self.options.classes:
            made["targets"] = targets_of(clip, self.options.classes, augment.label_smoothing, mixed)
        if augment.changes_audio or augment.changes_images:
            made["augment_seed"] = np.uint32(rng.integers(2**32))
        return made

    @property
    def _needs(self) -> Modality:
        return self.options.needs or cast(Modality, self.model.modality)

    def _draw(self, clip: Clip, rng: np.random.Generator) -> PieceImages:
        """Draws a piece and images of it."""
        return draw_images(_needed(clip, self._needs), self.model, rng, self.frames, self.pairs)

    def _view(self, clip: Clip, rng: np.random.Generator, images: PieceImages | None) -> dict[str, Any]:
        """Takes these images of a piece; with None a random frame and a random piece of audio that is too long. Images may be cut."""
        augment, model = self.options.augment, self.model
        samples, frame, start = num_samples(model.spectrogram_frames), 0, 0
        if images is None:
            frame = int(rng.integers(max(1, len(clip.frames))))
            spare = len(clip.waveform) - samples
            start = int(rng.integers(spare + 1)) if spare > 0 else 0
        cropped = augment.crop_area < 1
        decode = partial(decode_piece, piece=random_piece(rng, augment.crop_area)) if cropped else partial(decode_image, reduced=True)
        make = partial(example, clip, samples=samples, image_size=model.image_size, needs=self._needs, decode=decode)
        made = make(frame, start=start) if images is None else _paired(make, images, model)
        if augment.flip and "image" in made and rng.random() < 0.5:
            made["image"] = made["image"][..., ::-1, :]
        return made


def centre(clip: Clip, model: ModelConfig) -> int:
    """Returns the first sample that evaluation takes of a clip: the middle part of audio that is too long for the model."""
    return max(0, len(clip.waveform) - num_samples(model.spectrogram_frames)) // 2


def covering(clip: Clip, model: ModelConfig) -> list[int]:
    """Returns the first samples of the fewest evenly spaced windows that cover all of a clip's audio."""
    samples = num_samples(model.spectrogram_frames)
    spare = max(0, len(clip.waveform) - samples)
    count = -(-spare // samples) + 1
    return [number * spare // max(1, count - 1) for number in range(count)]


def views(clip: Clip, *, model: ModelConfig, options: EvalOptions, frames: int) -> list[dict[str, Any]]:
    """Makes all rows of a clip in evaluation; with options.pairs they have `frames` images each."""
    samples, crops, needs = num_samples(model.spectrogram_frames), options.crops, options.needs or cast(Modality, model.modality)
    spare = max(0, len(clip.waveform) - samples) if needs != "image" else 0
    starts = sorted({index * spare // (crops - 1) for index in range(crops)}) if crops > 1 else [centre(clip, model)]
    targets = {"targets": targets_of(clip, options.classes)} if options.classes else {}
    if options.pairs:
        images = 1 if options.one_pair else frames
        return [paired_row(clip, model, needs, start, images) | targets for start in (starts if needs != "image" else [0])]
    one = 0 if options.frames == "first" else clip.middle
    shown = range(max(1, len(clip.frames))) if options.frames == "all" and needs != "audio" else [one]
    make = partial(example, clip, samples=samples, image_size=model.image_size, needs=needs)
    return [make(frame, start=start) | targets for start in starts for frame in shown]


def paired_row(clip: Clip, model: ModelConfig, needs: Modality, start: int, frames: int, **options: Any) -> dict[str, Any]:
    """Makes the row of a piece of a clip with `frames` of its images, spread evenly, and where the window of each begins.

    Args:
      clip: what is stored.
      model: sizes of the inputs.
      needs: what the row carries.
      start: the piece's first sample.
      frames: F; a piece with fewer images repeats some, and one image is the middle one.
      **options: of example.

    Raises:
      ValueError: as example.
    """
    images = all_images(_needed(clip, needs), model, start, frames)
    samples = num_samples(model.spectrogram_frames)
    return _paired(partial(example, clip, samples=samples, image_size=model.image_size, needs=needs, **options), images, model)


def _paired(make: partial[dict[str, Any]], images: PieceImages, model: ModelConfig) -> dict[str, Any]:
    """Makes a row with several images, and with their windows where it has audio."""
    made = make(images.frames.tolist(), start=images.start)
    return made | ({"window": window_starts(images.times, model)} if "waveform" in made else {})


def _needed(clip: Clip, needs: Modality) -> Clip:
    """Leaves out audio that isn't needed, so that its length doesn't decide which images are taken."""
    return clip._replace(waveform=clip.waveform[:0]) if needs == "image" else clip


def targets_of(clip: Clip, classes: int, smoothing: float = 0.0, mixed: tuple[Clip, float] | None = None) -> np.ndarray:
    """Computes soft_targets; an error names the clip."""
    try:
        return soft_targets(clip.labels, classes, smoothing, (mixed[0].labels, mixed[1]) if mixed else None)
    except ValueError as error:
        raise ValueError(f"clip {clip.id}{f', mixed with {mixed[0].id}' if mixed else ''}: {error}") from error
