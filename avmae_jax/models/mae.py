"""Defines the masked autoencoder of one modality: He et al., arXiv 2111.06377, for images, and the same for spectrograms.

It is CAV-MAE with one tower and without the contrastive loss: same blocks, masking, decoder and reconstruction loss.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, P patch, L tokens, K kept tokens, D width, C channels.
"""

from collections.abc import Mapping

from flax import nnx
from jaxtyping import Array, Float

from avmae_jax.config import ModelConfig
from avmae_jax.models.decoder import Decoder, Reconstruction
from avmae_jax.models.encoder import Inputs, Tower
from avmae_jax.models.layers import MAIN, Stage, stream_norms
from avmae_jax.models.masking import mask_from_noise, num_kept
from avmae_jax.models.rows import RowKey
from avmae_jax.models.tokens import Tokens, through


class MAE(nnx.Module):
    """Reconstructs hidden patches of one modality: the masked autoencoder.

    Args:
      config: sizes and masking; `modality` is that of the input, `class_token` adds a token of no patch.
      rngs: `nnx.Rngs(seed)`.

    Raises:
      ValueError: if the config's sizes don't fit each other, or its modality is "both".
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        config.validate()
        if config.modality == "both":
            raise ValueError("model.modality is 'both', but model.kind 'mae' takes one modality; set model.modality to audio or image")
        self.modality = config.modality
        self.mask_ratio: float = getattr(config, f"{config.modality}_mask_ratio")
        self.tower = Tower(config, config.modality, depth=config.shape.depth, prefix=int(config.class_token), rngs=rngs)
        self.norm = stream_norms(config.shape.width, (MAIN,), config.norm_eps, rngs)
        self.decoder = Decoder(config, (config.modality,), rngs=rngs)

    def __call__(self, inputs: Inputs, noise: Mapping[str, Float[Array, "B _"]], key: RowKey | None = None) -> Reconstruction:
        """Runs the masked pass.

        Args:
          inputs: the modality -> normalised log-mel float[B, T, M], or normalised image float[B, H, W, 3].
          noise: the modality -> float[B, L]; the patches with the smallest values are kept.
          key: of drop-path in training; None: evaluation.
        """
        masks = {self.modality: mask_from_noise(noise[self.modality], self.mask_ratio)}
        tokens = self.tower.embed(inputs[self.modality], masks[self.modality])
        latent = through(self.norm[MAIN], self.tower.separate(tokens, key))
        return Reconstruction(latent, self.decoder(latent, masks), masks)

    def features(self, inputs: Inputs) -> Tokens:
        """Computes the float32[B, L, D] segments of the unmasked input after the norm."""
        return through(self.norm[MAIN], self.tower.separate(self.tower.embed(inputs[self.modality])))


def stages(config: ModelConfig) -> list[Stage]:
    """Lists every run of a block stack in one masked pass, for the arithmetic and memory of a step."""
    shape, (rows, columns) = config.shape, config.grid(config.modality)
    kept = num_kept(rows * columns, getattr(config, f"{config.modality}_mask_ratio"))
    return [Stage(shape.depth, kept, shape.width), Stage(shape.decoder_depth, rows * columns, shape.decoder_width)]
