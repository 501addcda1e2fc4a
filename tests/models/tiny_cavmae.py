"""Offers what tests of the pretraining model share: a tiny one, its inputs, and all that a pass computes by name."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.cavmae import CAVMAE, Pretraining
from avmae_jax.models.tokens import Tokens, join

CONFIG = ModelConfig(
    depth=2, width=16, heads=2, decoder_depth=1, decoder_width=16, decoder_heads=4, audio_frames=64, mel_bins=32, image_size=32
)


# grids: audio 2 x 4 patches, image 2 x 2; kept at 0.75: 2 and 1
Arrays = dict[str, jax.Array]


def make_inputs(config: ModelConfig = CONFIG, batch: int = 4) -> tuple[Arrays, Arrays]:
    """Inputs and noise by modality."""
    rng = np.random.default_rng(0)
    shapes = [(config.audio_frames, config.mel_bins), (config.image_size, config.image_size, 3)]
    fbank, image = (jnp.asarray(rng.standard_normal((batch, *shape)), jnp.float32) for shape in shapes)
    grids = config.grid("audio"), config.grid("image")
    noise_audio, noise_image = (jnp.asarray(rng.random((batch, math.prod(grid))), jnp.float32) for grid in grids)
    return {"audio": fbank, "image": image}, {"audio": noise_audio, "image": noise_image}


def arrays_of(out: Pretraining) -> Arrays:
    """Returns all that a pass computes, by name, with sequences joined."""
    tokens: dict[str, Tokens] = {"latent": out.latent, **{f"contrast_{modality}": part for modality, part in out.contrast.items()}}
    pooled = {"embed_audio": out.embed_audio, "embed_image": out.embed_image}
    predictions = {f"pred_{modality}": pred for modality, pred in out.predictions.items()}
    return {name: join(part) for name, part in tokens.items()} | predictions | pooled


run_model = nnx.jit(lambda model, *inputs: model(*inputs))


def initial_model(seed: int = 0, **changes: Any) -> CAVMAE:
    return CAVMAE(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(seed))


def random_model(**changes: Any) -> CAVMAE:
    """Makes a model whose norms and biases are random too, so that a wrong stream or a forgotten bias shows."""
    model, rng = initial_model(**changes), np.random.default_rng(1)
    for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] in ("scale", "bias"):
            value[...] = value[...] + jnp.asarray(rng.uniform(-0.5, 0.5, value.shape), jnp.float32)
    return model
