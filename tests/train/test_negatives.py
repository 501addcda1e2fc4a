"""Checks that a run keeps the negatives with which it began."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from avmae_jax.config import Config
from avmae_jax.config_history import negatives_of
from avmae_jax.train.negatives import choices, describe_negatives, settle_negatives
from avmae_jax.train.pretraining import PretrainingTask
from tests.support import TINY, apply

OLDER, NEWER = {}, {"negatives": 48}


def meta(saved: str, micro_batch: int, more: dict[str, Any], labels: tuple[str, ...] = ()) -> dict[str, Any]:
    config = apply(Config(), {"loss.negatives": saved, "train.batch_size": 48})
    return {"config": dataclasses.asdict(config), "micro_batch": micro_batch, "label_names": list(labels), **more}


@pytest.mark.parametrize(
    ("checkpoint", "given", "expected"),
    [
        (None, "global", "global"),
        (meta("global", 12, OLDER), "global", "micro_batch"),
        (meta("global", 48, OLDER), "global", "global"),
        (meta("global", 12, OLDER, ("a", "b")), "global", "global"),  # a classifier has none
        (meta("global", 12, NEWER), "global", "global"),
        (meta("micro_batch", 12, {"negatives": 12}), "global", "micro_batch"),
        (meta("shard", 12, OLDER), "shard", "shard"),
        (meta("global", 12, OLDER), "shard", "shard"),  # which is refused with the field
    ],
)
def test_a_resumed_run_keeps_its_negatives(checkpoint: dict[str, Any] | None, given: str, expected: str) -> None:
    config = apply(Config(), {"loss.negatives": given, "train.batch_size": 48})
    settle_negatives(config, checkpoint)
    assert config.loss.negatives == expected


def test_a_checkpoint_without_the_field_is_an_older_one() -> None:
    older = meta("global", 12, OLDER)
    del older["config"]["loss"]["negatives"]
    assert negatives_of(older) == "micro_batch"


@pytest.mark.parametrize(("of_clip", "expected"), [(False, 1 + 15 * 4), (True, 64)])
def test_all_pairs_of_other_clips_are_compared_and_by_option_those_of_the_same(of_clip: bool, expected: int) -> None:
    config = apply(Config(), {"model.kind": "sync", "data.pairs_per_clip": 4, "loss.clip_negatives": of_clip})
    assert choices(16, config) == expected
    assert choices(1, config) == (4 if of_clip else 1)
    assert choices(16, apply(config, {"model.kind": "cavmae"})) == 16


@pytest.mark.parametrize(("negatives", "pairs"), [("global", "64"), ("micro_batch", "16"), ("shard", "8")])
def test_the_log_counts_what_is_compared(negatives: str, pairs: str) -> None:
    config = apply(Config(), TINY | {"loss.negatives": negatives, "train.batch_size": 64})
    line = describe_negatives(PretrainingTask(config, None, Path("unused")), 16, 2)
    assert pairs in line.split()
    assert ("two passes" in line) == (negatives == "global")
