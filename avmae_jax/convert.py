"""Between the official state dict and this project's parameters.

The name map is a list of renamings. The tensors need one rule: a torch linear weight [out, in] is transposed, a convolution
[D, C, P, P] becomes [P, P, C, D], and the result has the shape of its target (heads as an axis of their own, patches flattened). The
rule is linear, so gradients are converted like weights.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.models.cavmae import CAVMAE

# (pattern in the official name, ours); every rule is tried once, in this order
_RULES = [
    # whose part it is
    (r"^(modality|pos_embed|patch_embed)_([av])\b", r"encoder.\2.\1"),
    (r"^decoder_(modality|pos_embed|pred)_([av])\b", r"decoder.\2.\1"),
    (r"^blocks_([av])\.", r"encoder.\1.blocks."),
    (r"^blocks_u\.", r"encoder.blocks."),
    (r"^norm", r"encoder.norm"),
    (r"^decoder_(embed|blocks|norm)\b", r"decoder.\1"),
    (r"^mask_token$", r"decoder.mask_token"),
    # norms by stream
    (r"\b(norm[12]?)_([av])\b", r"\1.\2"),
    (r"\b(norm[12]?)\.(weight|bias)$", r"\1.main.\2"),
    (r"\b(norm[12]?\.\w+)\.weight$", r"\1.scale"),
    # other words for the same thing
    (r"\bpatch_embed\.proj\b", r"patch_embed"),
    (r"\bpos_embed\b", r"positions"),
    (r"\bpred\b", r"head"),
    (r"\.a\.", r".audio."),
    (r"\.v\.", r".image."),
    (r"\.weight$", r".kernel"),
]
# Every official block carries three norm pairs; outside the joint blocks only the first is used.
_UNUSED = re.compile(r"^(blocks_[av]|decoder_blocks)\.\d+\.norm[12]_[av]\.(weight|bias)$")


class ConversionError(ValueError):
    """The tensors don't fit the model; the message lists every one that doesn't."""


def is_unused(name: str) -> bool:
    """True for an official norm that is stored and never used."""
    return _UNUSED.match(name) is not None


def path_of(name: str) -> str:
    """The dotted path of an official tensor here: "blocks_u.0.norm1_a.weight" -> "encoder.blocks.0.norm1.audio.scale"."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name, count=1)
    return name


def convert_tensor(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An official weight or gradient in the layout of its target of the given shape; ValueError if the sizes differ."""
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return tensor.reshape(shape)


def convert_state(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Official tensors by name -> ours by dotted path; the norms that are never used are left out.

    Args:
      tensors: official name -> array.
      shapes: dotted path -> shape, all that the result must have.

    Raises:
      ConversionError: listing every missing, unexpected and misshapen tensor.
    """
    converted, problems = {}, []
    for name, tensor in tensors.items():
        path = path_of(name)
        if is_unused(name):
            continue
        if path not in shapes:
            problems.append(f"unexpected: {name}")
        elif path in converted:
            problems.append(f"duplicate: {name} is a second name of {path}")
        elif tensor.shape != _official_shape(path, shapes[path]):
            problems.append(f"misshapen: {name} is {tensor.shape} and can't become {shapes[path]} ({path})")
        else:
            converted[path] = convert_tensor(tensor, shapes[path])
    named = {path_of(name) for name in tensors}
    problems = [f"missing: {path}" for path in shapes if path not in named] + problems
    if problems:
        raise ConversionError(f"{len(problems)} tensors don't fit the model:\n  " + "\n  ".join(problems))
    return converted


def _official_shape(path: str, ours: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the official tensor of a parameter has; a comparison of sizes alone would let a transposed one through."""
    size = math.prod(ours)
    if path.endswith(".patch_embed.kernel"):
        channels = 3 if ".image." in path else 1
        patch = math.isqrt(ours[0] // channels)
        return (ours[1], channels, patch, patch)
    if path.endswith(".kernel"):
        outputs = math.prod(ours[1:]) if path.endswith(".qkv.kernel") else ours[-1]
        return (outputs, size // outputs)
    if path.endswith((".positions", ".modality", ".mask_token")):
        return (1,) * (3 - len(ours)) + ours
    return (size,)


def flat_params(state: Any) -> dict[str, Any]:
    """An nnx.State (or a module) as {dotted path: array}."""
    state = nnx.state(state, nnx.Param) if isinstance(state, nnx.Module) else state
    return {dotted(path): variable[...] for path, variable in nnx.to_flat_state(state)}


def dotted(path: Iterable[object]) -> str:
    """A path in an nnx.State as it stands in messages and tables."""
    return ".".join(map(str, path))


def build(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> CAVMAE:
    """A pretraining model of these sizes with the weights of an official state dict; ConversionError if they don't fit."""
    model = nnx.eval_shape(lambda: CAVMAE(config, rngs=nnx.Rngs(0)))
    graph, abstract = nnx.split(model)
    flat = nnx.to_flat_state(abstract)
    converted = convert_state(tensors, {dotted(path): variable.shape for path, variable in flat})
    weights = [(path, variable.replace(jnp.asarray(converted[dotted(path)], variable.dtype))) for path, variable in flat]
    return nnx.merge(graph, nnx.from_flat_state(weights))


def infer_sizes(tensors: Mapping[str, np.ndarray], *, heads: int, decoder_heads: int, mel_bins: int = 128) -> ModelConfig:
    """The sizes of a pretraining model from its official state dict.

    Args:
      tensors: official name -> array.
      heads: of the encoder; no tensor's shape tells.
      decoder_heads: likewise.
      mel_bins: M; from it and the number of audio positions follow the frames.

    Raises:
      ConversionError: if a tensor that gives a size is missing.
    """
    needed = ["patch_embed_v.proj.weight", "decoder_embed.weight", "blocks_u.0.mlp.fc1.weight", "pos_embed_a", "pos_embed_v"]
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ConversionError(f"these are no weights of a CAV-MAE with decoder: {', '.join(missing)} missing")
    width, _, patch, _ = tensors["patch_embed_v.proj.weight"].shape
    joint_depth = _count_blocks(tensors, "blocks_u")
    return ModelConfig(
        depth=_count_blocks(tensors, "blocks_a") + joint_depth,
        joint_depth=joint_depth,
        width=width,
        heads=heads,
        decoder_depth=_count_blocks(tensors, "decoder_blocks"),
        decoder_width=tensors["decoder_embed.weight"].shape[0],
        decoder_heads=decoder_heads,
        mlp_ratio=tensors["blocks_u.0.mlp.fc1.weight"].shape[0] / width,
        audio_frames=tensors["pos_embed_a"].shape[1] * patch // mel_bins * patch,
        mel_bins=mel_bins,
        image_size=math.isqrt(tensors["pos_embed_v"].shape[1]) * patch,
        patch=patch,
    )


def _count_blocks(tensors: Mapping[str, np.ndarray], stack: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{stack}.")})
