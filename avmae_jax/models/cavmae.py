"""Defines CAV-MAE, the pretraining model (Gong et al., arXiv 2210.07839): the encoder on kept patches, a decoder that predicts the rest.

Axis letters: B batch, T spectrogram frames, M mel bins, H W image, P patch, L tokens, K kept tokens, D width.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float, Float32

from avmae_jax.config import Config, ModelConfig
from avmae_jax.models.decoder import Decoder
from avmae_jax.models.encoder import VECTORS, Encoder, Inputs
from avmae_jax.models.layers import Stage
from avmae_jax.models.masking import Mask, mask_from_noise, num_kept
from avmae_jax.models.pooling import pool
from avmae_jax.models.rows import RowKey
from avmae_jax.models.tokens import PATCHES, Tokens, of_part

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
        self.mask_ratios = {"audio": config.audio_mask_ratio, "image": config.image_mask_ratio}
        self.unchained_contrastive = config.unchained_contrastive
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, MODALITIES, rngs=rngs)

    def __call__(
        self,
        inputs: Inputs,
        noise: Mapping[str, Float[Array, "B _"]],
        key: RowKey | None = None,
        ratios: Mapping[str, float] | None = None,
    ) -> Pretraining:
        """Runs the masked pretraining pass.

        Args:
          inputs: "audio" -> normalised log-mel, float[B, T, M]; "image" -> normalised image, float[B, H, W, 3].
          noise: "audio" and "image" -> float[B, L]; the patches with the smallest values are kept (models/masking.py draws such noise).
          key: of drop-path in training; None: evaluation.
          ratios: "audio" and "image" -> share of the patches that is hidden; None: the config's.
        """
        masks = {modality: mask_from_noise(noise[modality], ratio) for modality, ratio in (ratios or self.mask_ratios).items()}
        encoder = self.encoder
        tokens = encoder.separate(inputs, masks, key)
        latent = encoder.joint(of_part(tokens, PATCHES), key=key)
        contrast = {modality: encoder.joint(tokens, modality, unchained=self.unchained_contrastive, key=key) for modality in MODALITIES}
        return Pretraining(
            latent=latent,
            predictions=self.decoder(latent, masks),
            masks=masks,
            contrast=contrast,
            embed_audio=pool(contrast["audio"], encoder.pooling),
            embed_image=pool(contrast["image"], encoder.pooling),
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


def stages(config: Config) -> list[Stage]:
    """Lists every run of a block stack for one row in a training step, for its arithmetic and memory."""
    model = config.model
    shape, joint, own = model.shape, model.joint_depth, int(model.class_token)
    lengths = {modality: rows * columns for modality in MODALITIES for rows, columns in [model.grid(modality)]}

    def encoding(ratios: Mapping[str, float]) -> tuple[list[Stage], int]:
        """Lists the runs of one masked pass that the contrastive loss depends on, and counts the patches that it sees."""
        kept = [num_kept(lengths[modality], ratios[modality]) for modality in MODALITIES]
        towers = [Stage(shape.depth - joint, count + own + model.registers, shape.width) for count in kept]
        return [*towers, *(Stage(joint + model.contrast_depth, count + own, shape.width) for count in kept)], sum(kept)

    first, seen = encoding({"audio": model.audio_mask_ratio, "image": model.image_mask_ratio})
    second: list[Stage] = []
    if config.loss.contrast_pass:
        second, _ = encoding(dict.fromkeys(MODALITIES, model.contrast_mask_ratio))
        first = first[:2]
    if config.loss.needs_teacher:  # it sees all patches; its streams' last blocks give their attention alone, unless it is distilled from
        whole, _ = encoding(dict.fromkeys(MODALITIES, 0.0))
        taught = [stage._replace(gradient=False) for stage in whole]
        second += taught if config.loss.distill_weight else taught[:2]
    return [*first, Stage(joint, seen, shape.width), Stage(shape.decoder_depth, sum(lengths.values()), shape.decoder_width), *second]
