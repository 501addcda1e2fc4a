"""Computes how well the audio and the images of one medium match along time.

Every image gets a vector, and so does the window of audio around its time; a model that was trained on contrast gives matching ones a
greater cosine. What a cosine is worth differs from clip to clip and from model to model, so each moment is also ranked: the share of other
moments of the same medium, and of other clips, that match worse. Both directions count alike: other audio with the moment's image, and
other images with its audio. A rank is .5 on average where audio and image have nothing to do with each other, and 1 where nothing else
matches as well. Against other clips it says whether the audio is of what is seen; against other moments, whether it is of this very moment:
where the same goes on all the time, no moment is better than the others, and that rank stays near .5.

Axis letters: n moments, S seconds, R references, D width, B batch, P rows and columns of an image's patches.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.data.frontend import model_inputs
from avmae_jax.inference.forward import Forward
from avmae_jax.inference.moments import Moment, Sizes
from avmae_jax.inference.offset import Track
from avmae_jax.models.pairs import merge_pairs
from avmae_jax.models.pooling import unit_length
from avmae_jax.models.tokens import PATCHES, name_of
from avmae_jax.weights.trained import Trained, require_match

BATCH = 16  # moments computed at once
HEAT = "heat"
_BLOCK = 1 << 22  # cosines in memory at once
_LEAST_OTHERS = 8  # moments, so that a rank among them says anything


@dataclasses.dataclass(frozen=True, eq=False)
class MomentVectors:
    """Holds the vectors of the n moments of one medium, in order of time."""

    times: np.ndarray  # float64[n], s, when the images are shown
    centres: np.ndarray  # float64[n], s, the middles of the windows of audio; they differ from `times` near both ends
    window: float  # s, length of the windows
    audio: np.ndarray  # float32[n, D], of length 1
    image: np.ndarray  # float32[n, D], of length 1
    heat: np.ndarray | None = None  # float32[n, P, P]: cosine of the moment's audio with each patch of its image

    @property
    def match(self) -> np.ndarray:
        """Computes the cosine of audio and image of each moment: float32[n]."""
        return np.einsum("nd,nd->n", self.image, self.audio)

    @property
    def tracks(self) -> tuple[Track, Track]:
        """Returns what moves along time of images and of audio, for find_offset."""
        return Track.moving(self.times, self.image), Track.moving(self.centres, self.audio)

    def matrix(self, start: float = 0.0, end: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
        """Computes the cosines of all images with all windows between two times.

        Returns:
          int[m], the moments whose time is in [start, end), and float32[m, m]: a row for each of their images, a column for each window.
        """
        chosen = np.flatnonzero((self.times >= start) & (self.times < end))
        return chosen, self.image[chosen] @ self.audio[chosen].T


class MomentEmbedder:
    """Computes the vectors of moments with one model; with a lock several threads take turns batch by batch."""

    def __init__(self, trained: Trained, *, heat: bool = False, device: contextlib.AbstractContextManager[Any] | None = None):
        """Compiles nothing yet.

        Args:
          trained: a CAV-MAE or CAV-MAE Sync, or a classifier that was tuned on both modalities.
          heat: also compute the cosine of the audio with each patch of the image.
          device: a lock that is held while the model computes; None: there is one caller.

        Raises:
          ValueError: if the model's vectors of audio and image can't be compared.
        """
        require_match(trained)
        self.trained = trained
        self._device = device or contextlib.nullcontext()
        self._forward = Forward(self._function(heat), BATCH)

    def __call__(self, moments: Iterable[Moment]) -> MomentVectors:
        """Computes the vectors of the moments of one medium; raises what making the moments raises."""
        times, centres, parts = [], [], []
        for some in _batches(moments, BATCH):
            times += [moment.time for moment in some]
            centres += [moment.centre for moment in some]
            names = some[0].arrays
            batch = {"id": np.arange(len(some))} | {name: np.stack([moment.arrays[name] for moment in some]) for name in names}
            with self._device:
                ((_, outputs),) = self._forward(self.trained.module, [batch])
            parts.append(outputs)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not np.isfinite(joined["audio"]).all() or not np.isfinite(joined["image"]).all():
            raise ValueError(f"{self.trained.path}: the vectors aren't finite; its weights are damaged")
        window = Sizes.of(self.trained.config).window_seconds
        return MomentVectors(np.array(times), np.array(centres), window, joined["audio"], joined["image"], joined.get(HEAT))

    def _function(self, heat: bool) -> Any:
        config, spec = self.trained.config, self.trained.spec
        rows, columns = config.model.grid("image")

        def outputs(module: Any, batch: Any) -> dict[str, jax.Array]:
            inputs = model_inputs(batch, config)
            found = {name: vectors.reshape(len(vectors), -1) for name, vectors in module.embed(inputs, ("audio", "image")).items()}
            if heat:
                tokens = module.encoder.separate(merge_pairs(inputs) if spec.pairs else inputs)
                unchained = getattr(module, "unchained_contrastive", False)  # as the vectors are
                final = module.encoder.joint(tokens, "image", unchained=unchained)[name_of("image", PATCHES)]
                found[HEAT] = jnp.einsum("bld,bd->bl", unit_length(final), found["audio"]).reshape(-1, rows, columns)
            return found

        return outputs


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """Holds vectors of other clips, by which a match is ranked."""

    audio: np.ndarray  # float32[R, D], of length 1
    image: np.ndarray  # float32[R, D], of length 1

    @classmethod
    def of(cls, vectors: Mapping[str, np.ndarray]) -> "References":
        """Takes the vectors of clips, [N, D], or of their pairs, [N, F, D], without the zeros that stand where a clip lacks a modality.

        Raises:
          ValueError: if audio or image is missing, or has too few vectors.
        """
        found = {}
        for name in ("audio", "image"):
            rows = vectors[name].reshape(-1, vectors[name].shape[-1]) if name in vectors else np.zeros((0, 1), np.float32)
            found[name] = rows[np.abs(rows).sum(axis=1) > 0]
            if len(found[name]) < _LEAST_OTHERS:
                raise ValueError(f"the other clips have {len(found[name])} vectors of {name}; a rank needs at least {_LEAST_OTHERS}")
        return cls(**found)


@dataclasses.dataclass(frozen=True, eq=False)
class MatchTimeline:
    """Says how well audio and image match in each of the S seconds of a medium. NaN: that second has no moment, or there is no rank."""

    seconds: np.ndarray  # int64[S], those that have a moment
    match: np.ndarray  # float32[S], the mean cosine over the second's moments
    moment_rank: np.ndarray  # float32[S], share of moments elsewhere in the medium that match worse; .5 is chance
    clip_rank: np.ndarray  # float32[S], share of other clips that match worse; .5 is chance


def match_timeline(vectors: MomentVectors, references: References | None = None) -> MatchTimeline:
    """Computes the match of each second and its ranks.

    Args:
      vectors: of a medium.
      references: of other clips, by the same model; None: no rank among clips is computed.
    """
    match = vectors.match
    ranks = {"moment_rank": _rank_of_moments(vectors, match)}
    if references is not None:
        ranks["clip_rank"] = _shares(vectors.image, references.audio, match) / 2 + _shares(vectors.audio, references.image, match) / 2
    second = np.floor(vectors.times).astype(np.int64)
    seconds, place = np.unique(second, return_inverse=True)
    values = {"match": match, "clip_rank": np.full(len(match), np.nan), **ranks}
    means = {name: (np.bincount(place, each) / np.bincount(place)).astype(np.float32) for name, each in values.items()}
    return MatchTimeline(seconds, **means)


def _rank_of_moments(vectors: MomentVectors, match: np.ndarray) -> np.ndarray:
    """Computes each moment's rank among those whose windows don't overlap its own; NaN where there are too few: float64[n]."""
    ranks = np.full(len(match), np.nan)
    for block in _blocks(len(match), len(match)):
        apart = np.abs(vectors.centres[block, None] - vectors.centres[None]) >= vectors.window
        others = apart.sum(axis=1)
        own = match[block, None]
        worse = (vectors.image[block] @ vectors.audio.T < own) & apart, (vectors.audio[block] @ vectors.image.T < own) & apart
        shares = sum(each.sum(axis=1) for each in worse) / np.maximum(2 * others, 1)
        ranks[block] = np.where(others >= _LEAST_OTHERS, shares, np.nan)
    return ranks


def _shares(queries: np.ndarray, others: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Computes the share of other vectors whose cosine with each query is less than its match: float64[n]."""
    shares = [(queries[block] @ others.T < match[block, None]).mean(axis=1) for block in _blocks(len(queries), len(others))]
    return np.concatenate(shares)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yields slices of the rows of a matrix of which not all may be in memory at once."""
    size = max(1, _BLOCK // columns)
    yield from (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _batches(moments: Iterable[Moment], size: int) -> Iterator[list[Moment]]:
    iterator = iter(moments)
    while some := list(itertools.islice(iterator, size)):
        yield some
