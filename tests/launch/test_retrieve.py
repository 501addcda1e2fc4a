"""launch.embed and launch.retrieve as a user calls them: files, tables, pictures, and one line for what is wrong."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from absl import app
from PIL import Image

from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.inference.embed import KINDS, Part
from avmae_jax.inference.embedding_files import read_embeddings, write_embeddings
from avmae_jax.weights.io import write
from avmae_jax.weights.places import results_folder
from launch import embed, retrieve
from tests.media import numbered, tone, write_clip, write_media
from tests.support import ODD, Clips, called_here, cells, made

SMALL = dataclasses.replace(ODD, depth=2, joint_depth=1)
NAMES = ["harp [bold]", "oboe", "horn"]

Call = Callable[..., tuple[int, str, str]]


def make(job: Job) -> Iterator[Clip]:
    clip = Clips(9)[job.args[0]]
    waveform = clip.waveform[: 0 if "deaf" in job.id else None]
    clip = clip._replace(id=job.id, labels=(job.args[0] % 2,), waveform=waveform)
    yield clip._replace(frames=(), frame_times=()) if "blind" in job.id else clip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five whole test clips of two classes, one without sound and one without pictures."""
    out = tmp_path_factory.mktemp("data") / "set"
    jobs = {"train": [Job("t", (0,))], "test": [*(Job(f"e{n}", (n,)) for n in range(5)), Job("deaf", (6,)), Job("blind", (7,))]}
    write_dataset(out, DatasetSpec("clips", jobs, make, NAMES))
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "run"
    write(made(SMALL), folder)
    return folder


