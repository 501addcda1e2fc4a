"""CAV-MAE in JAX: learning from sound and picture."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AST": "avmae_jax.models.ast",
    "CAVMAE": "avmae_jax.models.cavmae",
    "CAVMAEClassifier": "avmae_jax.models.classifier",
    "MAE": "avmae_jax.models.mae",
    "embed": "avmae_jax.inference.api",
    "load_pretrained": "avmae_jax.weights.io",
    "load_trained": "avmae_jax.weights.trained",
    "predict": "avmae_jax.inference.api",
    "restore_params": "avmae_jax.checkpoint.manager",
    "save_torch": "avmae_jax.weights.io",
}
__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Public names are imported when asked for: processes that only decode media don't need the model's libraries."""
    if name not in _PUBLIC:
        raise AttributeError(f"avmae_jax has no attribute {name!r}; public are {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
