"""Weights of transformers of one modality: where CAV-MAE starts from, and models of others that ours take over exactly.

The layout of timm and of facebookresearch/mae is the common one; names of the transformers library (ViTMAE, AST) are first brought to
it. Then every parameter of the model pulls its value from the tensor that is named by its dotted path. An image MAE starts a CAV-MAE
by the rule of Gong et al., arXiv 2210.07839: both towers get the same blocks, every stream the same norms, the sound's patch kernel is
the sum over red, green and blue.

Axis letters: P patch, L tokens, D width, C channels.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.models.ast import AST, STRIDE
from avmae_jax.models.mae import MAE
from avmae_jax.models.patches import sincos_positions
from avmae_jax.trees import flatten
from avmae_jax.weights.build import AnyKey, build, set_params
from avmae_jax.weights.official import convert_tensor, require_none

M = TypeVar("M", bound=nnx.Module)
Tensors = Mapping[str, np.ndarray]

# transformers -> timm, one after the other: each has the names of version 5 in memory and those that all versions write to files
_TRANSFORMERS = [
    (r"^(vit|audio_spectrogram_transformer)\.", ""),
    (r"^decoder\.(decoder_layers|decoder_encoder\.layer)\.", "decoder_blocks."),
    (r"^decoder\.(?=decoder_|mask_token)", ""),
    (r"^(layers|encoder\.layer)\.", "blocks."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.layernorm\.", "mlp_head.0."),
    (r"^classifier\.dense\.", "mlp_head.1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(q_proj|attention\.query)\.", ".attn.q."),
    (r"\.attention\.(k_proj|attention\.key)\.", ".attn.k."),
    (r"\.attention\.(v_proj|attention\.value)\.", ".attn.v."),
    (r"\.attention\.(o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]
# our dotted path -> timm; before this the joint blocks are numbered on from the separate ones
_SOURCES = [
    (r"\b(norm[12]?)\.(main|audio|image)\.", r"\1."),
    (r"\.(kernel|scale)$", ".weight"),
    (r"^(encoder\.audio|encoder\.image|encoder|tower)\.", ""),
    (r"^decoder\.ends\.\w+\.head\.", "decoder_pred."),
    (r"^decoder\.ends\.\w+\.positions$", "decoder_pos_embed"),
    (r"^decoder\.mask_token$", "mask_token"),
    (r"^decoder\.(blocks|embed|norm)\.", r"decoder_\1."),
    (r"^head\.norm\.", "mlp_head.0."),
    (r"^head\.linear\.", "mlp_head.1."),
    (r"^patch_embed\.", "patch_embed.proj."),
    (r"^positions$", "pos_embed"),
    (r"^prefix$", "cls_token"),
]
_DECODER = re.compile(r"decoder_|mask_token$")  # how its names begin
_SINCOS_ERROR = 1e-4  # of positions that others computed in float32; learned ones differ by far more


class Pulled(NamedTuple):
    """What a model takes from a file."""

    params: dict[str, np.ndarray]  # dotted path -> value; what stays fresh is not in it
    fresh: list[str]  # the other dotted paths
    lines: list[str]  # what went where, for the log


def canonical(tensors: Tensors) -> dict[str, np.ndarray]:
    """Tensors by their names in timm and facebookresearch/mae, from those names or the transformers library's; q, k and v become one."""
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = _rename(name, _TRANSFORMERS)
        require_none([f"twice: {name} and another are both {short}"] if short in renamed else [])
        renamed[short] = tensor
    for name in list(renamed):
        if found := re.fullmatch(r"(.+\.attn)\.q\.(weight|bias)", name):
            parts = [f"{found[1]}.{part}.{found[2]}" for part in "qkv"]
            if len({renamed[part].shape if part in renamed else None for part in parts}) == 1:
                renamed[f"{found[1]}.qkv.{found[2]}"] = np.concatenate([renamed.pop(part) for part in parts])
    return renamed


def pull(model: nnx.Module, tensors: Tensors) -> Pulled:
    """Finds the value of each parameter of a model in the weights of a transformer of one modality.

    What stays as it is: modality embeddings; positions of sound, unless the model is an AST; the head of a CAV-MAE classifier; the decoder
    if the file has none; sin-cos positions of pictures of another size. A class token goes into `tower.prefix` with its position added,
    and is left out where the model has none.

    Args:
      model: CAVMAE, CAVMAEClassifier, MAE or AST; only shapes are looked at, so nnx.eval_shape's result will do.
      tensors: name -> array, as timm, facebookresearch/mae or transformers name them.

    Raises:
      WeightsError: listing every tensor that is missing, misshapen, not used, or has no place in the model.
    """
    return _Puller(model, canonical(tensors)).result()