@pytest.fixture(scope="module")
def vectors(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by launch.embed."""
    file = tmp_path_factory.mktemp("vectors") / "e.npz"
    assert called(embed, run, "--data", data, "--out", file, "--batch_size=4") == 0
    return file


def called(program: ModuleType, *arguments: object) -> int:
    """Calls a program in this process; gives its exit status, and prints what it says at its end."""
    try:
        with called_here(program) as main:
            main(*arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stdout.write(end.code + "\n")
            return 1
        return end.code or 0
    return 0


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Status, output and errors of a program."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = called(*arguments)  # pyright: ignore[reportArgumentType]
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_a_data_set_is_embedded_with_all_that_its_clips_have(vectors: Path, run: Path, data: Path) -> None:
    found = read_embeddings(vectors)
    assert found.ids == ["e0", "e1", "e2", "e3", "e4", "blind", "deaf"]  # those that lack something come in batches of their own
    assert found.labels == [(0,), (1,), (0,), (1,), (0,), (1,), (0,)]
    assert {kind: found.has[kind].tolist() for kind in KINDS} == {
        "audio": [True] * 6 + [False],
        "image": [True] * 5 + [False, True],
        "joint": [True] * 5 + [False, False],
    }
    note = {name: found.note[name] for name in ("model", "data", "split", "label_names", "width")}
    assert note == {"model": str(run), "data": str(data), "split": "test", "label_names": NAMES, "width": 16}


@pytest.mark.slow
def test_both_formats_hold_the_same(call: Call, run: Path, data: Path, vectors: Path, tmp_path: Path) -> None:
    status, printed, _ = call(embed, run, "--data", data, "--out", tmp_path / "e.array_record", "--what=audio,image", "--batch_size=4")
    assert status == 0
    assert re.search(rf"{tmp_path}/e\.array_record: audio, image .*7 .*16 ", printed)
    found, expected = read_embeddings(tmp_path / "e.array_record"), read_embeddings(vectors)
    assert found.ids == expected.ids
    for kind in ("audio", "image"):
        np.testing.assert_allclose(found.vectors[kind], expected.vectors[kind], atol=1e-6)


def test_embed_refuses_in_a_line(call: Call, run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_text("mine")
    cases = {
        ("--out", tmp_path / "mine.npz"): r"WeightsError: .*mine\.npz",
        ("--out", tmp_path / "e.csv"): r"WeightsError: .*e\.csv.*\.npz.*\.array_record",
        ("--out", tmp_path / "e.npz", "--what=smell"): "ValueError: what .*'smell'.*audio, image, joint",
        ("--out", tmp_path / "e.npz", "--data", tmp_path): f"DatasetError: {tmp_path} .*launch.prepare",
    }
    for arguments, message in cases.items():
        more = () if "--data" in arguments else ("--data", data)
        status, printed, _ = call(embed, run, *arguments, *more)
        assert status == 1
        (line,) = printed.splitlines()
        assert re.match(message, line), line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]
    with pytest.raises(app.UsageError, match="--out"):
        call(embed, run)


def test_retrieval_of_a_set_is_told_written_and_drawn(call: Call, run: Path, data: Path, tmp_path: Path) -> None:
    status, printed, _ = call(retrieve, run, "--data", data, "--out", tmp_path / "r", "--batch_size=4", "--per_class=3")
    found = json.loads((tmp_path / "r/retrieval.json").read_text())
    assert status == 0
    assert found["ids"] == [f"e{n}" for n in range(5)]
    rows = cells(printed)
    assert [row[1] for row in rows[:2]] == [f"{found[way]['r1']:.1%}" for way in ("audio_to_image", "image_to_audio")]
    assert rows[2][1:] == ["20.0%", "100.0%", "100.0%", "3", ""]
    assert [row[1] for row in rows[3:]] == [f"{found[way]['class']['r1']:.1%}" for way in ("audio_to_image", "image_to_audio", "chance")]
    assert re.search("oboe.* 2 .*--per_class 3", printed)
    assert re.search("horn.* 0 .*--per_class 3", printed)
    assert (tmp_path / "r/gallery.png").stat().st_size > 10_000


def test_all_frames_are_compared_on_demand(call: Call, run: Path, data: Path, tmp_path: Path) -> None:
    options = (run, "--data", data, "--batch_size=8")
    status, printed, _ = call(retrieve, *options, "--out", tmp_path / "r", "--frames=all", "--pairs=diagonal_max")
    found = json.loads((tmp_path / "r/retrieval.json").read_text())
    assert (status, found["frames"], found["pairs"], found["clips"]) == (0, 10, "diagonal_max", 5)
    assert "10 frames each (diagonal_max)" in printed
    with pytest.raises(app.UsageError, match=r"--pairs does nothing .*--frames=all"):
        call(retrieve, *options, "--out", tmp_path / "r", "--pairs=max")
    status, printed, _ = call(embed, *options, "--out", tmp_path / "e.npz", "--frames=all", "--what=audio,image")
    assert (status, "10 frames of 7 clips" in printed) == (0, True)
    assert read_embeddings(tmp_path / "e.npz").vectors["audio"].shape == (7, 10, 16)
    status, printed, _ = call(retrieve, run, "--query", tmp_path / "none.mp4", "--index", tmp_path / "e.npz")
    assert status == 1


def test_what_is_found_lies_in_the_run(call: Call, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.safetensors").touch()
    places = {"run": "run/retrieval", "run/best": "run/best/retrieval", "run/model.safetensors": "run/model.safetensors_retrieval"}
    for model, folder in places.items():
        assert results_folder(str(tmp_path / model), "retrieval") == tmp_path / folder
    monkeypatch.chdir(tmp_path / "run")
    assert results_folder(".", "retrieval").resolve() == tmp_path / "run/retrieval"
    status, printed, _ = call(retrieve, run, "--data", data)
    assert status == 1
    assert re.search("ValueError: .*--out", printed)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("queries")
    (folder / "page.mp4").write_text("a web page")
    Image.fromarray(numbered(3)).save(folder / "picture [red].png")
    return {
        "both": write_clip(folder / "both.mp4", 1.0),
        "sound": write_media(folder / "sound.wav", sound=tone(440, 1.0), audio_codec="pcm_s16le"),
        "picture": folder / "picture [red].png",
        "page": folder / "page.mp4",
    }


@pytest.mark.slow
def test_each_side_of_a_file_finds_clips_of_a_data_set(call: Call, run: Path, data: Path, queries: dict[str, Path], tmp_path: Path) -> None:
    both, picture = f"--query={queries['both']}", f"--query={queries['picture']}"
    index = ("--index", data, "--batch_size=4", "--top=6", "--out", tmp_path / "q.png")
    status, printed, _ = call(retrieve, run, both, picture, *index)
    assert status == 0
    assert all(name in printed for name in ("both.mp4: ", "picture [red].png: "))
    rows = cells(printed)
    assert len(rows) == 18
    assert {row[2] for row in rows[:6]} == {"e0", "e1", "e2", "e3", "e4", "deaf"}
    assert {row[2] for row in rows[6:12]} == {row[2] for row in rows[12:]} == {"e0", "e1", "e2", "e3", "e4", "blind"}
    assert {(row[2], row[3]) for row in rows} >= {("e0", "harp [bold]"), ("e1", "oboe")}
    with Image.open(tmp_path / "q.png") as drawn:
        assert drawn.height > 600


@pytest.mark.slow
def test_a_file_of_vectors_finds_what_its_data_set_finds(
    call: Call, run: Path, data: Path, vectors: Path, queries: dict[str, Path], tmp_path: Path
) -> None:
    sound = (f"--query={queries['sound']}", "--top=3")
    found = [call(retrieve, run, *sound, "--index", index)[1] for index in (data, vectors)]
    assert cells(found[0]) == cells(found[1])
    assert call(retrieve, run, *sound, "--index", vectors, "--out", tmp_path / "q.png")[0] == 0
    assert (tmp_path / "q.png").exists()
    status, printed, _ = call(retrieve, run, *sound, "--index", vectors, "--out", tmp_path / "x.png", "--data", tmp_path)
    assert (status, (tmp_path / "x.png").exists()) == (1, False)
    assert re.search(f"DatasetError: {tmp_path} ", printed)


def test_an_index_whose_clips_cannot_be_found_asks_for_them(
    call: Call, run: Path, vectors: Path, queries: dict[str, Path], tmp_path: Path
) -> None:
    found = read_embeddings(vectors)
    part = Part(found.ids[:5], found.positions[:5].tolist(), found.labels[:5], {kind: found.vectors[kind][:5] for kind in KINDS})
    write_embeddings(tmp_path / "e.npz", [part], found.note | {"data": "the built-in set"})
    sound = (run, f"--query={queries['sound']}", "--index", tmp_path / "e.npz")
    status, printed, _ = call(retrieve, *sound, "--out", tmp_path / "q.png")
    assert status == 1
    assert re.search("'the built-in set'.*--data", printed)
    assert call(retrieve, *sound)[0] == 0


def test_a_file_that_cannot_be_used_is_named_and_the_others_are_answered(
    call: Call, run: Path, vectors: Path, queries: dict[str, Path], tmp_path: Path
) -> None:
    page, gone = f"--query={queries['page']}", f"--query={tmp_path / 'gone.mp4'}"
    status, printed, errors = call(retrieve, run, page, f"--query={queries['sound']}", "--index", vectors)
    assert (status, len(cells(printed))) == (3, 5)
    assert str(queries["page"]) in errors
    status, printed, errors = call(retrieve, run, page, gone, "--index", vectors)
    assert (status, printed) == (1, "")
    assert [str(path) in line for path, line in zip((queries["page"], tmp_path / "gone.mp4"), errors.splitlines(), strict=True)] == [
        True
    ] * 2


def test_vectors_of_another_model_are_no_index(call: Call, vectors: Path, queries: dict[str, Path], tmp_path: Path) -> None:
    write(made(SMALL, seed=1), tmp_path / "other")
    status, printed, _ = call(retrieve, tmp_path / "other", f"--query={queries['sound']}", "--index", vectors)
    assert status == 1
    assert re.search("ValueError: .*other.*launch.embed", printed)


def test_wrong_usage_is_told(call: Call, run: Path, vectors: Path) -> None:
    for arguments, message in {
        ("--query=a.mp4",): "--query.*--index",
        ("--index", vectors): "--query.*--index",
        ("--query=a.mp4", "--index", vectors, "--out=folder"): r"--out.*\.png",
        (run,): "one model",
    }.items():
        with pytest.raises(app.UsageError, match=message):
            call(retrieve, run, *arguments)
