"""Fills a model with the weights of a transformer of one modality: an image MAE that a CAV-MAE starts from, or an MAE or AST as it is.

vit_sources.py decides what each parameter is made from. Here the values are collected, what doesn't fit is listed, and the log is written.
"""

import itertools
import math
import re
from typing import NamedTuple

import numpy as np
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.errors import require_none
from avmae_jax.models.patches import sincos_positions
from avmae_jax.weights.build import set_params
from avmae_jax.weights.vit_names import Tensors, canonical
from avmae_jax.weights.vit_sources import (
    ANY,
    DECODER,
    POSITIONS,
    File,
    Shape,
    Source,
    Target,
    describe_file,
    describe_target,
    modality_of,
    name_of,
    source_of,
)

_SINCOS_ERROR = 1e-4  # of positions that others computed in float32; learned ones differ by far more


class Pulled(NamedTuple):
    """Holds what a model takes from a file."""

    params: dict[str, np.ndarray]  # dotted path -> value; what stays fresh is not in it
    fresh: list[str]  # the other dotted paths
    lines: list[str]  # what went where, for the log


def pull(config: ModelConfig, model: nnx.Module, tensors: Tensors) -> Pulled:
    """Finds the value of each parameter of a model in the weights of a transformer of one modality.

    These stay fresh: modality embeddings; audio positions, if the file is an image model's; the head of a CAV-MAE classifier; the decoder,
    if the file has none; sin-cos positions of images of another size. A class token goes into `tower.prefix` with its position added, and
    is left out where the model has none.

    Args:
      config: of the model.
      model: of any kind; only its shapes are used, so the result of nnx.eval_shape will do.
      tensors: name -> array, as timm, facebookresearch/mae, the original AST or transformers name them.

    Raises:
      WeightsError: listing every tensor that is missing, misshapen, not used, or has no place in the model.
    """
    file, target = describe_file(canonical(tensors)), describe_target(config, model)
    params: dict[str, np.ndarray] = {}
    sources: dict[str, Source] = {}
    kept: dict[str, str] = {}  # name of a tensor -> why a parameter is not made from it
    problems = _lost_positions(file, target)
    for path in target.shapes:
        if note := _why_kept(path, file, target):
            kept[name_of(path, target)] = note
        elif source := source_of(path, file, target):
            sources[path] = source
            wrong = {name: _misfit(name, wanted, file, target) for name, wanted in source.shapes.items()}
            problems |= {name: problem for name, problem in wrong.items() if problem and name not in problems}
            if not any(wrong.values()):
                params[path] = source.convert(*(file.tensors[name] for name in source.shapes))
    used = {*kept, *(name for source in sources.values() for name in source.shapes)}
    unused = [name for name in file.tensors if name not in used]
    left_out = [name for name in unused if _may_leave_out(name, target)]
    lost = [f"not used: {name} {file.tensors[name].shape}" for name in unused if name not in left_out]
    require_none([*problems.values(), *lost])
    fresh = [path for path in target.shapes if path not in params]
    return Pulled(params, fresh, [*_log_lines(sources), *kept.values(), *_rest("fresh", fresh), *_rest("left out", left_out)])


def initialise(config: ModelConfig, model: nnx.Module, tensors: Tensors) -> list[str]:
    """Sets the parameters of a model in place to those that `pull` finds; returns the lines that say what went where."""
    pulled = pull(config, model, tensors)
    set_params(model, pulled.params)
    return pulled.lines


# --- what doesn't fit --------------------------------------------------------------------------------------------------------------------


def _misfit(name: str, wanted: Shape, file: File, target: Target) -> str:
    """Returns what is wrong with a tensor; "" if it fits."""
    tensor = file.tensors.get(name)
    if tensor is None:
        return f"missing: {name}"
    if tensor.ndim == len(wanted) and all(want in (size, ANY) for size, want in zip(tensor.shape, wanted, strict=True)):
        return ""
    side = _side(name, file)
    remedy = f"; these are learned, of {side} x {side} patches: give the model an image_size of {side * target.patch}" if side else ""
    return f"misshapen: {name} is {tensor.shape}, the model's is {str(wanted).replace(str(ANY), 'any')}{remedy}"


