"""The recorded values of the original in parity/golden, and in the folder $AVMAE_GOLDEN if set, against the JAX model."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax.data import fbank
from parity.golden import Golden, GoldenError, load
from parity.rows import Row, compare, failures

FOLDERS = [Path(__file__).parent / "golden", *map(Path, filter(None, [os.environ.get("AVMAE_GOLDEN")]))]
FILES = sorted({path.name: path for folder in FOLDERS for path in folder.glob("pretrain*.npz")}.values())


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def assert_all(rows: list[Row], at_least: int) -> None:
    assert not (failed := failures(rows)), failed
    assert len(rows) >= at_least


def test_every_intermediate_and_loss_is_the_originals(golden: Golden) -> None:
    assert_all(list(golden.output_rows()), at_least=17)


def test_gradients_and_weights_after_adam_steps_are_the_originals(golden: Golden) -> None:
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes Python floats and int32
        rows = list(golden.training_rows())
    assert_all(rows, at_least=600)
    assert {row.name.split(".")[0] for row in rows} >= {"grad", "after1"}


def test_a_wrong_weight_is_noticed(golden: Golden) -> None:
    changed = copy.copy(golden)
    changed.params = {**golden.params, "decoder_pred_a.bias": golden.params["decoder_pred_a.bias"] + np.float32(1e-3)}
    changed.model = changed.build(golden.config)
    failed = {row.name for row in changed.output_rows() if not row.ok}
    assert "out.pred_audio" in failed
    assert "out.pred_image" not in failed


def test_compare_takes_nan_for_wrong_and_zero_for_exact() -> None:
    assert not compare("x", np.array([np.nan]), np.array([1.0]), 1.0).ok
    assert compare("x", np.zeros(3), np.zeros(3), 1e-5).ok
    assert not compare("x", np.full(3, 1e-9), np.zeros(3), 1e-5).ok


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "other"])
def test_the_command_names_what_is_wrong_with_a_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    if kind == "other":
        np.savez(path, waveform=np.zeros(3))
    elif kind != "missing":
        path.write_text("not arrays" if kind == "text" else "")
    with pytest.raises(GoldenError, match=r"no such file|not an \.npz file of plain arrays|not a file of pretraining values"):
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
        whole = jax.jit(fbank.normalised_fbank, static_argnums=2)(padded, jnp.array([len(samples)]), 1024)
        np.testing.assert_allclose(whole[0, 998:], 5.081 / 4.4849, rtol=1e-6)  # padding comes before normalisation
        ours = whole[0, :998] * 4.4849 - 5.081
    error = np.abs(np.asarray(ours) - reference)
    assert error.max() <= 1e-3
    assert error.mean() <= 1e-5
