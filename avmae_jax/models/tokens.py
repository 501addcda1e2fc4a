"""Names the parts of a token sequence, so that no model slices one by arithmetic.

A sequence is made of segments, arrays [B, L, D] under names such as "audio.patches" and "image.global" (tokens that belong to no patch).
They follow each other in the order of their names: jax sorts the keys of a dict too, so no other order would survive a jitted function.

Axis letters: B batch, L tokens, D width.
"""

import itertools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

Tokens = dict[str, Float[Array, "B _ _"]]  # segment name -> [B, L, D]

# Parts of a modality's tokens: those of patches, those that stand for the whole input, and those that are room to compute in.
PATCHES, GLOBAL, REGISTERS = "patches", "global", "registers"


def name_of(modality: str, part: str) -> str:
    """Returns the name of a segment: "audio.patches"."""
    return f"{modality}.{part}"


def join(tokens: Mapping[str, Float[Array, "B _ D"]]) -> Float[Array, "B L D"]:
    """Concatenates segments to one sequence, whose length is the sum of theirs."""
    return jnp.concatenate([tokens[name] for name in sorted(tokens)], axis=1)


def split(sequence: Float[Array, "B L D"], like: Mapping[str, Float[Array, "_ _ _"]]) -> Tokens:
    """Cuts a sequence into segments with the names and lengths of `like`, whose D may differ; undoes join.

    Raises:
      ValueError: if the lengths don't add up to that of the sequence.
    """
    lengths = {name: like[name].shape[1] for name in sorted(like)}
    if sum(lengths.values()) != sequence.shape[1]:
        raise ValueError(f"a sequence of {sequence.shape[1]} tokens can't be cut into {lengths}")
    ends = list(itertools.accumulate(lengths.values()))[:-1]
    return dict(zip(lengths, jnp.split(sequence, ends, axis=1), strict=True))


def through(function: Callable[[Array], Array], tokens: Tokens) -> Tokens:
    """Applies a function of one sequence to the joined segments and returns its result under their names."""
    return split(function(join(tokens)), tokens)


def of_modality(tokens: Tokens, modality: str) -> Tokens:
    """Selects the segments of one modality.

    Raises:
      ValueError: if there are none.
    """
    selected = {name: segment for name, segment in tokens.items() if name.startswith(f"{modality}.")}
    if not selected:
        raise ValueError(f"there are no tokens of {modality}, only {', '.join(tokens)}; give this modality")
    return selected


def without_part(tokens: Tokens, part: str) -> Tokens:
    """Selects the segments of all parts but one."""
    return {name: segment for name, segment in tokens.items() if not name.endswith(f".{part}")}


def of_part(tokens: Tokens, part: str) -> Tokens:
    """Selects the segments of one part, such as "patches", of every modality that has it."""
    return {name: segment for name, segment in tokens.items() if name.endswith(f".{part}")}
