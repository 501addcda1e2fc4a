"""Implements CAV-MAE Sync, its classifier and the teacher of the dual path in PyTorch, to compare the JAX models with.

It is written from the papers (Araujo et al., arXiv 2505.01237; Wang et al., arXiv 2604.08147) and from what their authors published of
their models. parity/test_reference_sync.py compares it with recorded values. Names of tensors are the official ones.

Axis letters: B batch of pairs, N clips, F pairs of a clip, T spectrogram frames, M mel bins, H W image, L tokens, K kept tokens,
R registers, D width, V width of a pair's vector, C classes; in names, a and v mark audio and image.
"""

# torch and timm are optional
# pyright: reportMissingImports=false

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from avmae_jax.config import LossConfig, ModelConfig
from parity.reference import CAVMAE, Block, Encoder, _initialise, _mask, _pick, _token
from parity.reference_training import contrastive_loss, reconstruction_loss, spectrogram_image

Mark = Literal["a", "v"]
Pair = tuple[Tensor, Tensor]  # of audio and image
PairMode = Literal["multimodal", "audioonly", "videoonly"]
MARKS: tuple[Mark, ...] = ("a", "v")
_HEADS: dict[Mark, str] = {"a": "constrative_head_audio", "v": "constrative_head_visual"}  # spelled so


class Pretraining(NamedTuple):
    """Holds the outputs of one masked pass, named as in the recorded files; kept tokens are in increasing order of noise."""

    latent: Tensor  # [B, Ka + Kv, D], patches of the joint stream after its norm
    contrast_audio_tokens: Tensor  # [B, Ka, D], patches of the audio stream after its norm
    contrast_image_tokens: Tensor  # [B, Kv, D]
    cls_audio: Tensor | None  # [B, D], the class token of the audio stream; None without class tokens
    cls_image: Tensor | None
    pred_audio: Tensor  # [B, La, P * P]
    pred_image: Tensor  # [B, Lv, P * P * 3]
    mask_audio: Tensor  # float[B, La], 1 where hidden
    mask_image: Tensor
    ids_restore_audio: Tensor  # int64[B, La], place of each token in [kept, hidden]
    ids_restore_image: Tensor


class PairEncoder(Encoder):
    """Adds to CAV-MAE's encoder class tokens, registers and blocks for the contrast, as the config says.

    Class tokens and registers come after masking and have no position. The separate blocks see [class token, patches, registers], the
    joint blocks of one modality [class token, patches], those of both the patches alone.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        shape = config.shape
        self.class_token, self.registers, self.unchained = config.class_token, config.registers, config.unchained_contrastive
        if config.class_token:
            self.cls_token_a, self.cls_token_v = _token(shape.width), _token(shape.width)
        if config.registers:
            self.register_tokens = nn.Parameter(torch.randn(2 * config.registers, shape.width))  # audio first
        for name in _HEADS.values():
            head = (Block(shape.width, shape.heads, config.mlp_ratio, config.norm_eps) for _ in range(config.contrast_depth))
            self.add_module(name, nn.ModuleList(head))

    def separate(self, patches: Tensor, mark: Mark) -> Tensor:
        """Runs a modality's own blocks on its patches: [B, K, D] -> [B, 1 + K, D], or [B, K, D] without class tokens."""
        first = [self.get_parameter(f"cls_token_{mark}").expand(len(patches), -1, -1)] if self.class_token else []
        last = []
        if self.registers:
            own = self.register_tokens[: self.registers] if mark == "a" else self.register_tokens[self.registers :]
            last = [own.expand(len(patches), -1, -1)]
        tokens = self.get_submodule(f"blocks_{mark}")(torch.cat([*first, patches, *last], dim=1))
        return tokens[:, : tokens.shape[1] - self.registers]

    def contrast(self, tokens: Tensor, mark: Mark) -> Tensor:
        """Runs the joint blocks, or where unchained the last alone, the blocks for the contrast and the norm: [B, L, D] -> [B, L, D]."""
        for block in self.blocks_u[-1:] if self.unchained else self.blocks_u:
            tokens = block(tokens, f"_{mark}")
        for block in self.get_submodule(_HEADS[mark]).children():
            tokens = block(tokens)
        return self.get_submodule(f"norm_{mark}")(tokens)

    def patches_of(self, tokens: Tensor) -> Tensor:
        """Leaves the class token out, where there is one."""
        return tokens[:, 1:] if self.class_token else tokens

    def features(self, fbank: Tensor, image: Tensor) -> Pair:
        """Encodes unmasked pairs for retrieval: [B, T, M], [B, 3, H, W] -> tokens after the streams' norms, class tokens first."""
        audio, image = self.separate(self.embed_audio(fbank), "a"), self.separate(self.embed_image(image), "v")
        return self.contrast(audio, "a"), self.contrast(image, "v")

    def attention(self, tokens: Tensor, mark: Mark) -> Tensor:
        """Computes how much each token attends to each in the last joint block: [B, L, D] of separate -> [B, heads, L, L]."""
        for block in () if self.unchained else self.blocks_u[:-1]:
            tokens = block(tokens, f"_{mark}")
        last = self.blocks_u[-1]
        assert isinstance(last, Block)
        qkv = last.attn.qkv(last.get_submodule(f"norm1_{mark}")(tokens))
        query, key, _ = qkv.reshape(*tokens.shape[:2], 3, last.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)


