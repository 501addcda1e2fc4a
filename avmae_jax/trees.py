# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
"""Names the leaves of a pytree by the dotted paths that checkpoints, sharding and conversion use."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

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


def flatten_fields(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Gives the fields of nested mappings, such as a config's, their dotted names; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        nested = isinstance(value, dict) and bool(value)  # pyright: ignore[reportUnknownArgumentType]
        flat |= flatten_fields(cast("dict[str, Any]", value), f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat
