"""Makes what tests of PyTorch files share: random weights whose classifier has no decoder, as the original's has none."""

import dataclasses

import numpy as np

from avmae_jax.config import ModelConfig
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described
from avmae_jax.weights.io import Weights
from tests.support import ODD


def made(config: ModelConfig = ODD, classes: int = 0, seed: int = 0) -> Weights:
    """Makes weights of distinct random values, so that a swap shows. A classifier's config has no decoder."""
    if classes:
        kind = "cavmae_classifier" if config.kind == ModelConfig.kind else config.kind
        config = dataclasses.replace(config, kind=kind, decoder_depth=None, decoder_width=None, decoder_heads=None)
    rng = np.random.default_rng(seed)
    shapes = flatten(described(config, classes))
    return Weights(config, classes, {path: rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in shapes.items()})