class Sync(CAVMAE, PairEncoder):
    """Reconstructs hidden patches and compares modalities: the pretraining model of a config. Its batch are pairs."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, fbank: Tensor, image: Tensor, noise_audio: Tensor, noise_image: Tensor, ratio: float | None = None
    ) -> Pretraining:
        """Runs the masked pass.

        Args:
          fbank: normalised log-mel of the windows, float[B, T, M].
          image: normalised image, float[B, 3, H, W].
          noise_audio: float[B, La]; the encoder sees the patches with the smallest values.
          noise_image: float[B, Lv].
          ratio: hidden share of both modalities in place of the config's, as in the second pass of the dual path.
        """
        keep_a, restore_a, hidden_a = _mask(noise_audio, self.audio_mask_ratio if ratio is None else ratio)
        keep_v, restore_v, hidden_v = _mask(noise_image, self.image_mask_ratio if ratio is None else ratio)
        audio = self.separate(_pick(self.embed_audio(fbank), keep_a), "a")
        image = self.separate(_pick(self.embed_image(image), keep_v), "v")
        latent = self.joint(torch.cat([self.patches_of(audio), self.patches_of(image)], dim=1))
        pred_audio, pred_image = self._decode(latent, restore_a, restore_v, keep_a.shape[1])
        audio, image = self.contrast(audio, "a"), self.contrast(image, "v")
        return Pretraining(
            latent=latent,
            contrast_audio_tokens=self.patches_of(audio),
            contrast_image_tokens=self.patches_of(image),
            cls_audio=audio[:, 0] if self.class_token else None,
            cls_image=image[:, 0] if self.class_token else None,
            pred_audio=pred_audio,
            pred_image=pred_image,
            mask_audio=hidden_a,
            mask_image=hidden_v,
            ids_restore_audio=restore_a,
            ids_restore_image=restore_v,
        )


class SyncClassifier(PairEncoder):
    """Classifies clips from the vectors of their pairs, as published for one modality or both. Positions are trained.

    Args:
      config: sizes of the encoder, and of the head: `pair_depth` blocks over a class token and the pairs' vectors.
      classes: number of logits.
      mode: what a pair's vector is made of; a model is built for one.
      heads: attention heads of the blocks over pairs.
    """

    def __init__(self, config: ModelConfig, classes: int, mode: PairMode, *, heads: int):
        super().__init__(config)
        self.mode = mode
        width = config.shape.width * (2 if mode == "multimodal" else 1)
        self.layers = config.pair_depth
        if config.pair_depth:
            self.cls_cls_token = _token(width)
            self.classifier_layers = nn.ModuleList(Block(width, heads, config.mlp_ratio, config.norm_eps) for _ in range(self.layers))
            self.classifier_norm = nn.LayerNorm(width, config.norm_eps)
            self.classifier_head = nn.Linear(width, classes)
        else:
            self.mlp_head = nn.Sequential(nn.LayerNorm(width, config.norm_eps), nn.Linear(width, classes))
        self.apply(_initialise)

    def forward(self, fbank: Tensor, image: Tensor) -> Tensor:
        """Computes logits: float[N, C] of clips, or float[N * F, C] of pairs where no block runs over them.

        Args:
          fbank: normalised log-mel of the windows, float[N, F, T, M].
          image: normalised images, float[N, F, 3, H, W].
        """
        vectors = self._vectors(fbank.flatten(0, 1), image.flatten(0, 1))
        if not self.layers:
            return self.mlp_head(vectors)
        vectors = vectors.reshape(*fbank.shape[:2], -1)
        tokens = torch.cat([self.cls_cls_token.expand(len(vectors), -1, -1), vectors], dim=1)
        for block in self.classifier_layers:
            tokens = block(tokens)
        return self.classifier_head(self.classifier_norm(tokens[:, 0]))

    def _vectors(self, fbank: Tensor, image: Tensor) -> Tensor:
        """Computes the vector of each pair, [N * F, V]; that of both modalities is taken before the joint blocks, as published."""
        if self.mode == "multimodal":
            audio, image = self.separate(self.embed_audio(fbank), "a"), self.separate(self.embed_image(image), "v")
            return torch.cat([audio[:, 0], image[:, 0]], dim=1)
        is_audio = self.mode == "audioonly"
        tokens = self.joint(self.separate(self.embed_audio(fbank), "a") if is_audio else self.separate(self.embed_image(image), "v"))
        return tokens.mean(dim=1) if self.layers else tokens[:, 0]


def compared_vectors(out: Pretraining, *, global_local: bool = False) -> list[Pair]:
    """Lists what the contrastive loss compares: class tokens where there are such, else means of patches; with `global_local` both."""
    local = out.contrast_audio_tokens.mean(dim=1), out.contrast_image_tokens.mean(dim=1)
    if out.cls_audio is None or out.cls_image is None:
        return [local]
    return [(out.cls_audio, out.cls_image), *([local] if global_local else [])]


def pretraining_losses(out: Pretraining, inputs: Pair, config: LossConfig, *, patch: int, compared: Sequence[Pair]) -> dict[str, Tensor]:
    """Computes the total loss and its parts, named as in the recorded files; those of one modality and "nce" are not weighted.

    Args:
      out: the outputs of Sync for these inputs.
      inputs: normalised log-mel, float[B, T, M], and image, float[B, 3, H, W].
      config: weights and options.
      patch: P.
      compared: see compared_vectors; the contrastive loss is the mean over these. Those of another pass make the dual path.
    """
    options = {"patch": patch, "norm_pix": config.norm_pix}
    mae_audio = reconstruction_loss(spectrogram_image(inputs[0]), out.pred_audio, out.mask_audio, **options)
    mae_image = reconstruction_loss(inputs[1], out.pred_image, out.mask_image, **options)
    each = [contrastive_loss(*vectors, config) for vectors in compared]
    nce, accuracy = torch.stack([one for one, _ in each]).mean(), torch.stack([hits for _, hits in each]).mean()
    mae, contrast = config.mae_weight * (mae_audio + mae_image), config.contrast_weight * nce
    parts = {"loss_mae": mae, "loss_mae_audio": mae_audio, "loss_mae_image": mae_image, "loss_contrast_weighted": contrast}
    return {"loss": mae + contrast, **parts, "nce": nce, "contrast_accuracy": accuracy}


def token_scores(attention: Tensor) -> Tensor:
    """Computes how much each patch attends to the class token, the mean over heads: [B, heads, 1 + L, 1 + L] -> [B, L]."""
    return attention[:, :, 1:, 0].mean(dim=1)