def initialise(model: nnx.Module, tensors: Tensors) -> list[str]:
    """Sets the parameters of a model in place, see pull; returns the lines that say what went where."""
    pulled = pull(model, tensors)
    set_params(model, pulled.params)
    return pulled.lines


def build_mae(config: ModelConfig, tensors: Tensors) -> MAE:
    """The image MAE of a file exactly; transformers' ViTMAE wants `class_token` and the `norm_eps` of its own config, 1e-12.

    Raises:
      WeightsError: as pull, and if a parameter would stay fresh.
    """
    return _build_exactly(lambda: MAE(config, rngs=AnyKey()), tensors)


def build_ast(config: ModelConfig, tensors: Tensors, *, stride: int = STRIDE) -> AST:
    """The AST of a file exactly, with its classes; transformers' wants the `norm_eps` of its own config, 1e-12.

    Raises:
      WeightsError: as pull.
    """
    tensors = canonical(tensors)
    if "mlp_head.1.bias" not in tensors:
        raise WeightsError("these are no weights of an AST classifier: its head, mlp_head or classifier, is missing")
    classes = len(tensors["mlp_head.1.bias"])
    return _build_exactly(lambda: AST(config, classes, stride=stride, rngs=AnyKey()), tensors)


def _build_exactly(make: Callable[[], M], tensors: Tensors) -> M:
    pulled = pull(nnx.eval_shape(make), tensors)
    require_none([f"missing: nothing in the file is for {path}" for path in pulled.fresh])
    return build(make, pulled.params)


