# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
"""Names the leaves of a pytree by the dotted paths that checkpoints, sharding and conversion use."""

from collections.abc import Sequence
from typing import Any

import jax

_VALUE = jax.tree_util.GetAttrKey("value")  # the step from an nnx Variable to its array, which says nothing


def dotted(path: Sequence[Any]) -> str:
    """Writes a jax key path as text: "encoder.blocks.0.attn.qkv.kernel"."""
    return jax.tree_util.keystr(tuple(key for key in path if key != _VALUE), simple=True, separator=".")


def flatten(tree: Any) -> dict[str, Any]:
    """Returns {dotted path: leaf} in the order of jax.tree.leaves; raises ValueError if two leaves get one name."""
    flat: dict[str, Any] = {}
    leaves: list[tuple[tuple[Any, ...], Any]] = jax.tree.leaves_with_path(tree)
    for path, leaf in leaves:
        name = dotted(path) or "value"
        if name in flat:
            raise ValueError(f"two leaves are called {name}; rename one")
        flat[name] = leaf
    return flat
