"""Implements CAV-MAE in PyTorch, to compare the JAX model with at any size and on any input.

It is written from the paper (Gong et al., arXiv 2210.07839) and timm's building blocks. parity/test_reference.py compares it with recorded
values of the original, which cover small models only. It takes the JAX model's config. Its state dict has the official names, including
the norms that no pass uses, so that avmae_jax.weights moves weights between the two. Fields about how JAX computes (`remat`,
`compute_dtype`) have no effect here; `audio_mask_mode` acts through the noise, as in avmae_jax.models.masking.

Axis letters: B batch, T spectrogram frames, M mel bins, C channels, H W image, P patch, L tokens, K kept tokens, D width; in names, a
and v mark audio and image.
"""

# torch and timm are optional, and timm marks nothing as public
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from timm.layers import Mlp, PatchEmbed
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from avmae_jax.config import ModelConfig

Stream = Literal["", "_a", "_v"]  # how the names of a stream's norms end: both modalities together, audio alone, image alone
Mode = Literal["multimodal", "audioonly", "videoonly", "missingaudioonly", "missingvideoonly"]


class Pretraining(NamedTuple):
    """Holds the outputs of one masked pass, named as in the recorded files; kept tokens are in increasing order of noise."""

    latent: Tensor  # [B, Ka + Kv, D], the joint stream after its norm
    contrast_audio_tokens: Tensor  # [B, Ka, D], the audio stream after its norm
    contrast_image_tokens: Tensor  # [B, Kv, D]
    pred_audio: Tensor  # [B, La, P * P]
    pred_image: Tensor  # [B, Lv, P * P * 3]
    mask_audio: Tensor  # float[B, La], 1 where hidden
    mask_image: Tensor  # float[B, Lv]
    ids_restore_audio: Tensor  # int64[B, La], place of each token in [kept, hidden]
    ids_restore_image: Tensor  # int64[B, Lv]


class Block(nn.Module):
    """Transforms tokens by a pre-norm block with a pair of norms for each stream: [B, L, D] -> [B, L, D]."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, eps: float):
        super().__init__()
        for name in ("norm1", "norm2"):
            _add_norms(self, name, width, eps)
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = Mlp(width, int(width * mlp_ratio))  # its GELU is the exact one

    def forward(self, tokens: Tensor, stream: Stream = "") -> Tensor:
        """Runs the block with the norms of one stream."""
        tokens = tokens + self.attn(self.get_submodule(f"norm1{stream}")(tokens))
        return tokens + self.mlp(self.get_submodule(f"norm2{stream}")(tokens))


class Encoder(nn.Module):
    """Encodes patches in pretraining and classification: patches to tokens, separate blocks, joint blocks.

    Args:
      config: sizes and positions.

    Raises:
      ValueError: if the config's sizes don't fit each other.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        config.validate()
        if config.modality != "both":
            raise ValueError(f"model.modality is {config.modality!r}; the reference has both")
        shape = config.shape
        width, separate = shape.width, shape.depth - config.joint_depth
        block = partial(Block, width, shape.heads, config.mlp_ratio, config.norm_eps)
        self.patch_embed_a = PatchEmbed((config.mel_bins, config.audio_frames), config.patch, in_chans=1, embed_dim=width)
        self.patch_embed_v = PatchEmbed(config.image_size, config.patch, in_chans=3, embed_dim=width)
        self.pos_embed_a = sincos_positions(self.patch_embed_a, width)
        self.pos_embed_v = sincos_positions(self.patch_embed_v, width)
        self.modality_a, self.modality_v = _token(width), _token(width)
        self.blocks_a = nn.Sequential(*(block() for _ in range(separate)))
        self.blocks_v = nn.Sequential(*(block() for _ in range(separate)))
        self.blocks_u = nn.ModuleList(block() for _ in range(config.joint_depth))
        _add_norms(self, "norm", width, config.norm_eps)

    def embed_audio(self, fbank: Tensor) -> Tensor:
        """Embeds a normalised log-mel [B, T, M] as tokens [B, La, D]; token = mel row * time columns + time column."""
        return self.patch_embed_a(spectrogram_image(fbank)) + self.pos_embed_a + self.modality_a

    def embed_image(self, image: Tensor) -> Tensor:
        """Embeds a normalised image [B, 3, H, W] as tokens [B, Lv, D]."""
        return self.patch_embed_v(image) + self.pos_embed_v + self.modality_v

    def joint(self, tokens: Tensor, stream: Stream = "", *, unchained: bool = False) -> Tensor:
        """Runs the joint blocks, or if `unchained` only the last, and a stream's final norm: [B, L, D] -> [B, L, D]."""
        for block in self.blocks_u[-1:] if unchained else self.blocks_u:
            tokens = block(tokens, stream)
        return self.get_submodule(f"norm{stream}")(tokens)

    def audio_features(self, fbank: Tensor) -> Tensor:
        """Encodes unmasked audio for retrieval: [B, T, M] -> [B, La, D]."""
        return self.joint(self.blocks_a(self.embed_audio(fbank)), "_a")

    def image_features(self, image: Tensor) -> Tensor:
        """Encodes an unmasked image for retrieval: [B, 3, H, W] -> [B, Lv, D]."""
        return self.joint(self.blocks_v(self.embed_image(image)), "_v")


