"""Weights of transformers of one modality: where CAV-MAE starts from, and models of others that ours take over exactly.

The layout of timm and of facebookresearch/mae is the common one; names of the transformers library (ViTMAE, AST) are first brought to
it. Then every parameter of the model pulls its value from the tensor that is named by its dotted path. An image MAE starts a CAV-MAE
by the rule of Gong et al., arXiv 2210.07839: both towers get the same blocks, every stream the same norms, the sound's patch kernel is
the sum over red, green and blue.

Axis letters: P patch, L tokens, D width, C channels.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from flax import nnx

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.models.patches import grid_of, sincos_positions
from avmae_jax.models.registry import KINDS, kind_of
from avmae_jax.trees import flatten
from avmae_jax.weights.build import set_params
from avmae_jax.weights.notes import Notes
from avmae_jax.weights.official import convert_tensor, count_blocks, published_heads, require_none, some

STRIDE = KINDS["ast"].stride or 0
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
_TRANSFORMERS_PREFIXES = ("vit.", "audio_spectrogram_transformer.")
_AST_NOTES = Notes(audio_mean=-4.2677393, audio_std=2 * 4.5689974, mode="audioonly")  # an AST takes (x - mean) / (2 std) of AudioSet
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


class Found(NamedTuple):
    """What the tensors of a transformer of one modality tell about their model."""

    config: ModelConfig
    classes: int  # C; 0: a masked autoencoder
    notes: Notes


def read(tensors: Tensors, *, heads: int = 0, decoder_heads: int = 0, mel_bins: int = 128) -> Found:
    """Finds the config of an image MAE with its decoder, or of an AST, from the shapes and names of its tensors.

    Args:
      tensors: name -> array, as timm, facebookresearch/mae or transformers name them.
      heads: of the encoder, which no shape shows; 0: those of the published model of this width.
      decoder_heads: of the decoder; 0: those of the published model of this width.
      mel_bins: M of an AST.

    Raises:
      WeightsError: if the tensors belong to neither, or a size can't be found.
    """
    named = canonical(tensors)
    kernel, positions = named.get("patch_embed.proj.weight"), named.get("pos_embed")
    if kernel is None or positions is None or kernel.ndim != 4 or positions.ndim != 3:
        raise WeightsError(f"these are no weights of a CAV-MAE, an MAE or an AST; its tensors are {some(tensors)}")
    width, channels, patch, _ = kernel.shape
    config = ModelConfig(
        depth=count_blocks(named, "blocks"),
        width=width,
        heads=heads or published_heads(width, ""),
        patch=patch,
        mlp_ratio=named["blocks.0.mlp.fc1.weight"].shape[0] / width if "blocks.0.mlp.fc1.weight" in named else 4.0,
        # transformers' models have another epsilon than timm's and facebookresearch's, and no tensor holds it
        norm_eps=1e-12 if any(name.startswith(_TRANSFORMERS_PREFIXES) for name in tensors) else 1e-6,
    )
    length = positions.shape[1] - sum(name in named for name in ("cls_token", "dist_token"))
    if channels == 1 and "mlp_head.1.weight" in named:
        frames = _ast_frames(length, mel_bins, patch)
        config = dataclasses.replace(config, kind="ast", modality="audio", audio_frames=frames, mel_bins=mel_bins)
        return Found(config, len(named["mlp_head.1.weight"]), _AST_NOTES)
    if "decoder_embed.weight" not in named:
        raise WeightsError("these are an encoder without decoder or head, no model by itself; start a run with it: --config.init_from")
    decoder_width = len(named["decoder_embed.weight"])
    config = dataclasses.replace(
        config,
        kind="mae",
        modality="image",
        class_token="cls_token" in named,
        image_size=math.isqrt(length) * patch,
        decoder_width=decoder_width,
        decoder_depth=count_blocks(named, "decoder_blocks"),
        decoder_heads=decoder_heads or published_heads(decoder_width, "decoder_"),
    )
    return Found(config, 0, Notes())


def _ast_frames(length: int, mel_bins: int, patch: int) -> int:
    """Returns the length of an AST's audio in frames, the multiple of the patch that gives this number of overlapping patches."""
    rows, _ = grid_of(mel_bins, patch, patch, STRIDE)
    columns = length // rows
    shortest = patch + STRIDE * (columns - 1)
    frames = next((frames for frames in range(shortest, shortest + STRIDE) if frames % patch == 0), 0)
    if rows * columns != length or not frames:
        raise WeightsError(f"its {length} positions are not those of audio with {mel_bins} mel bins; give another mel_bins")
    return frames


def pull(config: ModelConfig, model: nnx.Module, tensors: Tensors) -> Pulled:
    """Finds the value of each parameter of a model in the weights of a transformer of one modality.

    What stays as it is: modality embeddings; positions of sound, unless the model is an AST; the head of a CAV-MAE classifier; the decoder
    if the file has none; sin-cos positions of pictures of another size. A class token goes into `tower.prefix` with its position added,
    and is left out where the model has none.

    Args:
      config: of the model.
      model: of any kind; only shapes are used, so nnx.eval_shape's result will do.
      tensors: name -> array, as timm, facebookresearch/mae or transformers name them.

    Raises:
      WeightsError: listing every tensor that is missing, misshapen, not used, or has no place in the model.
    """
    return _Puller(config, model, canonical(tensors)).result()


def initialise(config: ModelConfig, model: nnx.Module, tensors: Tensors) -> list[str]:
    """Sets the parameters of a model in place, as pull finds them; returns the lines that say what went where."""
    pulled = pull(config, model, tensors)
    set_params(model, pulled.params)
    return pulled.lines


def _rename(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


class _Puller:
    """One model's pull from tensors in the common layout."""

    def __init__(self, config: ModelConfig, model: nnx.Module, tensors: Tensors):
        self._tensors, self._patch = tensors, config.patch
        self._shapes: dict[str, tuple[int, ...]] = {path: leaf.shape for path, leaf in flatten(nnx.state(model, nnx.Param)).items()}
        spec = kind_of(config)
        self._spectrogram = spec.task == "classification" and spec.names == "vit"  # both sides are audio, nothing is made from images
        self._modality = "image" if config.modality == "both" else config.modality  # of what has no modality in its path
        self._separate = config.shape.depth - config.joint_depth  # blocks before the joint ones
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
