"""Tests launch.report as a user runs it: it makes what is missing, and refuses what is no run."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import app

from avmae_jax.config import DataConfig
from avmae_jax.data.clip import Clip
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.weights.io import write
from avmae_jax.weights.notes import Notes
from launch import report as program
from tests.report.pages import HOSTILE, Page, start
from tests.support import ODD, Clips, called_here, made

Call = Callable[..., str]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Calls the program in this process; gives what it prints."""
    with called_here(program) as main:

        def printed(*arguments: object) -> str:
            main(*arguments)
            return capsys.readouterr().out

        yield printed


def make(job: Job) -> Iterator[Clip]:
    yield Clips(9)[job.args[0]]._replace(id=job.id, labels=(job.args[0] % 2,))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "set"
    jobs = {"train": [Job("t", (0,))], "test": [Job(f"e{n}", (n,)) for n in range(4)]}
    write_dataset(out, DatasetSpec("clips", jobs, make, [HOSTILE, "oboe"]))
    return out


def checkpoint(run: Path, classes: int, names: tuple[str, ...] = ()) -> None:
    """Weights where a run has its checkpoints."""
    write(made(ODD, classes)._replace(notes=Notes(loss="ce", mode="audioonly", label_names=names)), run / "checkpoints")


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.slow
def test_the_program_makes_what_is_missing(call: Call, data: Path, tmp_path: Path, classes: int) -> None:
    run = start(tmp_path / "run", model=ODD, data=DataConfig(source="prepared", path=str(data)))
    checkpoint(run, classes, (HOSTILE, "oboe")[:classes])
    printed = call(run)
    assert str(run / "report.html") in printed
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    made_there = "evaluation/evaluation.json" if classes else "retrieval/retrieval.json"
    assert (run / made_there).is_file()
    assert "isn't there" not in page.text
    assert ("Confusion matrix" if classes else "any clip of the class") in page.text
    assert HOSTILE in page.text or not classes


def test_a_page_is_made_without_data(call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = start(tmp_path / "run", model=ODD, data=DataConfig(source="prepared", path=str(tmp_path / "gone")))
    checkpoint(run, 0)
    call(run, "--out", tmp_path / "elsewhere/page.html")
    assert re.search("DatasetError: .*gone", caplog.text)
    assert "launch.retrieve" in Page((tmp_path / "elsewhere/page.html").read_text(encoding="utf-8")).text
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["page.html"]
    caplog.clear()
    call(run, "--nomake")
    assert not caplog.text


def test_the_program_refuses_what_is_no_run(call: Call, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ValueError: .*config\.json"):
        call(tmp_path)
    with pytest.raises(app.UsageError):
        call()
