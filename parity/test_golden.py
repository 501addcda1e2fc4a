"""Compares the recorded values of the original in parity/golden, and in the folder $AVMAE_GOLDEN if set, with those of the JAX model."""

import copy
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avmae_jax.data import fbank
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.encoder import Encoder
from avmae_jax.models.modes import MODES, Mode
from avmae_jax.models.tokens import join
from avmae_jax.trees import flatten
from avmae_jax.weights import build, official, official_sizes
from parity.golden import Golden, GoldenError, load
from parity.rows import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, assert_all, compare

FOLDERS = [Path(__file__).parent / "golden", *map(Path, filter(None, [os.environ.get("AVMAE_GOLDEN")]))]
FILES = sorted({path.name: path for folder in FOLDERS for path in folder.glob("pretrain*.npz")}.values())


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


@pytest.mark.slow
def test_every_intermediate_and_loss_is_the_originals(golden: Golden) -> None:
    assert_all(golden.output_rows(), at_least=17)


@pytest.mark.slow
def test_gradients_and_weights_after_adam_steps_are_the_originals(golden: Golden) -> None:
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes Python floats and int32
        rows = list(golden.training_rows())
    assert_all(rows, at_least=600)
    assert {row.name.split(".")[0] for row in rows} >= {"grad", "after1"}


@pytest.mark.slow
def test_a_wrong_weight_is_noticed(golden: Golden) -> None:
    changed = copy.copy(golden)
    changed.params = {**golden.params, "decoder_pred_a.bias": golden.params["decoder_pred_a.bias"] + np.float32(1e-3)}
    changed.model = changed.build(golden.config)
    failed = {row.name for row in changed.output_rows() if not row.ok}
    assert "out.pred_audio" in failed
    assert "out.pred_image" not in failed


@pytest.mark.parametrize("path", [path for folder in FOLDERS for path in folder.glob("finetune*.npz")], ids=lambda path: path.stem)
def test_logits_losses_and_gradients_of_every_mode_are_the_originals(path: Path) -> None:
    """The file has the heads of the other small ones; that they are right shows in the logits."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    tensors = {name.removeprefix("param."): value for name, value in arrays.items() if name.startswith("param.")}
    config, classes = official_sizes.infer_sizes(tensors, heads=4), len(tensors["mlp_head.1.bias"])
    model = build.build_official(lambda: CAVMAEClassifier(config, classes, rngs=nnx.Rngs(0)), tensors)
    inputs = {"audio": jnp.asarray(arrays["in.audio"]), "image": jnp.asarray(arrays["in.image"].transpose(0, 2, 3, 1))}
    rows = [
        compare(f"feat_{name}", _features(model.encoder, name, inputs[name]), arrays[f"out.feat_{name}"], OUTPUT_TOLERANCE)
        for name in inputs
    ]

    def losses(model: CAVMAEClassifier, mode: Mode) -> tuple[jax.Array, Any]:
        logits, labels = model(inputs, mode), jnp.asarray(arrays["in.labels"])
        bce = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
        return bce, {"logits": logits, "bce": bce, "ce": optax.softmax_cross_entropy(logits, labels).mean()}

    for mode in MODES:
        recorded = {name.removeprefix(f"grad.{mode}."): value for name, value in arrays.items() if name.startswith(f"grad.{mode}.")}
        if recorded:  # the file has the gradients of two modes, and there of the parameters that the mode uses
            gradients, parts = nnx.jit(nnx.grad(losses, has_aux=True), static_argnums=1)(model, mode)
            ours = {str(official.name_of(where)): gradient for where, gradient in flatten(gradients).items()}
            rows += [
                compare(f"grad.{mode}.{name}", ours[name], official.convert_tensor(value, ours[name].shape), GRADIENT_TOLERANCE)
                for name, value in recorded.items()
            ]
        else:
            _, parts = nnx.jit(losses, static_argnums=1)(model, mode)
        rows += [compare(f"{name}.{mode}", value, arrays[f"out.{name}.{mode}"], OUTPUT_TOLERANCE) for name, value in parts.items()]
    assert_all(rows, at_least=2 + 3 * 5 + 400)


@partial(nnx.jit, static_argnums=1)
def _features(encoder: Encoder, modality: str, inputs: jax.Array) -> jax.Array:
    return join(encoder.joint(encoder.separate({modality: inputs}), modality))


def test_compare_takes_nan_for_wrong_and_zero_for_exact() -> None:
    assert not compare("x", np.array([np.nan]), np.array([1.0]), 1.0).ok
    assert compare("x", np.zeros(3), np.zeros(3), 1e-5).ok
    assert not compare("x", np.full(3, 1e-9), np.zeros(3), 1e-5).ok


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "other"])
@pytest.mark.process
def test_the_command_names_what_is_wrong_with_a_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    if kind == "other":
        np.savez(path, waveform=np.zeros(3))
    elif kind != "missing":
        path.write_text("not arrays" if kind == "text" else "")
    with pytest.raises(GoldenError):
        load(path)
    if kind == "other":
        run = subprocess.run([sys.executable, "-m", "parity.golden", str(path)], capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout) == (2, "")
        assert "in.audio" in run.stderr


@pytest.mark.parametrize("kind", ["numpy", "jax", "jitted frontend"])
def test_log_mel_is_kaldis(kind: str) -> None:
    with np.load(Path(__file__).parent / "golden/fbank_s1.npz") as file:
        samples, reference = file["waveform"], file["fbank"]
    waveform = samples.astype(np.float32) / 32_768
    waveform -= waveform.mean()
    if kind == "numpy":
        ours = fbank.log_mel(waveform)
    elif kind == "jax":
        ours = fbank.log_mel(jnp.asarray(waveform))
    else:
        padded = np.pad(samples, (0, fbank.num_samples(1024) - len(samples)))[None]
        whole = jax.jit(fbank.padded_fbank, static_argnums=2)(padded, jnp.array([len(samples)]), 1024)
        assert not whole[0, 998:].any()  # padding comes before normalisation
        ours = whole[0, :998]
    error = np.abs(np.asarray(ours) - reference)
    assert error.max() <= 1e-3
    assert error.mean() <= 1e-5
