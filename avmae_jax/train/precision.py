"""Decides how exactly a run computes, once its devices are known: model.compute_dtype and train.matmul_precision."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from absl import logging

from avmae_jax.config import Config
from avmae_jax.config_history import with_defaults
from avmae_jax.errors import ConfigError
from avmae_jax.models.precision import fast_dtype


def settle_precision(config: Config, checkpoint: Mapping[str, Any] | None, devices: Sequence[Any] | None = None) -> None:
    """Sets model.compute_dtype where the config leaves it to the devices, and logs which one is used and why.

    Args:
      config: of the run; this field of it is set.
      checkpoint: meta of the run's newest checkpoint, whose dtype is kept; None: a new run.
      devices: that will compute; None: those of this process.

    Raises:
      ConfigError: if train.matmul_precision is given and no product depends on it.
    """
    model, (fast, clause) = config.model, fast_dtype(devices or jax.devices())
    if model.compute_dtype != "auto":
        reason = "as model.compute_dtype says" + (f", though {clause}" if (model.compute_dtype, fast) == ("bfloat16", "float32") else "")
    elif checkpoint is not None:
        model.compute_dtype, reason = with_defaults(checkpoint["config"])["model"]["compute_dtype"], "as in the run that is resumed"
    else:
        model.compute_dtype, reason = fast, f"since {clause}"
    logging.info("computing in %s, %s; parameters, norms, softmax and losses are float32", model.compute_dtype, reason)
    if config.train.matmul_precision is None:
        return
    if model.compute_dtype != "float32" or fast == "float32":
        why = "where the model computes in bfloat16" if model.compute_dtype != "float32" else f"since {clause}: it multiplies in float32"
        raise ConfigError(f"train.matmul_precision is {config.train.matmul_precision!r}, which does nothing {why}; leave it out")


def matmul_precision(config: Config) -> AbstractContextManager[None]:
    """Applies train.matmul_precision to what is traced in the block; log-mel and contrastive logits are float32 without it."""
    name = config.train.matmul_precision
    return nullcontext() if name is None else jax.default_matmul_precision(name)
