"""Learns from audio and images together: CAV-MAE in JAX.

Public names are imported when they are first used: processes that only decode media don't need the model's libraries.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from avmae_jax.checkpoint.manager import restore_params as restore_params
    from avmae_jax.config import Config as Config
    from avmae_jax.config import ModelConfig as ModelConfig
    from avmae_jax.errors import AvmaeError as AvmaeError
    from avmae_jax.errors import CheckpointError as CheckpointError
    from avmae_jax.errors import ClipError as ClipError
    from avmae_jax.errors import DatasetError as DatasetError
    from avmae_jax.errors import WeightsError as WeightsError
    from avmae_jax.inference.api import Model as Model
    from avmae_jax.inference.api import embed as embed
    from avmae_jax.inference.api import load as load
    from avmae_jax.inference.api import load as load_trained  # noqa: F401 - the same under its old name
    from avmae_jax.inference.api import predict as predict
    from avmae_jax.inference.embed import Embedding as Embedding
    from avmae_jax.inference.file_match import FileMatch as FileMatch
    from avmae_jax.inference.predict import Prediction as Prediction
    from avmae_jax.models.ast import AST as AST
    from avmae_jax.models.cavmae import CAVMAE as CAVMAE
    from avmae_jax.models.classifier import CAVMAEClassifier as CAVMAEClassifier
    from avmae_jax.models.mae import MAE as MAE
    from avmae_jax.train.run import finetune as finetune
    from avmae_jax.train.run import pretrain as pretrain
    from avmae_jax.weights.io import load_pretrained as load_pretrained
    from avmae_jax.weights.io import save_torch as save_torch

_HOME = {
    "AST": "models.ast",
    "AvmaeError": "errors",
    "CAVMAE": "models.cavmae",
    "CAVMAEClassifier": "models.classifier",
    "CheckpointError": "errors",
    "ClipError": "errors",
    "Config": "config",
    "DatasetError": "errors",
    "Embedding": "inference.embed",
    "FileMatch": "inference.file_match",
    "MAE": "models.mae",
    "Model": "inference.api",
    "ModelConfig": "config",
    "Prediction": "inference.predict",
    "WeightsError": "errors",
    "embed": "inference.api",
    "finetune": "train.run",
    "load": "inference.api",
    "load_pretrained": "weights.io",
    "load_trained": "inference.api",
    "predict": "inference.api",
    "pretrain": "train.run",
    "restore_params": "checkpoint.manager",
    "save_torch": "weights.io",
}
_ALIASES = {"load_trained": "load"}
__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"avmae_jax has no attribute {name!r}; public are {', '.join(_HOME)}")
    return getattr(importlib.import_module(f"avmae_jax.{_HOME[name]}"), _ALIASES.get(name, name))


def __dir__() -> list[str]:
    """Lists the public names."""
    return sorted(__all__)
