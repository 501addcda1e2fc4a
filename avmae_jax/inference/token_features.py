"""Computes what probes are given of a frozen encoder: statistics of each clip's tokens, over all of its windows and over its centre.

    layer      "audio", "image"                                        "both"
    separate   a modality's tokens before the joint blocks             both, side by side
    joint      the same after the joint blocks with the norms of one   both, through the joint blocks together

Of a model of pairs they are the tokens of all pairs of a window.

Axis letters: B rows, L tokens, D width.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np

from avmae_jax.config import Modality
from avmae_jax.data.batches import Batch, frames_there
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.example import example
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.frontend import model_inputs
from avmae_jax.data.rows import centre, covering, paired_row
from avmae_jax.inference.embed import require_vectors
from avmae_jax.inference.forward import BATCH, Forward
from avmae_jax.models.layers import MAIN
from avmae_jax.models.pairs import merge_pairs
from avmae_jax.models.tokens import PATCHES, Tokens, join, of_modality, of_part
from avmae_jax.weights.trained import Trained

Layer = Literal["joint", "separate"]
TOKENS = "tokens"


class ClipFeatures(NamedTuple):
    """Holds the features of a clip."""

    clip: Clip
    arrays: dict[str, np.ndarray]  # "<given>.<whole or centre>.<mean or std>" float32[D], of both [2 D]; "<given>.tokens" float16[L, D]


class TokenFeatures:
    """Computes the features of clips with one compiled function."""

    def __init__(self, trained: Trained, layer: Layer, given: Modality, *, tokens: bool = False, batch_size: int = BATCH):
        """Compiles nothing yet.

        Args:
          trained: a CAV-MAE or its classifier.
          layer: whose tokens are taken.
          given: what all clips have; of both, the features of each alone are computed too.
          tokens: also keep every token.
          batch_size: windows computed at once.

        Raises:
          ValueError: for another kind of model.
        """
        require_vectors(trained)
        self.trained, self._size = trained, batch_size
        self.given: Modality = given
        self.settings: dict[str, str | bool] = {"layer": layer, "given": given, "tokens": tokens}
        config, pairs = trained.config, trained.spec.pairs

        def compute(module: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            inputs = model_inputs(batch, config)
            clips = len(next(iter(inputs.values())))
            tokens_of = module.encoder.separate(merge_pairs(inputs) if pairs else inputs)
            unchained = pairs and module.unchained_contrastive  # as the vectors of pairs are
            found = _sequences(module, tokens_of, layer, given, unchained=unchained)
            found = {kind: [part.reshape(clips, -1, part.shape[2]) for part in parts] for kind, parts in found.items()}
            return {name: value for kind, parts in found.items() for name, value in _statistics(kind, parts, tokens).items()}

        self._forward = Forward(compute, batch_size)

    def __call__(self, source: ClipSource) -> Iterator[ClipFeatures]:
        """Yields the features of each clip of a source, in their order; raises ValueError for a clip that lacks what is given."""
        options = grain.ReadOptions(num_threads=self.trained.config.data.threads, prefetch_buffer_size=2 * self._size)
        clips = iter(grain.MapDataset.source(source).to_iter_dataset(read_options=options))
        frames = frames_there(source, self.trained.config.data) if self.trained.spec.pairs else 0
        waiting: list[tuple[Clip, int]] = []  # clips with their rows

        def rows() -> Iterator[dict[str, Any]]:
            for clip in clips:
                made = self._rows(clip, frames)
                waiting.append((clip, len(made)))
                yield from made

        computed: list[dict[str, np.ndarray]] = []
        for batch, found in self._forward(self.trained.module, _batched(rows(), self._size)):
            computed += [{name: values[row] for name, values in found.items()} for row in range(len(batch["id"]))]
            while waiting and len(computed) >= waiting[0][1]:
                clip, count = waiting.pop(0)
                yield ClipFeatures(clip, _summarised(computed[:count]))
                del computed[:count]

    def _rows(self, clip: Clip, frames: int) -> list[dict[str, Any]]:
        """Makes the rows of a clip: its centre, then evenly spaced windows that cover all of its audio if one isn't enough.

        For a model of pairs each has so many `frames`.
        """
        model = self.trained.config.model
        samples = num_samples(model.audio_frames)
        windows = covering(clip, model) if self.given != "image" else [0]
        starts = [centre(clip, model), *(windows if len(windows) > 1 else ())]
        if frames:
            return [paired_row(clip, model, self.given, start, frames) for start in starts]
        return [example(clip, clip.middle, samples=samples, image_size=model.image_size, needs=self.given, start=start) for start in starts]


def _sequences(module: Any, tokens: Tokens, layer: Layer, given: Modality, *, unchained: bool) -> dict[str, list[jax.Array]]:
    """Collects the patch tokens of each kind of features: [B, L, D] for each of its modalities."""
    modalities = ("audio", "image") if given == "both" else (given,)

    def patches(segments: Tokens, modality: str) -> jax.Array:
        return join(of_part(of_modality(segments, modality), PATCHES)).astype(jnp.float32)

    if layer == "separate":
        found = {modality: [patches(tokens, modality)] for modality in modalities}
        return found | ({"both": [part for parts in found.values() for part in parts]} if given == "both" else {})
    found = {m: [patches(module.encoder.joint(tokens, m, unchained=unchained), m)] for m in modalities}
    if given == "both":
        together = module.encoder.joint(of_part(tokens, PATCHES), MAIN)
        found["both"] = [patches(together, modality) for modality in modalities]
    return found


def _statistics(kind: str, parts: list[jax.Array], tokens: bool) -> dict[str, jax.Array]:
    found = {
        f"{kind}.mean": jnp.concatenate([part.mean(axis=1) for part in parts], axis=1),
        f"{kind}.std": jnp.concatenate([part.std(axis=1) for part in parts], axis=1),
    }
    return found | ({f"{kind}.{TOKENS}": jnp.concatenate(parts, axis=1).astype(jnp.float16)} if tokens else {})


def _summarised(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins the rows of a clip, of which the first is its centre; "image" needs no other."""
    arrays: dict[str, np.ndarray] = {}
    for kind in (name.removesuffix(".mean") for name in rows[0] if name.endswith(".mean")):
        windows = rows[:1] if kind == "image" or len(rows) == 1 else rows[1:]
        means, deviations = (np.stack([row[f"{kind}.{name}"] for row in windows]).astype(np.float64) for name in ("mean", "std"))
        mean = means.mean(axis=0)
        spread = (np.square(deviations) + np.square(means - mean)).mean(axis=0)
        arrays |= {f"{kind}.whole.mean": mean.astype(np.float32), f"{kind}.whole.std": np.sqrt(spread).astype(np.float32)}
        arrays |= {f"{kind}.centre.{name}": rows[0][f"{kind}.{name}"] for name in ("mean", "std")}
        if f"{kind}.{TOKENS}" in rows[0]:
            arrays[f"{kind}.{TOKENS}"] = np.concatenate([row[f"{kind}.{TOKENS}"] for row in windows])
    return arrays


def _batched(rows: Iterable[dict[str, Any]], size: int) -> Iterator[Batch]:
    held: list[dict[str, Any]] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield {name: np.stack([one[name] for one in held]) for name in held[0]}
            held = []
    if held:
        yield {name: np.stack([one[name] for one in held]) for name in held[0]}