def _side(name: str, file: File) -> int:
    """Returns the number of rows and columns of the square image whose patches' positions a tensor holds; 0 if it holds none."""
    tensor = file.tensors[name]
    if not name.endswith(POSITIONS) or file.modality == "audio" or tensor.ndim != 3:
        return 0
    length = max(tensor.shape[1] - file.tokens, 0)
    side = math.isqrt(length)
    return side if side**2 == length else 0


def _why_kept(path: str, file: File, target: Target) -> str:
    """Returns why a model keeps its image positions, as a line for the log: the file's are sin-cos, of another size; "" if it doesn't."""
    name = name_of(path, target)
    if not path.endswith("positions") or modality_of(path, target) == "audio" or name not in file.tensors:
        return ""
    (length, width), tensor, side = target.shapes[path], file.tensors[name], _side(name, file)
    if side in (0, math.isqrt(length)) or tensor.shape[::2] != (1, width):
        return ""
    if np.abs(tensor[0, file.tokens :] - sincos_positions((side, side), width)).max() > _SINCOS_ERROR:
        return ""
    own = math.isqrt(length)
    return f"{name} is sin-cos of {side} x {side} patches: {path} keeps its own sin-cos of {own} x {own}"


def _lost_positions(file: File, target: Target) -> dict[str, str]:
    """Returns a problem if the file's decoder adds positions to the tokens of no patch, which the model's doesn't."""
    name = "decoder_pos_embed"
    positions, count = file.tensors.get(name), target.shapes.get("tower.prefix", (0,))[0]
    if positions is None or positions.ndim != 3 or not np.any(positions[0, :count]):
        return {}
    return {name: f"no place: {name} has a position for the class token that is not zero; the model's decoder has none"}


def _may_leave_out(name: str, target: Target) -> bool:
    """Returns True for an unused tensor that a model does without."""
    if target.modality == "audio" and name in (POSITIONS, "decoder_pos_embed"):  # of images
        return True
    if target.own_head and name.startswith(("head.", "head_dist.")):  # of the DeiT that the original AST is built on, and never used there
        return True
    has_decoder = any(path.startswith("decoder.") for path in target.shapes)
    return (name == "cls_token" and "tower.prefix" not in target.shapes) or (DECODER.match(name) is not None and not has_decoder)


# --- the log -----------------------------------------------------------------------------------------------------------------------------


def _log_lines(sources: dict[str, Source]) -> list[str]:
    """Returns one line for each layer, or for each run of blocks that go to the same places."""
    places: dict[str, dict[str, str]] = {}  # block or layer of the file -> the layers that it goes to, with remarks
    for path, source in sources.items():
        name = next(iter(source.shapes))
        block = re.match(r"(decoder_)?blocks\.\d+", name)
        remarks = places.setdefault(block[0] if block else _place(name), {})
        remarks[_place(path)] = remarks.get(_place(path)) or source.remark
    lines = []
    for (_, to), names in itertools.groupby(places, key=lambda name: (_place(f"{name}."), places[name])):
        first, *rest = names
        lines.append(f"{first}{f' to {rest[-1]}' if rest else ''} -> {', '.join(layer + remark for layer, remark in to.items())}")
    return lines


def _rest(what: str, names: list[str]) -> list[str]:
    """Returns a line that lists layers, or none if there are no names."""
    return [f"{what}: {', '.join(dict.fromkeys(map(_place, names)))}"] if names else []


def _place(name: str) -> str:
    """Returns the layer, or stack of blocks, that a parameter or tensor belongs to."""
    return re.sub(r"(blocks)\..*|\.(kernel|scale|weight|bias)$", r"\1", name)
