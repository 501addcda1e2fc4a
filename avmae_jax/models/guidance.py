"""Ranks patches by how much they attend to their modality's class token, for the masks of a pass that sees the highest ones.

The documented reading of TG-DP (Wang et al., arXiv 2604.08147; its rule for choosing tokens isn't published): the attention of the last
joint block, run with the modality's norms over the class token and all patches, of each patch to the class token, averaged over heads. Here
scores have the patches' own numbers; those that the published code returns belong to a shuffled order.

Axis letters: B rows, L tokens, N heads, D width.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from avmae_jax.models.encoder import Encoder
from avmae_jax.models.layers import run_blocks
from avmae_jax.models.tokens import GLOBAL, Tokens, join, name_of, of_modality


def joint_attention(encoder: Encoder, tokens: Tokens, modality: str, *, unchained: bool = False) -> Float32[Array, "B N L L"]:
    """Computes the attention weights of the last joint block on one modality's stream, which begins with the class token.

    Args:
      encoder: of a pretraining model.
      tokens: of Encoder.separate.
      modality: "audio" or "image".
      unchained: as of Encoder.joint.
    """
    *before, last = encoder.blocks
    sequence = join(of_modality(tokens, modality))
    sequence = sequence if unchained else run_blocks(before, sequence, modality)
    projected = last.attn.qkv(last.norm1[modality](sequence))
    query, key = (projected[:, :, part].astype(jnp.float32) for part in range(2))
    return jax.nn.softmax(jnp.einsum("bqnd,bknd->bnqk", query, key) / math.sqrt(query.shape[-1]), axis=-1)


def patch_scores(encoder: Encoder, tokens: Tokens, modality: str, *, unchained: bool = False) -> Float32[Array, "B L"]:
    """Computes the attention of each patch to the class token, averaged over heads; arguments are those of joint_attention.

    Raises:
      ValueError: if the model has no class token.
    """
    if name_of(modality, GLOBAL) not in tokens:
        raise ValueError("patches can't be ranked by their attention to a class token, as the model has none; set model.class_token")
    return joint_attention(encoder, tokens, modality, unchained=unchained)[:, :, 1:, 0].mean(axis=1)
