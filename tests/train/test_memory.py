"""Compares what a step costs, computed before it is run, with the compiled program."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import psutil
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.config import SIZES, Config, ModelConfig
from avmae_jax.data.fbank import num_samples
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.train import memory, optim
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.step import State, make_step

PARAMS = {"w": jax.ShapeDtypeStruct((1000, 250), jnp.float32)}  # 1 MB
STATE = 5_000_000  # ... and with gradients and moments


def test_the_base_model_costs_what_was_published() -> None:
    assert memory.step_flops(ModelConfig()) == pytest.approx(234e9, rel=0.03)
    assert memory.step_flops(ModelConfig(remat=True)) == memory.step_flops(ModelConfig())  # useful work only
    tuned = ModelConfig(kind="cavmae_classifier")
    assert memory.step_flops(tuned) == pytest.approx(397e9, rel=0.03)
    assert memory.step_flops(tuned, frozen=True) == pytest.approx(132e9, rel=0.03)


def test_a_larger_model_or_input_costs_more() -> None:
    sizes = [memory.step_flops(ModelConfig(size=size)) for size in SIZES]
    assert sizes == sorted(sizes)
    assert memory.step_flops(ModelConfig(audio_mask_ratio=0.5)) > memory.step_flops(ModelConfig())
    assert memory.step_flops(ModelConfig(audio_frames=2048)) > 1.5 * memory.step_flops(ModelConfig())


def compiled_step(config: ModelConfig, batch_size: int) -> Any:
    """The training step, compiled for abstract arguments."""
    model = nnx.eval_shape(lambda: CAVMAE(config, rngs=nnx.Rngs(0)))
    graph, params, frozen = nnx.split(model, optim.trainable(config), ...)
    schedule = optim.learning_rate(Config().optim, 100)
    optimizer = optim.adam(Config().optim, schedule)
    state = State(params, frozen, jax.eval_shape(optimizer.init, params), {})
    batch = {
        "waveform": jax.ShapeDtypeStruct((batch_size, num_samples(config.audio_frames)), jnp.int16),
        "samples": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "image": jax.ShapeDtypeStruct((batch_size, config.image_size, config.image_size, 3), jnp.uint8),
    }
    task = PretrainingTask(Config(model=config), None, Path("unused"))
    step = make_step(graph, task, optimizer, schedule, micro_batches=1, groups=1)
    key, index = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    return jax.jit(step, donate_argnums=0).lower(state, batch, key, index).compile()


@pytest.mark.usefixtures("optax_promotion", "unpolished")
@pytest.mark.slow
def test_estimates_are_near_the_compiled_program() -> None:
    config = ModelConfig(
        width=256, heads=8, depth=2, decoder_width=256, decoder_heads=8, decoder_depth=2, audio_frames=256, image_size=96
    )  # wide enough for the blocks to outweigh pixels
    compiled, batch_size = compiled_step(config, 8), 8
    params = nnx.eval_shape(lambda: nnx.state(CAVMAE(config, rngs=nnx.Rngs(0)), nnx.Param))
    gradients = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    measured = compiled.memory_analysis().temp_size_in_bytes
    estimate = gradients + batch_size * memory.activation_bytes(config)
    assert 0.75 < estimate / measured < 1.5, (estimate, measured)


def test_half_precision_halves_the_activations() -> None:
    assert memory.activation_bytes(ModelConfig(compute_dtype="bfloat16")) == memory.activation_bytes(ModelConfig()) / 2


def test_remat_saves_memory_where_the_compiler_honours_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, remat = ModelConfig(), ModelConfig(remat=True)
    assert memory.activation_bytes(remat) == memory.activation_bytes(plain)  # XLA's CPU compiler merges the second pass with the first
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert memory.activation_bytes(remat) < memory.activation_bytes(plain) / 4


@settings(deadline=None, max_examples=25)
@given(groups=st.integers(1, 8), shares=st.integers(1, 60), pairs=st.integers(1, 500))
def test_the_micro_batch_is_the_largest_that_fits(groups: int, shares: int, pairs: int) -> None:
    config, batch = ModelConfig(), groups * shares
    available = STATE + (pairs + 0.5) * memory.activation_bytes(config)  # of one device: `pairs` pairs fit
    chosen = memory.choose_micro_batch(config, PARAMS, batch, groups, available)
    assert batch % chosen == 0
    assert chosen % groups == 0
    fitting = [share for share in range(1, shares + 1) if shares % share == 0 and share <= pairs]
    assert chosen == groups * max(fitting)


def test_what_cannot_fit_is_refused_with_the_fields_to_change() -> None:
    with pytest.raises(ValueError, match=r"(?s)GiB.*0\.0 GiB.*model\.size") as error:
        memory.choose_micro_batch(ModelConfig(), PARAMS, 48, 1, 1e6)
    assert "mesh.fsdp" in str(error.value)


def test_remat_is_advised_only_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, remat, advised in (("cpu", False, False), ("gpu", False, True), ("gpu", True, False)):
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        with pytest.raises(ValueError, match=r"model\.size") as error:
            memory.choose_micro_batch(ModelConfig(remat=remat), PARAMS, 48, 1, 1e6)
        assert ("model.remat" in str(error.value)) == advised


@pytest.mark.parametrize(("batch_size", "groups"), [(10, 4), (3, 2), (0, 1), (-4, 2)])
def test_a_batch_that_the_devices_cannot_share_is_refused(batch_size: int, groups: int) -> None:
    with pytest.raises(ValueError, match=rf"train\.batch_size.* {batch_size}\b.* {groups}\b"):
        memory.choose_micro_batch(ModelConfig(), PARAMS, batch_size, groups, 1e12)


def test_usable_memory_and_speed_are_those_of_a_machine() -> None:
    assert 0 < memory.usable_memory() < psutil.virtual_memory().total
    assert memory.matmul_speed(size=256) > 0


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path if re.fullmatch("/sys/fs/cgroup", path) else Path(path))
    assert memory.usable_memory() == pytest.approx(0.7 * 2_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.usable_memory() > 2_000_000