def _rename(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


class _Puller:
    """One model's pull from tensors in the common layout."""

    def __init__(self, model: Any, tensors: Tensors):
        self._tensors = tensors
        self._shapes: dict[str, tuple[int, ...]] = {path: leaf.shape for path, leaf in flatten(nnx.state(model, nnx.Param)).items()}
        self._spectrogram = isinstance(model, AST)  # both sides are about sound, nothing has to be made of pictures
        self._modality = "audio" if self._spectrogram else getattr(model, "modality", "image")  # of what has no modality in its path
        towers = [model.encoder.audio, model.encoder.image] if hasattr(model, "encoder") else [model.tower]
        self._patch, self._separate = towers[0].patch, len(towers[0].blocks)
        self._prefix = [name for name in ("cls_token", "dist_token") if name in tensors]
        self._decoder = any(map(_DECODER.match, tensors))
        self._links: list[tuple[str, str]] = []  # source name, dotted path
        self._used: set[str] = set()
        self._problems: dict[str, None] = {}  # in order, each once
        self._notes: list[str] = []

    def result(self) -> Pulled:
        params: dict[str, np.ndarray] = {}
        for path in self._shapes:
            name = self._source(path)
            value = self._value(path, name) if name else None
            if name and value is not None:
                params[path] = value
                self._links.append((name, path))
        unused = [name for name in self._tensors if name not in self._used]
        left_out = [name for name in unused if self._may_leave_out(name)]
        unused = [name for name in unused if name not in left_out]
        require_none([*self._problems, *(f"not used: {name} {self._tensors[name].shape}" for name in unused)])
        fresh = [path for path in self._shapes if path not in params]
        return Pulled(params, fresh, [*self._lines(), *self._notes, *_rest("fresh", fresh), *_rest("left out", left_out)])

    def _may_leave_out(self, name: str) -> bool:
        """True for an unused tensor that a model does without: a class token, a decoder, positions of pictures where there are none."""
        if name in ("pos_embed", "decoder_pos_embed") and self._modality == "audio":
            return True
        has_decoder = any(path.startswith("decoder.") for path in self._shapes)
        return (name == "cls_token" and "tower.prefix" not in self._shapes) or (_DECODER.match(name) is not None and not has_decoder)

    def _source(self, path: str) -> str | None:
        """The tensor that a parameter comes from; None if it stays as it is."""
        positions_of_sound = path.endswith("positions") and self._is_audio(path) and not self._spectrogram
        if path.endswith(".modality") or positions_of_sound or (path.startswith("head.") and not self._spectrogram):
            return None
        if path.startswith("decoder.") and not self._decoder:
            return None
        path = re.sub(r"^encoder\.blocks\.(\d+)", lambda number: f"blocks.{int(number[1]) + self._separate}", path)
        return _rename(path, _SOURCES)

    def _is_audio(self, path: str) -> bool:
        own = re.match(r"(?:encoder|decoder\.ends)\.(audio|image)\.", path)
        return (own[1] if own else self._modality) == "audio"

    def _value(self, path: str, name: str) -> np.ndarray | None:
        """The parameter, or None if it stays as it is or there is a problem, which is noted then."""
        if path == "tower.prefix":
            return self._prefix_tokens()
        if path.endswith("positions"):
            return self._positions(path, name)
        tensor = self._get(name, self._source_shape(path))
        if tensor is None:
            return None
        if self._is_audio(path) and not self._spectrogram:
            if path.endswith("patch_embed.kernel"):
                tensor = tensor.sum(axis=1, keepdims=True)
            elif ".head." in path:
                tensor = tensor[: self._shapes[path][-1]]
        return convert_tensor(tensor, self._shapes[path])

    def _source_shape(self, path: str) -> tuple[int, ...]:
        """What the source must be; sizes alone would let a transposed matrix through."""
        shape, size = self._shapes[path], math.prod(self._shapes[path])
        if path.endswith("patch_embed.kernel"):
            return (shape[-1], 1 if self._spectrogram else 3, self._patch, self._patch)
        if path.endswith("mask_token"):
            return (1, 1, size)
        pixels = 3 * self._patch**2 if ".head." in path else 0  # the head for sound is a part of the one for pictures
        if path.endswith(".kernel"):
            outputs = math.prod(shape[1:]) if path.endswith(".qkv.kernel") else shape[-1]
            return (pixels or outputs, size // outputs)
        return (pixels or size,)

    def _prefix_tokens(self) -> np.ndarray | None:
        """Tokens of no patch, each with its position: [prefix, D]; the decoder has no position for them."""
        count, width = self._shapes["tower.prefix"]
        names = ("cls_token", "dist_token")[:count]
        tokens = [self._get(name, (1, 1, width)) for name in names]
        positions = self._get("pos_embed")
        found = [token for token in tokens if token is not None]
        if positions is None or len(found) < count or positions.ndim != 3 or positions.shape[2] != width:
            return None  # what is wrong with the positions is said where they are pulled
        decoder_positions = self._tensors.get("decoder_pos_embed", np.zeros((1, count, 1)))
        if decoder_positions.ndim == 3 and np.any(decoder_positions[0, :count]):
            self._problem("no place: decoder_pos_embed has a position for the class token that is not zero; the model's decoder has none")
        return np.concatenate(found)[:, 0] + positions[0, :count]

    def _positions(self, path: str, name: str) -> np.ndarray | None:
        """Positions of the patches, [L, D]."""
        (length, width), before = self._shapes[path], len(self._prefix)
        tensor = self._get(name)
        if tensor is None:
            return None
        rows = tensor.shape[1] - before if tensor.ndim == 3 and tensor.shape[::2] == (1, width) else 0
        if rows == length:
            return tensor[0, before:]
        side = math.isqrt(max(rows, 0))
        if self._is_audio(path) or side == 0 or side**2 != rows:
            self._problem(f"misshapen: {name} is {tensor.shape}, the model's is {(1, before + length, width)}")
        elif np.abs(tensor[0, before:] - sincos_positions((side, side), width)).max() > _SINCOS_ERROR:
            pixels = side * self._patch
            self._problem(f"misshapen: {name} has learned positions of {side} x {side} patches; give the model an image_size of {pixels}")
        else:
            own = math.isqrt(length)
            self._notes.append(f"{name} is sin-cos of {side} x {side} patches: {path} keeps its own sin-cos of {own} x {own}")
        return None

    def _get(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
        tensor = self._tensors.get(name)
        self._used.add(name)
        if tensor is None:
            self._problem(f"missing: {name}")
        elif shape is not None and tensor.shape != shape:
            self._problem(f"misshapen: {name} is {tensor.shape}, the model's is {shape}")
            return None
        return tensor

    def _problem(self, text: str) -> None:
        self._problems[text] = None

    def _remark(self, path: str) -> str:
        """What was done to a tensor on its way."""
        of_picture = self._is_audio(path) and not self._spectrogram
        if path.startswith("encoder.blocks."):
            return " (its norms to every stream)"
        if path == "tower.prefix":
            return " (with its position)"
        if path.endswith("positions") and self._prefix:
            return " (without the class token's)"
        if of_picture and ".patch_embed." in path:
            return " (summed over RGB)"
        return f" (its first {self._patch**2} rows)" if of_picture and ".head." in path else ""

    def _lines(self) -> list[str]:
        """One line for each layer, or each run of blocks that go to the same places."""
        where: dict[str, dict[str, None]] = {}
        for name, path in self._links:
            block = re.match(r"(decoder_)?blocks\.\d+", name)
            where.setdefault(block[0] if block else _place(name), {})[_place(path) + self._remark(path)] = None
        lines = []
        for places, names in itertools.groupby(where, key=lambda name: (_place(f"{name}."), *where[name])):
            first, *rest = names
            lines.append(f"{first}{f' to {rest[-1]}' if rest else ''} -> {', '.join(places[1:])}")
        return lines


def _rest(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {', '.join(dict.fromkeys(map(_place, names)))}"] if names else []


def _place(name: str) -> str:
    """The layer, or stack of blocks, that a parameter or tensor belongs to."""
    return re.sub(r"(blocks)\..*|\.(kernel|scale|weight|bias)$", r"\1", name)
