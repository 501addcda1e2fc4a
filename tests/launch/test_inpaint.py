"""launch.inpaint: what it writes, and what it refuses before anything is written."""

import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from absl import app
from PIL import Image

from avmae_jax.config import Config
from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.plots.canvas import DENSITY, WIDTH
from avmae_jax.weights.io import write
from launch import inpaint
from tests.media import numbered, tone, write_media
from tests.support import TINY, Clips, apply, called_here, made

SIZES = apply(Config(), TINY).model
Call = Callable[..., str]


def make(job: Job) -> Iterator[Clip]:
    yield Clips(9)[job.args[0]]._replace(id=job.id)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    found = made(SIZES)
    write(found._replace(params={name: 0.1 * value for name, value in found.params.items()}), path)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a/film.mp4, b/film.mp4 with sound, and silent.mp4 without."""
    folder = tmp_path_factory.mktemp("films")
    pictures = [numbered(n) for n in range(10)]
    for name in ("a/film.mp4", "b/film.mp4"):
        write_media(folder / name, frames=pictures, sound=tone(440, 1.0))
    write_media(folder / "silent.mp4", frames=pictures)
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Calls the program in this process; gives what it prints."""
    with called_here(inpaint) as main:

        def printed(*arguments: object) -> str:
            main(*arguments)
            return capsys.readouterr().out

        yield printed


@pytest.mark.slow
def test_every_file_gives_a_picture_and_two_sounds(
    call: Call, model: Path, films: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files of one name don't overwrite each other, and a second call doesn't overwrite the first one's."""
    arguments = (model, films / "a/film.mp4", films / "b/film.mp4", "--out", tmp_path / "out", "--mask_mode=freq")
    printed = call(*arguments)
    suffixes = (".png", "_reconstructed.wav", "_original_mel.wav", "_masked_mel.wav")
    files = {f"{name}{suffix}" for name in ("film", "film_2") for suffix in suffixes}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    assert all(str(tmp_path / "out" / name) in printed for name in files)
    assert "norm_pix" in caplog.text  # the config of the weights has it
    with Image.open(tmp_path / "out/film.png") as picture:
        assert picture.size[0] == WIDTH * DENSITY
    with wave.open(str(tmp_path / "out/film_original_mel.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert (file.getframerate(), len(samples)) == (16_000, 63 * 160 + 400)
    strongest = np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples)
    assert strongest == pytest.approx(440, abs=20)
    with pytest.raises(SystemExit, match=r"film\.png.*--out.*--overwrite"):
        call(*arguments)


@pytest.mark.slow
def test_clips_of_a_data_set_are_found_by_their_ids(call: Call, model: Path, tmp_path: Path) -> None:
    jobs = {"train": [Job("t", (0,))], "test": [Job(f"e/{n}.mp4", (n,)) for n in range(3)]}
    write_dataset(tmp_path / "set", DatasetSpec("clips", jobs, make))
    common = (model, "--data", tmp_path / "set", "--out", tmp_path / "out")
    call(*common, "--clips=e/2.mp4,e/0.mp4", "--mask_mode=freq")  # as above, which is compiled
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"e_2.mp4.png", "e_0.mp4.png"}
    with pytest.raises(SystemExit, match=r"test.*'e/9\.mp4'.*'e/0\.mp4'"):
        call(*common, "--clips=e/9.mp4")


@pytest.mark.slow
def test_one_bad_file_does_not_stop_the_others(
    call: Call, model: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.mp4").write_text("a web page")
    bad = [tmp_path / "page.mp4", tmp_path / "gone.mp4", films / "silent.mp4"]
    with pytest.raises(SystemExit, match=r"^3$"):
        call(model, *bad, films / "a/film.mp4", "--out", tmp_path / "out", "--mask_mode=freq")
    out, err = capsys.readouterr()
    assert [str(path) in line for path, line in zip(bad, err.splitlines(), strict=True)] == [True] * 3
    assert "film.png" in out
    assert {path.name.split(".")[0] for path in (tmp_path / "out").glob("*.png")} == {"film"}


def test_what_cannot_be_filled_in_is_named(
    call: Call, model: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"^1$"):
        call(model, films / "silent.mp4", *out)
    assert "silent.mp4" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"audio_mask_ratio.*1\.0"):
        call(model, films / "a/film.mp4", *out, "--audio_mask_ratio=1")
    write(made(SIZES, 3), tmp_path / "classifier.safetensors")
    with pytest.raises(SystemExit, match=r"classifier\.safetensors"):
        call(tmp_path / "classifier.safetensors", films / "a/film.mp4", *out)
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_told(call: Call, model: Path, films: Path) -> None:
    film = films / "a/film.mp4"
    for arguments in ((), (model,), (model, film), (model, film, "--clips=x", "--out=y")):
        with pytest.raises(app.UsageError):
            call(*arguments)
