"""Models for sounds of another length: what becomes of positions, and that all else stays."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from avmae_jax.config import ModelConfig
from avmae_jax.errors import WeightsError
from avmae_jax.models.ast import AST
from avmae_jax.models.cavmae import CAVMAE
from avmae_jax.models.classifier import CAVMAEClassifier
from avmae_jax.models.mae import MAE
from avmae_jax.models.patches import find_rows, interpolate_columns, sincos_positions
from avmae_jax.weights.init_from import initialise_from
from avmae_jax.weights.io import Weights, load_pretrained, read, save_torch, with_audio_frames, write
from avmae_jax.weights.official import to_official
from tests.support import made
from tests.weights.files import params_of

CONFIG = ModelConfig(
    depth=2, width=16, heads=2, decoder_depth=1, decoder_width=8, decoder_heads=2, mel_bins=32, image_size=32, audio_frames=1024
)
LENGTHS = [96, 400, 1024, 3008]  # 1, 4, 10 and 30 s
SIZES = {"heads": 2, "decoder_heads": 2, "mel_bins": 32}
TABLES = ["decoder.ends.audio.positions", "encoder.audio.positions"]
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 70))


def config(**changes: Any) -> ModelConfig:
    return dataclasses.replace(CONFIG, **changes)


def expected(positions: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """By np.interp, one row and channel after the other; a column is at its centre, in shares of the whole."""
    table = positions.reshape(rows, -1, positions.shape[1])
    old, new = ((np.arange(count) + 0.5) / count for count in (table.shape[1], columns))
    lines = [[np.interp(new, old, table[row, :, channel]) for channel in range(table.shape[2])] for row in range(rows)]
    return np.array(lines).transpose(0, 2, 1).reshape(rows * columns, -1)


def assert_lengthened(got: dict[str, np.ndarray], before: dict[str, np.ndarray], columns: int, rows: int = 2) -> None:
    """Positions of sound are interpolated, all else is the same to the last bit."""
    for path, value in got.items():
        if path in TABLES:
            np.testing.assert_allclose(value, expected(before[path], rows, columns), rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(value, before[path], strict=True)


# --- the table --------------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(grid=GRIDS, columns=st.integers(1, 200), seed=st.integers(0, 99))
def test_interpolation_is_that_of_numpy_between_the_centres_of_columns(grid: tuple[int, int], columns: int, seed: int) -> None:
    positions = np.random.default_rng(seed).standard_normal((grid[0] * grid[1], 4)).astype(np.float32)
    got = interpolate_columns(positions, grid, columns)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected(positions, grid[0], columns), rtol=0, atol=1e-6)


@given(grid=GRIDS, seed=st.integers(0, 99))
def test_the_same_number_of_columns_is_the_same_table(grid: tuple[int, int], seed: int) -> None:
    positions = np.random.default_rng(seed).standard_normal((grid[0] * grid[1], 4)).astype(np.float32)
    assert interpolate_columns(positions, grid, grid[1]) is positions


@given(grid=GRIDS, columns=st.integers(1, 200), value=st.floats(-9, 9, width=32))
def test_constants_stay_and_rows_do_not_mix(grid: tuple[int, int], columns: int, value: float) -> None:
    positions = np.repeat(np.float32(value) + np.arange(grid[0], dtype=np.float32), grid[1])[:, None]
    got = interpolate_columns(positions, grid, columns)
    np.testing.assert_array_equal(got[:, 0], np.repeat(positions[:: grid[1], 0], columns), strict=True)


@given(before=st.integers(1, 70), columns=st.integers(1, 200), slope=st.floats(-3, 3))
def test_ramps_stay_ramps_between_the_outer_centres_and_are_flat_outside(before: int, columns: int, slope: float) -> None:
    ramp = (slope * np.arange(before)).astype(np.float32)[:, None]
    got = interpolate_columns(ramp, (1, before), columns)[:, 0]
    places = (np.arange(columns) + 0.5) * before / columns - 0.5
    np.testing.assert_allclose(got, slope * np.clip(places, 0, before - 1), rtol=0, atol=1e-4)


def test_half_pixel_centres_by_hand() -> None:
    table = np.array([[0.0], [8.0]], np.float32)
    assert interpolate_columns(table, (1, 2), 4)[:, 0].tolist() == [0, 2, 6, 8]
    assert interpolate_columns(table, (1, 2), 1)[:, 0].tolist() == [4]
    assert interpolate_columns(np.arange(4, dtype=np.float32)[:, None], (1, 4), 2)[:, 0].tolist() == [0.5, 2.5]


def test_a_table_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        interpolate_columns(np.zeros((6, 4), np.float32), (4, 2), 3)


@pytest.mark.parametrize("grid", [(8, 64), (4, 6), (1, 7), (7, 1), (1, 1)])
def test_rows_are_found_in_fixed_trained_and_interpolated_positions(grid: tuple[int, int]) -> None:
    fixed = sincos_positions(grid, 16)
    moved = fixed + np.random.default_rng(0).normal(0, 0.03, fixed.shape).astype(np.float32)
    for positions in (fixed, moved, interpolate_columns(fixed, grid, 9), interpolate_columns(moved, grid, 188)):
        assert find_rows(positions) == grid[0]


@pytest.mark.parametrize("positions", [np.random.default_rng(0).standard_normal((24, 16)), np.zeros((24, 16)), np.zeros((24, 6))])
def test_positions_of_another_origin_tell_no_rows(positions: np.ndarray) -> None:
    assert find_rows(positions.astype(np.float32)) == 0


# --- a model ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model in each format, its positions sin-cos; w notes no config, as others write it. Not to be changed."""
    folder = tmp_path_factory.mktemp("source")
    weights = Weights(CONFIG, 0, params_of(CAVMAE(CONFIG, rngs=nnx.Rngs(1))))
    write(weights, folder / "run")
    write(weights, folder / "noted.safetensors")
    save_file(to_official(weights.params), folder / "w.safetensors")
    return folder


