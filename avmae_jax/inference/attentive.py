"""Fits the attentive probe: one learned query weighs a clip's tokens, and a linear layer classifies their weighted mean.

Axis letters: N clips, L tokens, D width, C classes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

_BOUND = 1e4  # deviations, within float16
_STEPS, _BATCH, _RATE = 300, 32, 1e-2

Probe = dict[str, jax.Array]  # "query" [D], "weight" [D, C], "bias" [C]


def with_mask(tokens: list[np.ndarray]) -> np.ndarray:
    """Stacks the tokens of clips, each [L, D] with an L of its own: float16[N, L, D + 1], whose last column is 1 where there is a token."""
    longest = max(map(len, tokens))
    stacked = np.zeros((len(tokens), longest, tokens[0].shape[1] + 1), np.float16)
    for row, own in zip(stacked, tokens, strict=True):
        row[: len(own), :-1], row[: len(own), -1] = own, 1
    return stacked


def _logits(probe: Probe, features: jax.Array) -> jax.Array:
    tokens, there = features[..., :-1], features[..., -1] > 0
    scores = tokens @ probe["query"] / jnp.sqrt(jnp.float32(tokens.shape[-1]))
    weights = jax.nn.softmax(jnp.where(there, scores, -jnp.inf), axis=-1)
    return jnp.einsum("nl,nld->nd", weights, tokens) @ probe["weight"] + probe["bias"][None]


@functools.partial(jax.jit, static_argnames=("exclusive",))
def _fitted(features: jax.Array, targets: jax.Array, decay: jax.Array, key: jax.Array, exclusive: bool) -> Probe:
    """Fits a probe to float[N, L, D + 1] by AdamW on random batches, with a cosine schedule and weight decay on weight and query."""
    width, classes = features.shape[-1] - 1, targets.shape[-1]
    probe: Probe = {"query": jnp.zeros(width), "weight": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
    schedule = optax.cosine_decay_schedule(_RATE, _STEPS)
    optimizer = optax.adamw(schedule, weight_decay=decay, mask={"query": True, "weight": True, "bias": False})  # pyright: ignore[reportArgumentType]

    def loss(probe: Probe, rows: jax.Array) -> jax.Array:
        logits, wanted = _logits(probe, features[rows].astype(jnp.float32)), targets[rows]
        per_clip = optax.softmax_cross_entropy if exclusive else optax.sigmoid_binary_cross_entropy
        return per_clip(logits, wanted).mean()

    def step(carry: tuple[Probe, optax.OptState], key: jax.Array) -> tuple[tuple[Probe, optax.OptState], None]:
        probe, state = carry
        rows = jax.random.choice(key, len(features), (min(_BATCH, len(features)),), replace=False)
        updates, state = optimizer.update(jax.grad(loss)(probe, rows), state, probe)
        return (optax.apply_updates(probe, updates), state), None  # pyright: ignore[reportReturnType]

    (probe, _), _ = jax.lax.scan(step, (probe, optimizer.init(probe)), jax.random.split(key, _STEPS))  # pyright: ignore[reportArgumentType]
    return probe


@jax.jit
def _applied(probe: Probe, features: jax.Array) -> jax.Array:
    return _logits(probe, features.astype(jnp.float32))


def attentive(features: np.ndarray, targets: np.ndarray, others: np.ndarray, *, decay: float, exclusive: bool, seed: int) -> np.ndarray:
    """Fits a probe to the tokens of clips and computes the probabilities of other clips.

    Args:
      features: float16[N, L, D + 1], as of with_mask; they are scaled by their mean and deviation.
      targets: [N, C], 1 or True where a clip has a class.
      others: float16[M, L', D + 1].
      decay: of the weights, as in AdamW.
      exclusive: whether a clip has one class alone.
      seed: of the order of the clips.

    Returns:
      float64[M, C].
    """
    features, others = _scaled(features, others)
    probe = _fitted(features, jnp.asarray(targets, jnp.float32), jnp.float32(decay), jax.random.key(seed), exclusive)
    logits = jnp.concatenate([_applied(probe, others[start : start + _BATCH]) for start in range(0, len(others), _BATCH)])
    return np.asarray(jax.nn.softmax(logits) if exclusive else jax.nn.sigmoid(logits), np.float64)


def _scaled(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brings each number of the tokens to mean 0 and deviation 1 over the tokens of all training clips, float16 like the tokens."""
    there = features[..., -1] > 0
    tokens = features[..., :-1][there].astype(np.float32)
    mean, std = tokens.mean(axis=0), np.maximum(tokens.std(axis=0), 1e-6)

    def scaled(values: np.ndarray) -> np.ndarray:
        moved = (values[..., :-1].astype(np.float32) - mean) / std
        return np.concatenate([moved.clip(-_BOUND, _BOUND).astype(np.float16), values[..., -1:]], axis=-1)

    return scaled(features), scaled(others)
