"""Says what may differ between a run and its continuation."""

from collections.abc import Mapping, Sequence
from typing import Any

from avmae_jax.config_history import negatives_of, require_same_config, with_defaults

# Fields that may differ when a run is resumed: they don't change what is computed, or (steps, epochs) only for how long.
FREE_FIELDS = (
    "name", "requires", "mesh", "model.remat", "data.path", "data.eval_path", "data.labels_csv", "data.root", "data.cache_dir",
    "data.workers", "data.threads", "data.prefetch", "data.max_damaged", "train.workdir", "train.epochs", "train.steps", "train.log_every",
    "train.eval_every", "train.picture_every", "train.checkpoint_every", "train.checkpoint_minutes", "train.keep_last", "train.keep_every",
    "train.eval_batches", "train.retrieval_clips", "train.micro_batch", "train.matmul_precision", "train.deterministic",
)  # fmt: skip


def require_same_run(before: Mapping[str, Any], now: Mapping[str, Any], bound: Sequence[str]) -> None:
    """Raises CheckpointMismatchError, which names the fields, if the run of a checkpoint computes something else.

    Args:
      before: meta of the checkpoint; of an older version it may lack fields.
      now: meta of the run.
      bound: those of FREE_FIELDS that decide what this run computes: a cosine schedule's rates follow from its length.
    """
    saved, own = ({**with_defaults(m["config"], classifies=bool(m["label_names"])), "train_clips": m["train_clips"]} for m in (before, now))
    if saved["data"]["channels"] is None:  # the run is older than the field
        saved["data"]["channels"] = own["data"]["channels"]
    saved["loss"]["negatives"] = negatives_of(before)
    require_same_config(saved, own, ignore=tuple(name for name in FREE_FIELDS if name not in bound))
