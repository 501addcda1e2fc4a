"""Decides what each parameter of a model is made from, where a file holds a transformer of one modality.

Every parameter that can come from such a file has a Source: the tensors that it is made from, the shapes that they must have, how they are
converted, and a remark for the log. Names of tensors are those of timm and facebookresearch/mae, to which vit_names.py brings others.

An image MAE starts a CAV-MAE by the rule of Gong et al., arXiv 2210.07839: both towers get the same blocks, every stream the same norms,
and the audio patch kernel is the sum of the image's over red, green and blue.

Axis letters: P patch, L tokens, D width, C channels.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.registry import kind_of
from avmae_jax.trees import flatten
from avmae_jax.weights.official import convert_tensor
from avmae_jax.weights.vit_names import Rules, Tensors, rename

Shape = tuple[int, ...]

TOKENS = ("cls_token", "dist_token")  # of no patch; they come first, in this order
POSITIONS, DECODER_POSITIONS, KERNEL = "pos_embed", "decoder_pos_embed", "patch_embed.proj.weight"
DECODER = re.compile(r"decoder_|mask_token$")  # how the names of a decoder begin
ANY = -1  # a length that may be any
# dotted path -> name in the file, without what says "audio" or "image": both come from the same tensors
_NAMES: Rules = [
    (r"\b(norm[12]?)\.(main|audio|image)\.", r"\1."),
    (r"\.(kernel|scale)$", ".weight"),
    (r"^(encoder\.audio|encoder\.image|encoder|tower)\.", ""),
    (r"^decoder\.ends\.\w+\.head\.", "decoder_pred."),
    (r"^decoder\.ends\.\w+\.positions$", DECODER_POSITIONS),
    (r"^decoder\.mask_token$", "mask_token"),
    (r"^decoder\.(blocks|embed|norm)\.", r"decoder_\1."),
    (r"^head\.norm\.", "mlp_head.0."),
    (r"^head\.linear\.", "mlp_head.1."),
    (r"^patch_embed\.", "patch_embed.proj."),
    (r"^positions$", POSITIONS),
]


class Source(NamedTuple):
    """Says what a parameter is made from."""

    shapes: dict[str, Shape]  # name of a tensor -> shape that it must have; one tensor, but for tokens, whose positions are added
    convert: Callable[..., np.ndarray]  # from these tensors to the parameter
    remark: str = ""  # what the conversion does, for the log


class File(NamedTuple):
    """Holds what a file's tensors say of the model that they belong to."""

    tensors: Tensors
    modality: str  # by the channels of the patch kernel: 1 for audio, 3 for images
    tokens: int  # number of tokens of no patch, whose positions come first
    decoder: bool  # whether it has one


class Target(NamedTuple):
    """Holds what must be known of the model that is filled."""

    shapes: dict[str, Shape]  # dotted path -> shape
    patch: int
    modality: str  # of parameters whose path names none; those of both modalities count as image, since their source is an image MAE
    separate: int  # blocks before the joint ones; the file numbers all of them in a row
    own_head: bool  # whether a classification head is the file's; if not, a classifier's head starts fresh


_CLASS_TOKENS = ("encoder.audio.prefix", "encoder.image.prefix")  # of pairs; those of an image MAE stand for something else


def source_of(path: str, file: File, target: Target) -> Source | None:
    """Returns what a parameter is made from; None if the file has nothing of its kind, so that it stays fresh."""
    foreign_head = path.startswith("head.") and not target.own_head
    own = path.endswith((".modality", ".registers")) or path in _CLASS_TOKENS or path.startswith("encoder.contrast.")
    if foreign_head or own or (path.startswith("decoder.") and not file.decoder):
        return None
    name, shape, audio = name_of(path, target), target.shapes[path], modality_of(path, target) == "audio"
    from_image = audio and file.modality == "image"
    if path == "tower.prefix":
        return _tokens(shape)
    if path.endswith("positions"):
        return None if from_image else _positions(name, shape, file.tokens)
    if path.endswith("patch_embed.kernel"):
        return _patch_kernel(name, shape, target.patch, channels=1 if audio else 3, from_image=from_image)
    if ".head." in path and from_image:
        return _first_rows(name, shape, target.patch**2)
    remark = " (its norms to every stream)" if path.startswith("encoder.blocks.") else ""
    return Source({name: _torch_shape(path, shape)}, partial(convert_tensor, shape=shape), remark)


