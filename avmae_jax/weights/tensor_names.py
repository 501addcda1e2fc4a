"""Takes off what programs put before the names of a model's tensors: module., _orig_mod., model., encoder., backbone. and the like."""

import re
from collections.abc import Iterable

from avmae_jax.errors import WeightsError, some

_WRAPPERS = re.compile(r"(module\.|_orig_mod\.|model\.)+")  # of PyTorch's parallel and compiled modules, and of Lightning
# The patch embedding of a CAV-MAE, MAE or ViT, the original AST (v.) or a model of transformers, and what stands before it.
_PATCHES = re.compile(
    r"((?:\w+\.)*?)(?:v\.)?(?:patch_embed(?:_[av])?\.proj|(?:(?:vit|audio_spectrogram_transformer)\.)?embeddings\.patch_embeddings\.projection)"
    r"\.weight"
)


def own_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the name that each tensor has in its own model, by its name in the file.

    Raises:
      WeightsError: if the file holds several models, or two tensors would get one name.
    """
    short = {name: name[match.end() :] if (match := _WRAPPERS.match(name)) else name for name in names}
    prefixes = {match[1] for name in short.values() if (match := _PATCHES.fullmatch(name))}
    if len(prefixes) > 1 and "" not in prefixes:
        raise WeightsError(f"holds several models, whose names begin with {some(sorted(prefixes))}; save one of them alone")
    prefix = "" if "" in prefixes or not prefixes else prefixes.pop()
    short = {name: new.removeprefix(prefix) for name, new in short.items()}
    if len(set(short.values())) < len(short):
        taken = {new: name for name, new in short.items()}
        twice = next(name for name, new in short.items() if taken[new] != name)
        raise WeightsError(f"holds some tensors twice, such as {twice} and {taken[short[twice]]}")
    return short
