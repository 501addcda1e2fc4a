"""Tests the choice of views by a program's options."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from absl import app, flags

import launch.evaluate
from avmae_jax.models.registry import KINDS
from launch.common.views import frames_of
from tests.support import called_here


def test_a_classifier_of_pairs_is_evaluated_on_all_frames() -> None:
    pairs, plain = (cast(Any, SimpleNamespace(spec=KINDS[kind])) for kind in ("sync_classifier", "cavmae_classifier"))
    with called_here(launch.evaluate):
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["evaluate", "run"])
        assert frames_of(pairs, ["middle"]) == ["all"]
        assert frames_of(plain, ["middle", "first"]) == ["middle", "first"]
        flags.FLAGS(["evaluate", "run", "--frames=first"])
        with pytest.raises(app.UsageError, match="--frames does nothing for a CAV-MAE Sync classifier"):
            frames_of(pairs, ["first"])