class CAVMAE(Encoder):
    """Reconstructs hidden patches and compares modalities: the pretraining model of a config."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        shape, width = config.shape, config.shape.decoder_width
        block = partial(Block, width, shape.decoder_heads, config.mlp_ratio, config.norm_eps)
        self.audio_mask_ratio, self.image_mask_ratio = config.audio_mask_ratio, config.image_mask_ratio
        self.unchained_contrastive = config.unchained_contrastive
        self.decoder_embed = nn.Linear(shape.width, width)
        self.mask_token = _token(width)
        self.decoder_pos_embed_a = sincos_positions(self.patch_embed_a, width)
        self.decoder_pos_embed_v = sincos_positions(self.patch_embed_v, width)
        self.decoder_modality_a, self.decoder_modality_v = _token(width), _token(width)
        self.decoder_blocks = nn.Sequential(*(block() for _ in range(shape.decoder_depth)))
        self.decoder_norm = nn.LayerNorm(width, config.norm_eps)
        self.decoder_pred_a = nn.Linear(width, config.patch**2)
        self.decoder_pred_v = nn.Linear(width, config.patch**2 * 3)
        for positions in (self.pos_embed_a, self.pos_embed_v, self.decoder_pos_embed_a, self.decoder_pos_embed_v):
            positions.requires_grad_(config.learned_positions)
        self.apply(_initialise)

    def forward(self, fbank: Tensor, image: Tensor, noise_audio: Tensor, noise_image: Tensor) -> Pretraining:
        """Runs the masked pass.

        Args:
          fbank: normalised log-mel, float[B, T, M].
          image: normalised image, float[B, 3, H, W].
          noise_audio: float[B, La]; the encoder sees the patches with the smallest values.
          noise_image: float[B, Lv].
        """
        keep_a, restore_a, hidden_a = _mask(noise_audio, self.audio_mask_ratio)
        keep_v, restore_v, hidden_v = _mask(noise_image, self.image_mask_ratio)
        audio = self.blocks_a(_pick(self.embed_audio(fbank), keep_a))
        image = self.blocks_v(_pick(self.embed_image(image), keep_v))
        latent = self.joint(torch.cat([audio, image], dim=1))
        pred_audio, pred_image = self._decode(latent, restore_a, restore_v, keep_a.shape[1])
        return Pretraining(
            latent=latent,
            contrast_audio_tokens=self.joint(audio, "_a", unchained=self.unchained_contrastive),
            contrast_image_tokens=self.joint(image, "_v", unchained=self.unchained_contrastive),
            pred_audio=pred_audio,
            pred_image=pred_image,
            mask_audio=hidden_a,
            mask_image=hidden_v,
            ids_restore_audio=restore_a,
            ids_restore_image=restore_v,
        )

    def _decode(self, latent: Tensor, restore_a: Tensor, restore_v: Tensor, kept_audio: int) -> tuple[Tensor, Tensor]:
        """Predicts all patches: [B, Ka + Kv, D] -> [B, La, P * P], [B, Lv, P * P * 3]."""
        tokens = self.decoder_embed(latent)
        audio = self._fill(tokens[:, :kept_audio], restore_a) + self.decoder_pos_embed_a + self.decoder_modality_a
        image = self._fill(tokens[:, kept_audio:], restore_v) + self.decoder_pos_embed_v + self.decoder_modality_v
        tokens = self.decoder_norm(self.decoder_blocks(torch.cat([audio, image], dim=1)))
        length = restore_a.shape[1]
        return self.decoder_pred_a(tokens[:, :length]), self.decoder_pred_v(tokens[:, length:])

    def _fill(self, kept: Tensor, restore_ids: Tensor) -> Tensor:
        """Puts kept tokens in their places and the mask token elsewhere: [B, K, D] -> [B, L, D]."""
        hidden = self.mask_token.expand(len(kept), restore_ids.shape[1] - kept.shape[1], -1)
        return _pick(torch.cat([kept, hidden], dim=1), restore_ids)


class CAVMAEClassifier(Encoder):
    """Classifies clips: the encoder, one mean over all tokens, LayerNorm and a linear layer. Positions are trained.

    Args:
      config: sizes of the encoder; fields of the decoder, masks and learned positions have no effect.
      classes: number of logits.
    """

    def __init__(self, config: ModelConfig, classes: int):
        super().__init__(config)
        width = config.shape.width
        self.mlp_head = nn.Sequential(nn.LayerNorm(width, config.norm_eps), nn.Linear(width, classes))
        self.apply(_initialise)

    def forward(self, fbank: Tensor, image: Tensor, mode: Mode = "multimodal") -> Tensor:
        """Computes logits, float[B, classes].

        Args:
          fbank: normalised log-mel, float[B, T, M]; unused in the two video modes.
          image: normalised image, float[B, 3, H, W]; unused in the two audio modes.
          mode: `multimodal`; `audioonly` or `videoonly` with that modality's norms; `missingaudioonly` or `missingvideoonly`: the mean
            of the passes with its own and with the joint norms, for a model tuned on both that is given that modality alone.

        Raises:
          ValueError: for an unknown mode.
        """
        if mode not in get_args(Mode):
            raise ValueError(f"mode {mode!r} is unknown; choose one of {', '.join(get_args(Mode))}")
        if mode == "multimodal":
            audio, image = self.blocks_a(self.embed_audio(fbank)), self.blocks_v(self.embed_image(image))
            return self.mlp_head(self.joint(torch.cat([audio, image], dim=1)).mean(dim=1))
        is_audio = mode.endswith("audioonly")
        alone = self.blocks_a(self.embed_audio(fbank)) if is_audio else self.blocks_v(self.embed_image(image))
        tokens = self.joint(alone, "_a" if is_audio else "_v")
        if mode.startswith("missing"):
            tokens = (tokens + self.joint(alone)) / 2
        return self.mlp_head(tokens.mean(dim=1))


def sincos_positions(patches: PatchEmbed, width: int) -> nn.Parameter:
    """Computes fixed 2-D positions in float64: float32[1, L, D]; the column in the first half of D, the row in the second."""
    rows, columns = patches.grid_size
    frequencies = 10_000.0 ** (-4 / width * torch.arange(width // 4, dtype=torch.float64))

    def half(count: int) -> Tensor:
        angles = torch.outer(torch.arange(count, dtype=torch.float64), frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    positions = torch.cat([half(columns).repeat(rows, 1), half(rows).repeat_interleave(columns, dim=0)], dim=1)
    return nn.Parameter(positions.float()[None])


def spectrogram_image(fbank: Tensor) -> Tensor:
    """Turns a log-mel into an image whose rows are mel bins: [B, T, M] -> [B, 1, M, T]."""
    return fbank.transpose(1, 2)[:, None]


def _add_norms(module: nn.Module, name: str, width: int, eps: float) -> None:
    """Adds the norms `name`, `name`_a and `name`_v."""
    for stream in get_args(Stream):
        module.add_module(name + stream, nn.LayerNorm(width, eps))


def _token(width: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(1, 1, width))


def _initialise(module: nn.Module) -> None:
    """Draws linear layers, and patch kernels as matrices, Xavier uniform; a convolution's bias keeps torch's uniform +-1/sqrt(fan_in)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.data.flatten(1))


def _mask(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Splits noise [B, L]: ids of the K smallest [B, K], place of each token in [kept, hidden] [B, L], 1 where hidden [B, L]."""
    kept = int(noise.shape[1] * (1 - ratio))
    order = noise.argsort(dim=1, stable=True)
    restore_ids = order.argsort(dim=1)
    return order[:, :kept], restore_ids, (restore_ids >= kept).float()


def _pick(tokens: Tensor, ids: Tensor) -> Tensor:
    """Picks the tokens [B, L, D] at ids [B, K]: [B, K, D]."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))
