"""Names the parts of a token sequence, so that no model slices one by arithmetic.

A sequence is made of segments, arrays [B, L, D] under names such as "audio.patches" and "image.global" (tokens that belong to no patch).
Their order in the mapping is their order in the sequence. Names sort in that order too, since jax sorts the keys of a dict.

Axis letters: B batch, L tokens, D width.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Tokens = dict[str, jax.Array]  # segment name -> [B, L, D]

PATCHES, GLOBAL = "patches", "global"  # parts of a modality's tokens


def name_of(modality: str, part: str) -> str:
    """Returns the name of a segment: "audio.patches"."""
    return f"{modality}.{part}"


def join(tokens: Mapping[str, jax.Array]) -> jax.Array:
    """Concatenates segments to one sequence [B, sum of L, D]."""
    return jnp.concatenate(list(tokens.values()), axis=1)


def split(sequence: jax.Array, like: Mapping[str, jax.Array]) -> Tokens:
    """Cuts a sequence into segments with the names and lengths of `like`; D may differ.

    Raises:
      ValueError: if the lengths don't add up to that of the sequence.
    """
    lengths = [segment.shape[1] for segment in like.values()]
    if sum(lengths) != sequence.shape[1]:
        raise ValueError(f"a sequence of {sequence.shape[1]} tokens can't be cut into {dict(zip(like, lengths, strict=True))}")
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths) - 1)]
    return dict(zip(like, jnp.split(sequence, ends, axis=1), strict=True))


def through(function: Callable[[jax.Array], jax.Array], tokens: Mapping[str, jax.Array]) -> Tokens:
    """Applies a function of one sequence to the joined segments and returns them under the same names."""
    return split(function(join(tokens)), tokens)


def of_modality(tokens: Mapping[str, jax.Array], modality: str) -> Tokens:
    """Selects the segments of one modality.

    Raises:
      ValueError: if there are none.
    """
    selected = {name: segment for name, segment in tokens.items() if name.startswith(f"{modality}.")}
    if not selected:
        raise ValueError(f"there are no tokens of {modality}, only {', '.join(tokens)}; give this modality")
    return selected


def of_part(tokens: Mapping[str, jax.Array], part: str) -> Tokens:
    """Selects the segments of one part, such as "patches", of every modality that has it."""
    return {name: segment for name, segment in tokens.items() if name.endswith(f".{part}")}