@pytest.mark.parametrize("audio_frames", LENGTHS)
@pytest.mark.slow
def test_a_model_of_10_s_hears_sounds_of_other_lengths(audio_frames: int, source: Path, logged: pytest.LogCaptureFixture) -> None:
    model = load_pretrained(source / "w.safetensors", audio_frames, **SIZES)
    assert isinstance(model, CAVMAE)
    columns = audio_frames // 16
    assert_lengthened(params_of(model), read(source / "run").params, columns)
    said = re.search(rf" 64 to {columns} .*1024 to {audio_frames} .*encoder\.audio\.positions", logged.text)
    assert bool(said) == (audio_frames != 1024)
    sound = np.random.default_rng(0).standard_normal((2, audio_frames, 32)).astype(np.float32)
    tokens = model.separate({"audio": jnp.asarray(sound)})
    assert tokens["audio.patches"].shape == (2, 2 * columns, 16)
    assert np.isfinite(tokens["audio.patches"]).all()
    with pytest.raises(ValueError, match=rf"\(32, {audio_frames}, 1\)"):
        model.separate({"audio": jnp.zeros((1, audio_frames + 16, 32))})


def test_a_longer_model_sees_the_range_that_it_learned_and_a_fresh_one_its_own(source: Path) -> None:
    longer = params_of(load_pretrained(source / "run", 3008))["encoder.audio.positions"]
    fresh = sincos_positions((2, 188), 16)
    np.testing.assert_array_equal(longer[:, 8:], fresh[:, 8:])  # the mel row
    learned = sincos_positions((2, 64), 16)
    np.testing.assert_array_equal(longer[[0, 187, -1]], learned[[0, 63, -1]])
    assert np.abs(longer - fresh).max() > 1


