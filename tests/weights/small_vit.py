"""Offers made-up weights of small transformers of one modality, named as other libraries name them."""

from typing import Any

import numpy as np

from avmae_jax.config import ModelConfig
from avmae_jax.models.patches import sincos_positions
from avmae_jax.weights import vit
from avmae_jax.weights.build import described

DEPTH, WIDTH, DECODER_WIDTH, PATCH, IMAGE = 3, 8, 4, 4, 8


SIZES: dict[str, Any] = {
    "depth": DEPTH, "width": WIDTH, "heads": 2, "mlp_ratio": 2.0, "decoder_depth": 2, "decoder_width": DECODER_WIDTH, "decoder_heads": 1,
    "patch": PATCH, "image_size": IMAGE, "mel_bins": 8, "audio_frames": 12,
}  # fmt: skip


Tensors = dict[str, np.ndarray]


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**(SIZES | changes))


def block(name: str, width: int, rng: np.random.Generator) -> Tensors:
    shapes = {
        "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
        "mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width),
    }  # fmt: skip
    io = {f"{name}.{layer}.weight": rng.standard_normal(shape) for layer, shape in shapes.items()}
    return io | {f"{name}.{layer}.bias": rng.standard_normal(shape[0]) for layer, shape in shapes.items()}


def image_mae(*, side: int = IMAGE // PATCH) -> Tensors:
    """Makes random weights with the names of facebookresearch/mae."""
    rng = np.random.default_rng(0)
    pixels = 3 * PATCH**2
    shapes = {
        "cls_token": (1, 1, WIDTH), "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,), "norm.bias": (WIDTH,), "mask_token": (1, 1, DECODER_WIDTH),
        "decoder_embed.weight": (DECODER_WIDTH, WIDTH), "decoder_embed.bias": (DECODER_WIDTH,),
        "decoder_norm.weight": (DECODER_WIDTH,), "decoder_norm.bias": (DECODER_WIDTH,),
        "decoder_pred.weight": (pixels, DECODER_WIDTH), "decoder_pred.bias": (pixels,),
    }  # fmt: skip
    tensors = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for number in range(DEPTH):
        tensors |= block(f"blocks.{number}", WIDTH, rng)
    for number in range(2):
        tensors |= block(f"decoder_blocks.{number}", DECODER_WIDTH, rng)
    for name, width in (("pos_embed", WIDTH), ("decoder_pos_embed", DECODER_WIDTH)):
        tensors[name] = np.concatenate([np.zeros((1, width)), sincos_positions((side, side), width)])[None]
    tensors["pos_embed"][0, 0] = np.arange(WIDTH)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def audio_transformer(classes: int = 5) -> Tensors:
    """Makes random weights of an AST with a patch at every second pixel, 3 x 5 of them."""
    rng = np.random.default_rng(1)
    shapes = {
        "cls_token": (1, 1, WIDTH), "dist_token": (1, 1, WIDTH), "pos_embed": (1, 2 + 15, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 1, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,), "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,), "mlp_head.0.weight": (WIDTH,), "mlp_head.0.bias": (WIDTH,), "mlp_head.1.weight": (classes, WIDTH),
        "mlp_head.1.bias": (classes,),
    }  # fmt: skip
    tensors = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for number in range(DEPTH):
        tensors |= block(f"blocks.{number}", WIDTH, rng)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def pull(tensors: Tensors, kind: str = "cavmae", *, classes: int = 0, **changes: Any) -> vit.Pulled:
    """Returns what a model of this kind takes from a file; only its shapes are needed."""
    sizes = config(kind=kind, **changes)
    return vit.pull(sizes, described(sizes, classes), tensors)


def is_decoder(name: str) -> bool:
    return name.startswith(("decoder", "mask"))
