"""Defines CAV-MAE, the pretraining model (Gong et al., arXiv 2210.07839): the encoder on kept patches, a decoder that predicts the rest.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, P patch, L tokens, K kept tokens, D width.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float, Float32

from avmae_jax.config import ModelConfig
from avmae_jax.models.decoder import Decoder
from avmae_jax.models.encoder import VECTORS, Encoder, Inputs
from avmae_jax.models.layers import Stage
from avmae_jax.models.masking import Mask, mask_from_noise, num_kept
from avmae_jax.models.pooling import pool
from avmae_jax.models.rows import RowKey
from avmae_jax.models.tokens import Tokens

MODALITIES = ("audio", "image")


class Pretraining(NamedTuple):
    """Holds the result of one masked pass; kept tokens are in the order of the masks' keep_ids."""

    latent: Tokens  # float32[B, K, D] segments, the joint stream after its norm
    predictions: dict[str, Float32[Array, "B L _"]]  # modality -> float32[B, L, P * P * C]
    masks: dict[str, Mask]  # by modality
    contrast: dict[str, Tokens]  # modality -> float32[B, K, D] segments, its own stream after its norm
    embed_audio: Float32[Array, "B D"]  # the pooled audio stream, not normalised; the contrastive loss compares it with ...
    embed_image: Float32[Array, "B D"]  # ... the pooled image stream


class CAVMAE(nnx.Module):
    """Reconstructs hidden patches and compares modalities: the contrastive audio-visual masked autoencoder.

    Args:
      config: sizes, positions and masking.
      rngs: `nnx.Rngs(seed)`; the stream `params` initialises the weights.

    Raises:
      ValueError: if the config's sizes don't fit each other, or its modality isn't "both".
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        config.validate()
        require_both(config)
        self.audio_mask_ratio, self.image_mask_ratio = config.audio_mask_ratio, config.image_mask_ratio
        self.unchained_contrastive = config.unchained_contrastive
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, MODALITIES, rngs=rngs)

    def __call__(self, inputs: Inputs, noise: Mapping[str, Float[Array, "B _"]], key: RowKey | None = None) -> Pretraining:
        """Runs the masked pretraining pass.

        Args:
          inputs: "audio" -> normalised log-mel, float[B, T, M]; "image" -> normalised image, float[B, H, W, 3].
          noise: "audio" and "image" -> float[B, L]; the patches with the smallest values are kept (models/masking.py draws such noise).
          key: of drop-path in training; None: evaluation.
        """
        ratios = {"audio": self.audio_mask_ratio, "image": self.image_mask_ratio}
        masks = {modality: mask_from_noise(noise[modality], ratio) for modality, ratio in ratios.items()}
        encoder = self.encoder
        tokens = encoder.separate(inputs, masks, key)
        latent = encoder.joint(tokens, key=key)
        contrast = {modality: encoder.joint(tokens, modality, unchained=self.unchained_contrastive, key=key) for modality in MODALITIES}
        return Pretraining(
            latent=latent,
            predictions=self.decoder(latent, masks),
            masks=masks,
            contrast=contrast,
            embed_audio=pool(contrast["audio"]),
            embed_image=pool(contrast["image"]),
        )

    def separate(self, inputs: Inputs) -> Tokens:
        """Computes the tokens of unmasked inputs before the joint blocks, of all given modalities."""
        return self.encoder.separate(inputs)

    def embed(self, inputs: Inputs, what: Sequence[str] = VECTORS) -> dict[str, Float32[Array, "B D"]]:
        """Computes the vectors of Encoder.vectors of unmasked inputs, of which one modality may be missing."""
        return self.encoder.vectors(self.separate(inputs), what)


def require_both(config: ModelConfig) -> None:
    """Raises ValueError unless the config is of a model of both modalities."""
    if config.modality != "both":
        raise ValueError(f"model.modality is {config.modality!r}, but model.kind {config.kind!r} takes both; set model.kind=mae for one")


def stages(config: ModelConfig) -> list[Stage]:
    """Lists every run of a block stack in one masked pass, for the arithmetic and memory of a step."""
    shape, joint = config.shape, config.joint_depth
    grids = {modality: config.grid(modality) for modality in MODALITIES}
    lengths = {modality: rows * columns for modality, (rows, columns) in grids.items()}
    audio = num_kept(lengths["audio"], config.audio_mask_ratio)
    image = num_kept(lengths["image"], config.image_mask_ratio)
    return [
        *(Stage(shape.depth - joint, kept, shape.width) for kept in (audio, image)),
        *(Stage(joint, kept, shape.width) for kept in (audio + image, audio, image)),
        Stage(shape.decoder_depth, sum(lengths.values()), shape.decoder_width),
    ]
