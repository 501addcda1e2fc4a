"""Tests that programs in ONNX compute what the model computes, from int16 and uint8 on."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from avmae_jax.errors import ExportError  # noqa: E402
from avmae_jax.export import folder, layers  # noqa: E402
from avmae_jax.export.converter import Converter  # noqa: E402
from avmae_jax.export.graph import Graph  # noqa: E402
from avmae_jax.export.store import Store  # noqa: E402
from avmae_jax.export.values import tensor  # noqa: E402
from tests.export.conftest import KINDS_OF_MODELS, expected, model, windows  # noqa: E402

pytestmark = pytest.mark.slow  # each compiles a model


@pytest.mark.parametrize("name", KINDS_OF_MODELS)
def test_every_kind_computes_what_the_model_computes(tmp_path: Path, name: str) -> None:
    make, what, entries = KINDS_OF_MODELS[name]
    trained = make()
    found = folder.export(trained, tmp_path / "out", what)
    assert tuple(found) == entries
    for given in found:
        session = ort.InferenceSession(tmp_path / "out" / f"{given}.onnx")
        arrays = {each.name: windows(trained, 3)[each.name] for each in session.get_inputs()}
        ours = expected(trained, what, given, arrays)
        theirs = session.run(list(ours), arrays)
        for values, others in zip(ours.values(), theirs, strict=True):
            assert np.abs(values - others).max() <= 1e-5 * max(1, np.abs(values).max())
        alone = session.run(list(ours), {each: values[1:2] for each, values in arrays.items()})
        for values, others in zip(alone, theirs, strict=True):
            np.testing.assert_allclose(values[0], others[1], atol=1e-5)


@pytest.mark.parametrize(("quantize", "share", "apart"), [("int8", 0.5, 0.05), ("float16", 0.7, 0.003)])
def test_smaller_weights_compute_nearly_the_same(tmp_path: Path, quantize: folder.Quantize, share: float, apart: float) -> None:
    trained = model("cavmae_classifier", width=64, heads=4, loss="ce")
    arrays, sizes = windows(trained, 2), {}
    for name in ("none", quantize):
        folder.export(trained, tmp_path / name, "classify", quantize=None if name == "none" else quantize)
        sizes[name] = folder.sizes_of(tmp_path / name)["weights.bin"] - 2 * 512 * 257 * 8  # without the Fourier transform
    (found,) = ort.InferenceSession(tmp_path / quantize / "both.onnx").run(["probabilities"], arrays)
    assert np.abs(found - expected(trained, "classify", "both", arrays)["probabilities"]).max() < apart
    assert sizes[quantize] < share * sizes["none"]


def test_an_operation_without_a_counterpart_is_named(tmp_path: Path) -> None:
    closed = jax.make_jaxpr(jnp.sort)(jax.ShapeDtypeStruct((3,), np.float32))
    with Store(tmp_path / "weights.bin") as store:
        graph = Graph(store)
        given = [tensor(graph.input("x", np.float32, [3]), (3,), np.float32)]
        with pytest.raises(ExportError, match=r"sort.*stablehlo"):
            Converter(graph, layers.PRODUCTS[None])(closed, given)


def test_a_program_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        layers.PRODUCTS, None, lambda tensors, tokens, kernel: tensors.graph.one("MatMul", tokens, tensors.graph.constant(kernel * 2))
    )  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"both.*differs"):
        folder.export(model("cavmae_classifier"), tmp_path / "out", "classify")
    assert not [*tmp_path.iterdir()]
