"""Compares recorded values of the originals, those in parity/golden and in the folders of $AVMAE_GOLDEN, with those of the JAX models."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmae_jax.data import fbank
from parity.golden import load, of
from parity.recorded.arrays import GoldenError, read
from parity.rows import assert_all, compare

FOLDERS = [Path(__file__).parent / "golden", *map(Path, filter(None, os.environ.get("AVMAE_GOLDEN", "").split(os.pathsep)))]


def files(pattern: str) -> list[Path]:
    """Lists the recorded files of a name; one of several of the same name is taken."""
    return sorted({path.name: path for folder in FOLDERS for path in folder.glob(pattern)}.values())


FILES, TUNED_FILES = files("pretrain*.npz"), files("finetune*.npz")
PAIR_FILES, TUNED_PAIR_FILES = [*files("sync_pretrain*.npz"), *files("tgdp*.npz")], files("sync_finetune*.npz")


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Any:
    return load(request.param)


def assert_everything(recorded: Any) -> set[str]:
    """Asserts that all outputs, gradients and later weights of a file, of any size, are the recorded ones; returns what was compared."""
    rows = recorded.rows()
    wanted = {name for name in recorded.arrays if name.startswith(("out.", "grad.", "after"))}
    wanted -= {name for name in wanted if name.endswith(".register_tokens")}  # ours are those of each modality
    assert_all(rows, at_least=max(1, len(wanted)))
    lacking = wanted - {re.sub(r"(\[.*\]| \(none\))$", "", row.name) for row in rows}
    assert not lacking, sorted(lacking)
    return {row.name for row in rows}


@pytest.mark.slow
@pytest.mark.usefixtures("promoting")
def test_everything_recorded_of_pretraining_is_the_originals(golden: Any) -> None:
    assert_everything(golden)


@pytest.mark.slow
def test_a_wrong_weight_is_noticed(golden: Any) -> None:
    changed = copy.copy(golden)
    changed.params = {**golden.params, "decoder_pred_a.bias": golden.params["decoder_pred_a.bias"] + np.float32(1e-3)}
    changed.model = changed.build(golden.config)
    failed = {row.name for row in changed.output_rows() if not row.ok}
    assert "out.pred_audio" in failed
    assert "out.pred_image" not in failed


@pytest.mark.slow
@pytest.mark.parametrize("path", TUNED_FILES, ids=lambda path: path.stem)
def test_everything_recorded_of_classifiers_is_the_originals(path: Path) -> None:
    assert_everything(load(path))


@pytest.mark.slow
@pytest.mark.usefixtures("promoting", "unpolished")
@pytest.mark.parametrize("path", [*PAIR_FILES, *TUNED_PAIR_FILES], ids=lambda path: path.stem)
def test_everything_recorded_of_models_of_pairs_is_the_originals(path: Path) -> None:
    recorded = load(path)
    names = assert_everything(recorded)
    if any(name.startswith("grad.multimodal.") for name in recorded.arrays):
        assert "grad.multimodal.blocks_u.0.attn.qkv.weight (none)" in names  # thrown away by the original


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
        assert "in.noise_audio" in run.stderr
        assert "waveform" in run.stderr


@pytest.mark.parametrize("lacking", ["in.image", "out.mask_audio", "out.loss_mae"])
def test_a_missing_array_is_named(lacking: str) -> None:
    arrays = read(FOLDERS[0] / "pretrain_small.npz")
    with pytest.raises(GoldenError, match=rf"{lacking} is missing"):
        of({name: value for name, value in arrays.items() if name != lacking})


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
