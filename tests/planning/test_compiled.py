"""Tests the step of a small model that is compiled for GPUs without one; run with `pytest -m cuda_wheels`."""

import importlib.util
import math

import jax
import pytest

from avmae_jax.config import Config
from avmae_jax.config_files import shipped
from avmae_jax.models.registry import kind_of
from avmae_jax.planning.compiled import Compiled, compile_step, devices_of
from avmae_jax.planning.cost import Cost, cost_of
from avmae_jax.planning.gpus import GPUS, find_gpu
from avmae_jax.train import program, sharding
from avmae_jax.train.precision import settle_precision
from avmae_jax.train.program import Step
from tests.support import TINY, apply

pytestmark = [
    pytest.mark.cuda_wheels,
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))), reason="no CUDA wheels"),
]
BATCH = 32
SIZES = {"model.decoder_width": 32, "train.batch_size": BATCH, "data.builtin_train": 64}


def compile_for(count: int) -> tuple[Config, Step, Compiled, Cost]:
    config = apply(shipped("tiny"), {**TINY, **SIZES})
    devices = devices_of(find_gpu("h100"), count, 1, 0.75)
    settle_precision(config, None, devices)
    mesh = sharding.make_mesh(config.mesh, devices)
    with jax.numpy_dtype_promotion("standard"):
        step = program.trace_step(config, program.task_of(config, []), mesh, BATCH, clips=64)
        compiled = compile_step(step)
    return config, step, compiled, cost_of(compiled.program, count)


@pytest.fixture(scope="module", params=[1, 8])
def step(request: pytest.FixtureRequest) -> tuple[int, Config, Step, Compiled, Cost]:
    return request.param, *compile_for(request.param)


Found = tuple[int, Config, Step, Compiled, Cost]


@pytest.mark.parametrize("name", GPUS)
def test_xla_takes_the_description_of_every_gpu(name: str) -> None:
    gpu = find_gpu(name)
    devices = devices_of(gpu, 4, 2, 0.75)
    assert [device.process_index for device in devices] == [0, 0, 1, 1]
    assert {device.device_kind for device in devices} == {gpu.title}
    assert {device.compute_capability for device in devices} == {"{}.{}".format(*gpu.chip.capability)}


def test_bfloat16_is_chosen_and_every_stream_s_attention_is_cudnn_s(step: Found) -> None:
    devices, config, _, _, cost = step
    assert config.model.compute_dtype == "bfloat16"
    stages = kind_of(config.model).stages(config, None)
    calls = cost.cudnn_calls()
    assert sum(calls.values()) == 2 * sum(stage.blocks for stage in stages)
    assert {int(queries.split(" x ")[0]) for queries in calls} == {BATCH // devices}  # each device's own pairs
    padded = {stage.tokens + stage.tokens % 2 for stage in stages}  # an odd length is padded
    assert {int(queries.split(" x ")[1]) for queries in calls} == padded


def test_float32_products_are_exact_and_few(step: Found) -> None:
    *_, cost = step
    products = [kernel for kernel in cost.kernels if kernel.kind == "product"]
    assert {kernel.precision for kernel in products} == {"bf16", "f32 highest"}
    assert sum(kernel.count for kernel in products if kernel.precision != "bf16") == 4  # mel, logits and their gradients


def test_every_tensor_of_the_state_is_aliased_and_memory_adds_up(step: Found) -> None:
    _, _, traced, compiled, _ = step
    assert compiled.program.aliased >= len(jax.tree.leaves(traced.state))
    memory = compiled.memory
    parts = memory.weights + memory.moments + memory.extra + memory.batch + memory.temporaries
    assert parts <= memory.peak < parts + 2**20  # beside it: the key, the step's number, the metrics


def test_several_devices_exchange_gradients_and_vectors_alone(step: Found) -> None:
    devices, config, traced, _, cost = step
    if devices == 1:
        assert not cost.collectives
        return
    assert {each.devices for each in cost.collectives} == {devices}
    vectors = BATCH * config.model.shape.width * 4
    others = [each for each in cost.collectives if each.kind != "all-reduce"]
    assert all(shape.bytes <= vectors for each in others for shape in each.shapes)  # no waveform, frame or image
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(traced.state.params))
    reduced = sum(math.prod(shape.sizes) for each in cost.collectives if each.kind == "all-reduce" for shape in each.shapes)
    assert weights <= reduced < 1.2 * weights
    # Those of all blocks are merged, which XLA can't do where one block's backward pass waits for another's exchange.
    assert sum(each.count for each in cost.collectives if each.kind == "all-reduce") < 8