@pytest.mark.parametrize("audio_frames", LENGTHS)
@pytest.mark.parametrize("name", ["run", "noted.safetensors", "w.safetensors"])
def test_a_run_starts_from_a_model_of_another_length(name: str, audio_frames: int, source: Path, logged: pytest.LogCaptureFixture) -> None:
    model = CAVMAE(config(audio_frames=audio_frames), rngs=nnx.Rngs(0))
    initialise_from(config(audio_frames=audio_frames), model, source / name)
    assert_lengthened(params_of(model), read(source / "run").params, audio_frames // 16)
    assert (f" 64 to {audio_frames // 16} " in logged.text) == (audio_frames != 1024)
    assert str(source / name) in logged.text


def test_a_classifier_takes_the_encoder_of_a_model_of_another_length(source: Path) -> None:
    sizes = config(audio_frames=96, kind="cavmae_classifier")
    model = CAVMAEClassifier(sizes, 3, rngs=nnx.Rngs(0))
    initialise_from(sizes, model, source / "run")
    got = {path: value for path, value in params_of(model).items() if path.startswith("encoder.")}
    assert_lengthened(got, read(source / "run").params, 6)


@pytest.mark.parametrize("classes", [0, 3])
def test_there_and_back_through_files_it_keeps_its_length(classes: int, tmp_path: Path) -> None:
    weights = with_audio_frames(made(config(audio_frames=128), classes), 96)
    assert weights.config == config(audio_frames=96, kind=weights.config.kind)
    write(weights, tmp_path / "run")
    write(read(tmp_path / "run"), tmp_path / "w.safetensors")
    save_file(load_file(tmp_path / "w.safetensors"), tmp_path / "bare.safetensors")
    for found in (read(tmp_path / "run"), read(tmp_path / "w.safetensors"), read(tmp_path / "bare.safetensors", **SIZES)):
        assert found.config.audio_frames == 96
        for path, value in found.params.items():
            np.testing.assert_array_equal(value, weights.params[path], strict=True)


def test_a_state_dict_of_torch_keeps_the_length(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = load_pretrained(source / "run", 400)
    assert isinstance(model, CAVMAE)
    save_torch(model, tmp_path / "w.pth")
    again = CAVMAE(config(audio_frames=400), rngs=nnx.Rngs(0))
    initialise_from(config(audio_frames=400), again, tmp_path / "w.pth")
    for path, value in params_of(again).items():
        np.testing.assert_array_equal(value, params_of(model)[path], strict=True)


@pytest.mark.slow
def test_one_modality_alone(tmp_path: Path) -> None:
    hearing = made(config(modality="audio", audio_frames=128))
    write(hearing, tmp_path / "mae")
    model = load_pretrained(tmp_path / "mae", 96)
    assert isinstance(model, MAE)
    np.testing.assert_allclose(model.tower.positions[...], expected(hearing.params["tower.positions"], 2, 6), rtol=0, atol=1e-6)
    ast = made(config(modality="audio", audio_frames=128), 3)  # patches every 10 pixels: 2 rows of 12, to 9
    write(ast, tmp_path / "ast")
    sizes = config(kind="ast", modality="audio", audio_frames=96)
    model = AST(sizes, 3, rngs=nnx.Rngs(0))
    initialise_from(sizes, model, tmp_path / "ast")
    np.testing.assert_allclose(model.tower.positions[...], expected(ast.params["tower.positions"], 2, 9), rtol=0, atol=1e-6)
    assert model({"audio": jnp.ones((1, 96, 32))}).shape == (1, 3)
    seeing = made(config(modality="image"))
    write(seeing, tmp_path / "image")
    with pytest.raises(WeightsError, match=r"/image: .*audio_frames 96"):
        load_pretrained(tmp_path / "image", 96)
    sizes = config(kind="mae", modality="image", audio_frames=96)
    model = MAE(sizes, rngs=nnx.Rngs(0))
    initialise_from(sizes, model, tmp_path / "image")  # its audio_frames mean nothing


# --- what can't be ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio_frames", [100, 0, -16])
def test_a_length_that_no_model_can_have_is_refused(audio_frames: int, source: Path) -> None:
    with pytest.raises(WeightsError, match=rf"run: .*audio_frames.*{audio_frames}.*patch.*16"):
        load_pretrained(source / "run", audio_frames)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("run", {"mel_bins": 64}, "mel_bins.*32.*64"),
        ("run", {"mel_bins": 128}, "mel_bins.*32.*128"),
        ("w.safetensors", {"mel_bins": 64}, "32.*64.*mel_bins"),
        ("run", {"patch": 8}, r"model\.patch.*16.*8"),
        ("w.safetensors", {"patch": 8}, r"model\.patch.*16.*8"),
        ("run", {"image_size": 64}, r"model\.image_size.*32.*64.*--config\.model\.image_size=32"),
        ("run", {"depth": 3}, r"model\.depth.*2.*3.*--config\.model\.depth=2"),
    ],
)
def test_a_model_that_differs_in_more_than_length_is_refused(name: str, changes: dict[str, Any], said: str, source: Path) -> None:
    sizes = config(audio_frames=96, **changes)
    model = CAVMAE(sizes, rngs=nnx.Rngs(0))
    before = params_of(model)
    with pytest.raises(WeightsError, match=said) as caught:
        initialise_from(sizes, model, source / name)
    assert str(source / name) in str(caught.value)
    for path, value in params_of(model).items():
        np.testing.assert_array_equal(value, before[path])
