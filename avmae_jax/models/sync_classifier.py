"""Defines the fine-tuned model of CAV-MAE Sync: a vector of each pair, and a class token with a few blocks over a clip's vectors.

What a pair's vector is, `model.pair_pool` says:

  mean    the mean of all its tokens after the joint blocks, which are used and trained. One modality gives a vector of the same width, so
          that a model tuned on both can be given one. For audio alone and images alone this is the published classifier.
  global  the mean of its class tokens after the joint blocks; published, with `model.pair_depth` 0, for audio alone and images alone.
  late    the class tokens of audio and image side by side, taken before the joint blocks, which then do nothing: published for both.

The blocks over the vectors know no positions: the order of a clip's pairs doesn't matter.

Axis letters: B clips, F pairs of a clip, T spectrogram frames, M mel bins, H W image, L tokens, D width, C classes.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from avmae_jax.config import Config, ModelConfig
from avmae_jax.models.cavmae import MODALITIES
from avmae_jax.models.classifier import CAVMAEClassifier, Head
from avmae_jax.models.encoder import VECTORS, Inputs
from avmae_jax.models.layers import MAIN, Block, Stage, branch_key, dropout, layer_norm, linear, run_blocks, token_init
from avmae_jax.models.modes import MULTIMODAL, Mode
from avmae_jax.models.pairs import USUAL_PAIRS, merge_pairs, pairs_in
from avmae_jax.models.rows import RowKey
from avmae_jax.models.tokens import GLOBAL, Tokens, join, name_of, of_modality, of_part

Rows = dict[str, Float[Array, "rows _ _"]]  # tokens whose rows are pairs
# A modality alone goes through the norms of both: the published models of one modality use these.
MODES = (
    MULTIMODAL,
    Mode("audioonly", ("audio",), (MAIN,), fallback=True),
    Mode("videoonly", ("image",), (MAIN,), fallback=True),
)


class PairHead(nnx.Module):
    """Turns the vectors of a clip's pairs into logits: a class token and blocks over them, LayerNorm and a linear layer."""

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        width = _vector_width(config)
        self.dropout = config.head_dropout
        self.token = nnx.Param(token_init(rngs.params(), (width,)))
        self.blocks = nnx.List(Block(config, width, config.shape.heads, rngs=rngs) for _ in range(config.pair_depth))
        last = linear(width, classes, jnp.dtype(config.product_dtype), rngs)
        self.last = nnx.Dict({"norm": layer_norm(width, config.norm_eps, rngs), "linear": last})

    def __call__(self, vectors: Float[Array, "B F V"], key: RowKey | None = None) -> Float32[Array, "B 1 C"]:
        """Computes the logits of clips; `key` is that of dropout in training."""
        token = jnp.broadcast_to(self.token[...].astype(vectors.dtype)[None, None], (len(vectors), 1, vectors.shape[2]))
        seen = run_blocks(self.blocks, jnp.concatenate([token, vectors], axis=1))[:, :1]
        return self.last["linear"](dropout(self.last["norm"](seen), self.dropout, key)).astype(jnp.float32)


