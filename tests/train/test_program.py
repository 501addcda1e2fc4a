"""Tests the step that a plan compiles: it is the one that training runs, and what it is lowered to for CUDA."""

import re
import types
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.config_files import shipped
from avmae_jax.models import attention, registry
from avmae_jax.train import program, sharding
from avmae_jax.train.fitting import Fit
from avmae_jax.train.loop import Trainer
from avmae_jax.train.program import Step
from avmae_jax.train.run import make_task
from tests.support import TINY, Clips, apply

TUNED = {"model.kind": "cavmae_classifier", "augment.mixup": 0.5, "augment.noise": True, "train.ema": 0.9}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optax_promotion")]


class Labelled(Clips):
    """Holds clips of two classes."""

    label_names = ("a", "b")

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)._replace(labels=(index % 2,))


def tiny(changes: dict[str, object]) -> Config:
    return apply(shipped("tiny"), {**TINY, "train.epochs": 2.0, "train.steps": 0, "model.compute_dtype": "bfloat16", **changes})


def planned(config: Config, micro_batch: int, names: list[str] | None = None) -> Step:
    mesh = sharding.make_mesh(config.mesh)
    return program.trace_step(config, program.task_of(config, names or []), mesh, micro_batch, clips=16)


@pytest.mark.parametrize(("changes", "micro_batch"), [({}, 8), ({"model.remat": True, "train.micro_batch": 4}, 4), (TUNED, 8)])
def test_the_planned_step_is_the_one_that_training_runs(tmp_path: Path, changes: dict[str, object], micro_batch: int) -> None:
    config = tiny({**changes, "train.workdir": str(tmp_path)})
    source = Labelled(16) if "model.kind" in changes else Clips(16)
    task = make_task(config, source, None, tmp_path)
    model = registry.build(config.model, len(task.label_names), rngs=nnx.Rngs(0))
    trainer = Trainer(config, model, task, source, None, fit=Fit(micro_batch))
    try:
        batch = sharding.put_batch(next(trainer.batches), trainer.mesh)
    finally:
        trainer.batches.close()
    trained = trainer.jitted_step.lower(trainer.leaves, batch, trainer.key, np.int32(0))
    assert planned(config, micro_batch, list(task.label_names)).traced.lower().as_text() == trained.as_text()


def test_a_frozen_base_is_recomputed_in_micro_batches() -> None:
    changes = {"model.kind": "cavmae_classifier", "tune.freeze_base": True, "model.remat": True, "train.micro_batch": 4}
    assert planned(tiny(changes), 4, ["a", "b"]).traced.lower().as_text()


@pytest.fixture(scope="module")
def lowered() -> tuple[Config, Step, str]:
    """Lowers a step in bfloat16 for CUDA on a machine without the wheels, down to cuDNN's custom calls."""
    from jax._src.cudnn import fused_attention_stablehlo

    config = tiny({"model.depth": 3, "model.decoder_width": 32, "model.decoder_depth": 2})
    jax.clear_caches()  # of blocks that were traced without cuDNN
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(fused_attention_stablehlo, "cuda_versions", types.SimpleNamespace(cudnn_get_version=lambda: 91000))
        patch.setattr(attention, "_CUDNN_PLUGINS", ("jax",))
        step = planned(config, 8)
        text = step.traced.lower(lowering_platforms=("cuda",)).as_text()
    jax.clear_caches()  # of blocks that were traced with it
    return config, step, text


def times(text: str, pattern: str) -> int:
    """Counts how often a program in StableHLO runs what a pattern matches: a function as often as it is called."""
    bodies = dict(re.findall(r"func\.func \w+ @(\w+)\((.*?)\n  }", text, re.DOTALL))

    @cache
    def of(name: str) -> int:
        called = re.findall(r"(?<!custom_)call @(\w+)\(", bodies[name])
        return len(re.findall(pattern, bodies[name])) + sum(map(of, called))

    return of("main")


def test_every_attention_is_a_call_of_cudnn(lowered: tuple[Config, Step, str]) -> None:
    config, _, text = lowered
    attentions = sum(stage.blocks for stage in registry.kind_of(config.model).stages(config, None))
    assert attentions == 2 * 2 + 3 + 2  # two blocks of each tower, the joint one for both and each alone, two of the decoder
    for name in ("fmhaSoftmax", "fmhaSoftmaxBackward"):
        assert times(text, rf"custom_call @__cudnn\${name}\(") == attentions


def test_two_products_are_float32_and_both_say_so(lowered: tuple[Config, Step, str]) -> None:
    config, _, text = lowered
    exact = [line for line in text.splitlines() if "stablehlo.dot_general" in line and "xf32>" in line]
    assert times(text, r"stablehlo\.dot_general") > 50
    assert all("HIGHEST, HIGHEST" in line for line in exact)
    size = config.train.batch_size
    mel = [line for line in exact if f"tensor<257x{config.model.mel_bins}xf32>" in line]
    logits = [line for line in exact if f"tensor<1x{size}x{size}xf32>" in line]
    assert (len(mel), len(logits)) == (1, 3)  # the logits have two gradients
    assert len(exact) == 4


def test_every_tensor_of_the_state_is_given_to_the_next_one(lowered: tuple[Config, Step, str]) -> None:
    _, step, text = lowered
    arguments = next(line for line in text.splitlines() if "@main(" in line)
    assert arguments.count("tf.aliasing_output") == len(jax.tree.leaves(step.state))
