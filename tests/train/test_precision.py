"""Tests what a run computes in: by the config, by its devices, and by the run that is resumed."""

import dataclasses
import logging
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from avmae_jax.config import Config
from avmae_jax.errors import ConfigError
from avmae_jax.models.precision import fast_dtype
from avmae_jax.train import precision
from avmae_jax.train.losses import contrastive_loss
from avmae_jax.train.precision import matmul_precision, settle_precision
from tests.support import TINY, apply


def device(platform: str, capability: str | None = None) -> Any:
    found = SimpleNamespace(platform=platform, device_kind=f"{platform} {capability}")
    return found if capability is None else SimpleNamespace(**vars(found), compute_capability=capability)


H100, T4, CPU, TPU = device("gpu", "9.0"), device("gpu", "7.5"), device("cpu"), device("tpu")


@pytest.mark.parametrize(
    ("devices", "dtype"),
    [
        ([H100], "bfloat16"),
        ([device("gpu", "8.0")], "bfloat16"),
        ([device("gpu", "12.0")], "bfloat16"),
        ([TPU, TPU], "bfloat16"),
        ([T4], "float32"),
        ([H100, T4], "float32"),  # of two hosts: all must compute alike
        ([CPU], "float32"),
        ([device("gpu", "gfx90a")], "float32"),
        ([device("gpu")], "float32"),
    ],
)
def test_auto_is_bfloat16_where_all_devices_have_it(monkeypatch: pytest.MonkeyPatch, devices: list[Any], dtype: str) -> None:
    assert fast_dtype(devices)[0] == dtype
    monkeypatch.setattr(jax, "devices", lambda: devices)
    config = Config()
    assert config.model.compute_dtype == "auto"
    settle_precision(config, None)
    assert config.model.compute_dtype == dtype


def test_the_log_says_which_and_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="absl"):
        settle_precision(Config(), None)
        monkeypatch.setattr(jax, "devices", lambda: [T4])
        settle_precision(apply(Config(), {"model.compute_dtype": "bfloat16"}), None)
    first, second = (record.getMessage() for record in caplog.records)
    assert "float32" in first.partition(";")[0]
    assert "CPU" in first
    assert "bfloat16" in second.partition(";")[0]
    assert "gpu 7.5" in second


@pytest.mark.parametrize(("saved", "dtype"), [({"compute_dtype": "bfloat16"}, "bfloat16"), ({}, "float32")])
def test_a_run_that_is_resumed_keeps_its_dtype_on_other_devices(monkeypatch: pytest.MonkeyPatch, saved: dict[str, str], dtype: str) -> None:
    config = Config()
    monkeypatch.setattr(jax, "devices", lambda: [H100 if dtype == "float32" else CPU])
    settle_precision(config, {"config": {"model": saved}})
    assert config.model.compute_dtype == dtype


@pytest.mark.parametrize(
    ("devices", "dtype", "refused"),
    [([H100], "float32", False), ([TPU], "float32", False), ([H100], "auto", True), ([T4], "auto", True), ([CPU], "float32", True)],
)
def test_a_precision_that_would_do_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, devices: list[Any], dtype: str, refused: bool
) -> None:
    monkeypatch.setattr(precision.jax, "devices", lambda: devices)
    config = apply(Config(), {"model.compute_dtype": dtype, "train.matmul_precision": "high"})
    if refused:
        with pytest.raises(ConfigError, match=r"train\.matmul_precision.*high"):
            settle_precision(config, None)
    else:
        settle_precision(config, None)


@pytest.mark.parametrize("name", [None, "high", "highest", "tensorfloat32"])
def test_the_precision_is_that_of_products_but_not_of_contrastive_logits(name: str | None) -> None:
    config = apply(Config(), {"train.matmul_precision": name})
    config.validate()
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)

    def lowered(function: Any, *arrays: Any) -> str:
        return jax.jit(function).lower(*arrays).as_text()

    with matmul_precision(config):
        product = lowered(jnp.matmul, x, jax.ShapeDtypeStruct((8, 4), jnp.float32))
        logits = lowered(jax.grad(lambda *rows: contrastive_loss(*rows)[0], (0, 1)), x, x)
    expected = {None: "DEFAULT", "high": "HIGH", "tensorfloat32": "HIGH"}.get(name, "HIGHEST")
    assert f"precision = [{expected}, {expected}]" in product
    products = [line for line in logits.splitlines() if "dot_general" in line]
    assert len(products) == 3  # the logits, and the gradients of both sides
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_the_mel_product_is_one_of_float32_in_a_model_of_bfloat16() -> None:
    from avmae_jax.data.fbank import log_mel

    text = jax.jit(log_mel).lower(jax.ShapeDtypeStruct((2, 4000), jnp.float32)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 1
    assert "precision = [HIGHEST, HIGHEST]" in products[0]


def test_a_model_of_no_run_computes_in_float32() -> None:
    model = apply(Config(), TINY).model
    assert (model.compute_dtype, model.product_dtype) == ("auto", "float32")
    assert dataclasses.replace(model, compute_dtype="bfloat16").product_dtype == "bfloat16"
