"""CAV-MAE in JAX: learning from sound and picture."""

import importlib
from typing import Any

_PUBLIC = {"CAVMAE": "avmae_jax.models.cavmae", "restore_params": "avmae_jax.checkpoint"}
__all__ = ["CAVMAE", "restore_params"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Public names are imported when asked for: processes that only decode media don't need the model's libraries."""
    if name not in _PUBLIC:
        raise AttributeError(f"avmae_jax has no attribute {name!r}; public are {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