class SyncClassifier(CAVMAEClassifier):
    """CAV-MAE Sync's encoder with a classification head over pairs.

    Its inputs are "audio" -> normalised log-mel of windows, float[B, F, T, M], and "image" -> normalised images, float[B, F, H, W, 3].
    Everything else is as of CAVMAEClassifier.

    Raises:
      ValueError: as CAVMAEClassifier, or if the vectors of pairs need class tokens and the config has none.
    """

    def __init__(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs):
        config.require("pair_pool", config.pair_pool == "mean" or config.class_token, "it needs model.class_token; set it, or use mean")
        config.require(
            "pair_depth", config.pair_depth > 0 or config.pair_pool != "late", "model.pair_pool=late needs blocks over the pairs"
        )
        super().__init__(config, classes, rngs=rngs)
        self.width = _vector_width(config)
        self.pair_pool, self.unchained_contrastive = config.pair_pool, config.unchained_contrastive

    def make_head(self, config: ModelConfig, classes: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """Makes what turns the vectors of pairs into logits; without blocks over them it is CAV-MAE's head."""
        return (PairHead if config.pair_depth else Head)(config, classes, rngs=rngs)

    def separate(self, inputs: Inputs, key: RowKey | None = None) -> Tokens:
        """Computes the tokens before the joint blocks, those of a clip's pairs behind each other in one segment: [B, F * L, D]."""
        clips, _ = pairs_in(inputs)
        tokens = self.encoder.separate(merge_pairs(inputs), key=key)
        return {name: segment.reshape(clips, -1, segment.shape[2]) for name, segment in tokens.items()}

    def logits(self, tokens: Tokens, mode: Mode, key: RowKey | None = None) -> Float32[Array, "B C"]:
        """Computes the logits of the tokens of separate. `key` is that of drop-path and dropout in training.

        Raises:
          ValueError: if a modality that the mode needs isn't given, or the mode takes one where the vectors are those of both.
        """
        if self.pair_pool == "late" and mode != MULTIMODAL:
            raise ValueError(f"model.pair_pool is 'late', whose vectors are those of audio and image; the mode {mode} gives one of them")
        clips = len(next(iter(tokens.values())))
        rows = self._rows({name: segment for m in mode.inputs for name, segment in of_modality(tokens, m).items()})
        vectors = self._vectors(rows, branch_key(key, 0)).reshape(clips, -1, self.width)
        return self.head(vectors, branch_key(key, 1)).mean(axis=1)

    def vectors(self, tokens: Tokens, what: Sequence[str] = VECTORS) -> dict[str, Float32[Array, "B F D"]]:
        """Computes a vector of length 1 of each pair, of the tokens of separate."""
        clips = len(next(iter(tokens.values())))
        vectors = self.encoder.vectors(self._rows(tokens), what, unchained=self.unchained_contrastive)
        return {kind: vector.reshape(clips, -1, vector.shape[1]) for kind, vector in vectors.items()}

    def _rows(self, tokens: Tokens) -> Rows:
        """Undoes how separate puts the pairs of a clip behind each other: [B, F * L, D] -> [B * F, L, D]."""
        towers = {"audio": self.encoder.audio, "image": self.encoder.image}
        patches = {modality: len(tower.positions[...]) for modality, tower in towers.items()}
        lengths = {name: 1 if name.endswith(f".{GLOBAL}") else patches[name.partition(".")[0]] for name in tokens}
        return {name: segment.reshape(-1, lengths[name], segment.shape[2]) for name, segment in tokens.items()}

    def _vectors(self, rows: Rows, key: RowKey | None) -> Float32[Array, "rows V"]:
        """Computes the vector of each pair."""
        if self.pair_pool == "late":
            return jnp.concatenate([rows[name_of(modality, GLOBAL)][:, 0] for modality in MODALITIES], axis=-1)
        final = self.encoder.joint(rows, key=key)
        return join(final if self.pair_pool == "mean" else of_part(final, GLOBAL)).mean(axis=1, dtype=jnp.float32)


def _vector_width(config: ModelConfig) -> int:
    """Returns V, the width of a pair's vector."""
    return config.shape.width * (2 if config.pair_pool == "late" else 1)


def stages(config: Config, mode: Mode) -> list[Stage]:
    """Lists every run of a block stack in one pass of a mode, for the arithmetic and memory of a step."""
    model, own = config.model, int(config.model.class_token)
    shape, pairs = model.shape, config.data.frames or USUAL_PAIRS
    lengths = [rows * columns + own for rows, columns in map(model.grid, mode.inputs)]
    towers = [Stage(shape.depth - model.joint_depth, length + model.registers, shape.width, pairs) for length in lengths]
    joint = [] if model.pair_pool == "late" else [Stage(model.joint_depth, sum(lengths), shape.width, pairs)]
    return [*towers, *joint, Stage(model.pair_depth, 1 + pairs, _vector_width(model))]


def is_unused(config: ModelConfig, name: str) -> bool:
    """Returns whether no mode uses a parameter, by its dotted name: blocks for the contrast and, with late fusion, the joint blocks."""
    late = config.pair_pool == "late" and name.startswith(("encoder.blocks.", "encoder.norm."))
    return late or name.startswith("encoder.contrast.")
