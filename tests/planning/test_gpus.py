"""Tests the descriptions of GPUs."""

import re

import pytest

from avmae_jax.errors import ConfigError
from avmae_jax.planning.gpus import GPUS, UNPUBLISHED, find_gpu


@pytest.mark.parametrize("name", ["h900", "H100", "", *UNPUBLISHED])
def test_an_unknown_gpu_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(name))) as error:
        find_gpu(name)
    assert all(known in str(error.value) for known in GPUS)
    assert "\n" not in str(error.value)


def test_float32_outside_the_tensor_cores_is_that_of_the_data_sheets() -> None:
    assert find_gpu("h100").float32 == pytest.approx(67e12, rel=0.01)
    assert find_gpu("a100-40").float32 == pytest.approx(19.5e12, rel=0.01)


def test_a_description_has_the_memory_that_jax_leaves_to_a_program() -> None:
    text = find_gpu("h100").description(0.75)
    described = re.search(r"device_memory_size: (\d+)", text)
    assert described
    assert int(described[1]) * 0.8 == pytest.approx(0.75 * 84_942_979_072)
    assert text.count("{") == text.count("}")