def describe_file(tensors: Tensors) -> File:
    """Describes the model that tensors belong to, by their canonical names and the channels of the patch kernel."""
    kernel = tensors.get(KERNEL)
    modality = "audio" if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 1 else "image"
    return File(tensors, modality, sum(name in tensors for name in TOKENS), any(map(DECODER.match, tensors)))


def describe_target(config: ModelConfig, model: nnx.Module) -> Target:
    """Describes a model by its config, the registry and the shapes of its parameters."""
    spec = kind_of(config)
    return Target(
        shapes={path: leaf.shape for path, leaf in flatten(nnx.state(model, nnx.Param)).items()},
        patch=config.patch,
        modality="image" if config.modality == "both" else config.modality,
        separate=config.shape.depth - config.joint_depth,
        own_head=spec.task == "classification" and spec.names == "vit",
    )


def name_of(path: str, target: Target) -> str:
    """Returns the name that a parameter's tensor has in the file."""
    return rename(re.sub(r"^encoder\.blocks\.(\d+)", lambda number: f"blocks.{int(number[1]) + target.separate}", path), _NAMES)


def modality_of(path: str, target: Target) -> str:
    """Returns the modality that a parameter belongs to, "audio" or "image"."""
    own = re.match(r"(?:encoder|decoder\.ends)\.(audio|image)\.", path)
    return own[1] if own else target.modality


# --- how each kind of parameter is made --------------------------------------------------------------------------------------------------


def _torch_shape(path: str, shape: Shape) -> Shape:
    """Returns the shape that a layer's tensor has in torch; a comparison of sizes alone would let a transposed matrix through."""
    if path.endswith("mask_token"):
        return (1, 1, *shape)
    if not path.endswith(".kernel"):
        return (math.prod(shape),)
    outputs = math.prod(shape[1:]) if path.endswith(".qkv.kernel") else shape[-1]
    return (outputs, math.prod(shape) // outputs)


def _patch_kernel(name: str, shape: Shape, patch: int, *, channels: int, from_image: bool) -> Source:
    """Makes [P * P * C, D] of a convolution [D, C, P, P]; that for audio is the sum of the image's over its channels."""
    if from_image:
        wanted = {name: (shape[-1], 3, patch, patch)}
        return Source(wanted, lambda kernel: convert_tensor(kernel.sum(axis=1, keepdims=True), shape), " (summed over RGB)")
    return Source({name: (shape[-1], channels, patch, patch)}, partial(convert_tensor, shape=shape))


def _first_rows(name: str, shape: Shape, values: int) -> Source:
    """Makes the decoder's audio head, with `values` for each patch, of the first rows of the image's, which has three times as many."""
    wanted = {name: (3 * values, *shape[:-1])}
    return Source(wanted, lambda tensor: convert_tensor(tensor[:values], shape), f" (its first {values} rows)")


def _positions(name: str, shape: Shape, tokens: int) -> Source:
    """Makes the positions [L, D] of patches of those of a whole sequence, [1, tokens + L, D]."""
    length, width = shape
    return Source({name: (1, tokens + length, width)}, lambda tensor: tensor[0, tokens:], " (without the class token's)" if tokens else "")


def _tokens(shape: Shape) -> Source:
    """Makes the tokens of no patch, [count, D], each with its position added."""
    count, width = shape

    def add(*tensors: np.ndarray) -> np.ndarray:
        *tokens, positions = tensors
        return np.concatenate(tokens)[:, 0] + positions[0, :count]

    return Source(dict.fromkeys(TOKENS[:count], (1, 1, width)) | {POSITIONS: (1, ANY, width)}, add, " (with its position)")
