"""launch.study as a user calls it: the same clips for every method, resumed after a kill, and what is wrong in one line."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avmae_jax.config import Config
from avmae_jax.config_files import shipped
from avmae_jax.data.clip import Clip
from avmae_jax.data.sources import open_source
from avmae_jax.data.store.job import Job
from avmae_jax.data.store.plan import DatasetSpec
from avmae_jax.data.store.reader import ids_of
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.evals.baselines.classifiers import LOGISTIC
from avmae_jax.evals.baselines.cross_validation import Family
from avmae_jax.report.build import report
from avmae_jax.train.epochs import Epochs
from avmae_jax.train.study import lengthened
from avmae_jax.weights.io import write
from avmae_jax.weights.notes import Notes
from launch import study
from tests.report.pages import Page, start
from tests.support import ODD, Clips, completed, made

pytest.importorskip("sklearn")
NAMES = ["harp", "oboe", "horn"]
RECIPE = """
from avmae_jax.config_files import shipped
from tests.support import ODD, apply

def get_config():
    config = shipped("finetune_instruments")
    sizes = {{f"model.{{name}}": getattr(ODD, name) for name in vars(ODD) if name not in {kept}}}
    return apply(config, sizes | {{"data.path": {data!r}, "train.batch_size": 4, "tune.eval_crops": 2, "train.epochs": 3.0, **{changes}}})
"""
KEPT = ("kind", "head_pool", "image_factor", "patch_dropout")
SHORT = {"tune.average_first": 2, "tune.average_last": 3, "optim.decay_start": 2, "optim.decay_every": 1}


def make(job: Job) -> Iterator[Clip]:
    """Clip n has the class n % 3 and the pitch of its class."""
    number = job.args[0]
    wave = 8_000 * np.sin(np.arange(8_000) * (0.1 + 0.4 * (number % 3)) + number)
    clip = Clips(20)[number]._replace(id=job.id, waveform=wave.astype(np.int16), frames=(), frame_times=())
    yield clip._replace(labels=() if "bare" in job.id else (number % 3,))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data") / "set")


def prepared(folder: Path, prefix: str = "", test: int = 6) -> Path:
    jobs = {"train": [Job(f"{prefix}t{n}", (n,)) for n in range(12)], "test": [Job(f"{prefix}e{n}", (n,)) for n in range(12, 12 + test)]}
    write_dataset(folder, DatasetSpec("clips", jobs, make, NAMES))
    return folder


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Family(LOGISTIC.name, LOGISTIC.settings[5:7], LOGISTIC.predict)
    monkeypatch.setattr("avmae_jax.evals.baselines.baseline.FAMILIES", (quick,))
    monkeypatch.setattr("avmae_jax.evals.baselines.probe.PROBES", {"linear": quick})


class Tuner:
    """Stands in for finetune: notes the clips of each training, and is killed before the one number `killed`."""

    def __init__(self, killed: int = 99):
        self.configs, self.clips, self.killed = list[Config](), list[list[str]](), killed

    def __call__(self, config: Config, **_: Any) -> dict[str, Any]:
        if len(self.configs) == self.killed:
            raise KeyboardInterrupt
        self.configs.append(config)
        self.clips.append(ids_of(open_source(config.data, "train", "audio")))
        folder = Path(config.train.workdir)
        (folder / "checkpoints/3").mkdir(parents=True)
        found = {"loss": 1.0, "map": 0.5, "accuracy": 0.25}
        return {"steps": 3, "seconds": 1.0, "held_out": found, "averaged": found | {"map": 0.75}}


def recipe(folder: Path, data: Path, **changes: object) -> Path:
    text = RECIPE.format(data=str(data), changes=SHORT | {name.replace("__", "."): value for name, value in changes.items()}, kept=KEPT)
    (folder / "recipe.py").write_text(text)
    return folder / "recipe.py"


def saved(path: Path, seed: int = 0, classes: int = 0) -> Path:
    write(made(ODD, classes, seed)._replace(notes=Notes()), path)
    return path


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "study/audio/study.json").read_text())


@pytest.mark.slow
def test_every_method_gets_the_same_clips_and_a_kill_loses_no_cell(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = saved(tmp_path / "run"), saved(tmp_path / "other", 1)
    fitted = list[tuple[str, list[str]]]()

    def noted(train: Any, *_: Any, **options: Any) -> list[dict[str, Any]]:
        fitted.append(("probe" if options else "baseline", train.ids))
        figures = {"map": 0.5, "accuracy": 0.5, "loss": 1.0}
        return [{"name": "x", "setting": {}, "cross_validation": {"map": best}, **figures, "map": best} for best in (0.3, 0.6, 0.1)]

    monkeypatch.setattr("avmae_jax.train.study.measure", noted)
    monkeypatch.setattr("avmae_jax.train.study.probe", noted)
    monkeypatch.setattr("avmae_jax.train.study.finetune", first := Tuner(killed=5))
    call = (run, f"--config={recipe(tmp_path, data)}", "--given=audio", "--labels=1,2,9", "--seeds=2", f"--also=other={other}")
    with pytest.raises(KeyboardInterrupt):
        completed(study, *call)
    assert len(read(run)["cells"]) == 6 + 6 + 5
    monkeypatch.setattr("avmae_jax.train.study.finetune", second := Tuner())
    done = completed(study, *call)
    assert done.returncode == 0, done.stderr
    assert len(fitted) == 12  # by the first call
    content = read(run)
    draws = {(row["labels"], row["seed"]): row["ids"] for row in content["draws"]}
    assert sorted(draws) == [(labels, seed) for labels in (1, 2, 4) for seed in (0, 1)]  # 9 are more than there are: shown once, as 4
    assert len(first.configs) + len(second.configs) == 3 * 6
    for config, clips in zip([*first.configs, *second.configs], [*first.clips, *second.clips], strict=True):
        assert clips == draws[config.data.labelled_per_class, config.data.labelled_seed]
        assert (config.train.seed, config.tune.mode) == (config.data.labelled_seed, "audioonly")
    for kind in ("probe", "baseline"):
        assert sorted(ids for name, ids in fitted if name == kind) == sorted(draws.values())
    assert {*draws[1, 0]} < {*draws[2, 0]} < {*draws[4, 0]} == {*draws[4, 1]}
    assert draws[1, 0] != draws[1, 1]
    assert {row["map"] for row in content["cells"] if row["method"] == "other"} == {0.75}  # of the averaged weights
    assert {row["map"] for row in content["cells"] if row["method"] == "probe"} == {0.6}  # the best inside the drawn clips
    assert {Path(config.init_from).name for config in second.configs} >= {"run", "other"}
    assert all(path.suffix == ".json" for path in (run / "study/audio/cells").iterdir())
    again = completed(study, *call, "--labels=2", "--starts=scratch", "--seeds=3")  # adds to the file
    assert again.returncode == 0, again.stderr
    assert len(read(run)["cells"]) == len(content["cells"]) + 1
    refused = completed(study, *call, "--least_steps=7")
    assert re.search(r"^ConfigError: .*study\.json.*least_steps is 360 there and 7 here.*--out", refused.stderr, re.M)
    refused = completed(study, *call[:-1], f"--also=other={run}")
    assert re.search(r"^ConfigError: .*other starts from other weights", refused.stderr, re.M)


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_it_trains_probes_and_shows_the_curves(data: Path, tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    weights = saved(tmp_path / "weights")
    call = (weights, f"--config={recipe(tmp_path, data)}", "--given=audio", "--labels=1,2", "--seeds=1", "--least_steps=4")
    done = completed(study, *call, f"--out={run / 'study/audio'}")
    assert done.returncode == 0, done.stderr
    content = read(run)
    assert [*content["weights"]] == ["scratch", "pretrained", "probe", "baseline"]
    assert len(content["cells"]) == 4 * 2
    assert {row["steps"] for row in content["cells"] if "steps" in row} == {4}  # of 3 clips 2 steps would be 3 epochs
    assert {row["weights"] for row in content["cells"] if "weights" in row} == {"averaged"}
    assert "holds the mean of epochs" not in done.stderr
    assert re.search(r"pretrained .*2 .*1 .*\.\d{3}", done.stdout)
    assert {path.name for path in (run / "study/audio/cells").iterdir()} == {
        f"{method}_{labels}_0.json" for method in ("scratch", "pretrained") for labels in (1, 2)
    }
    page = Page(report(run))
    assert "How many labels" in page.text
    assert "labels of each class" in page.text
    assert page.tags.count("img") >= 1


def test_a_training_is_lengthened_by_one_factor() -> None:
    config = shipped("finetune_instruments")
    short = lengthened(config, 24, 360)
    assert (short.train.epochs, short.optim.decay_start, short.optim.decay_every) == (360, 240, 60)
    assert (short.tune.average_first, short.tune.average_last) == (241, 360)
    same = lengthened(config, 288, 360)
    assert (same.train, same.optim, same.tune) == (config.train, config.optim, config.tune)
    tiny = lengthened(config, 6, 360)  # a quarter of a step an epoch
    assert (tiny.train.epochs, tiny.tune.average_last) == (1440, 1440)
    assert Epochs(0.25).ended_at(round(tiny.tune.average_first / 4)) == tiny.tune.average_first
    odd = lengthened(config, 25, 360)
    assert odd.train.epochs * 25 / 24 == pytest.approx(360)
    assert odd.tune.average_last == int(odd.train.epochs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels=0"], "--labels.*'0'"),
        (["--labels=2,-1"], "--labels.*'-1'"),
        (["--labels=2,two"], "--labels.*'two'"),
        (["--labels="], "--labels is empty"),
        (["--also=name"], "--also is 'name'.*NAME=PATH"),
        (["--also=a/b=x"], "--also is 'a/b=x'.*NAME=PATH"),
        (["--also=a=x", "--also=a=y"], "--also.*'a' twice"),
        (["--also=probe=x"], "--also.*'probe' twice"),
        (["--starts=scratch,deep"], "--starts is 'deep'.*scratch, pretrained, probe, baseline"),
        (["more"], "one RUN.* 2"),
    ],
)
def test_options_that_cannot_work_are_refused(data: Path, tmp_path: Path, options: list[str], message: str) -> None:
    done = completed(study, tmp_path / "run", f"--config={recipe(tmp_path, data)}", "--given=audio", *options)
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_fields_that_do_nothing_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [str(tmp_path / "run"), f"--config={recipe(tmp_path, data)}", "--given=audio", "--config.tune.swap_pictures=0.2"]
    monkeypatch.setattr(sys, "argv", ["study", *arguments])
    assert re.search(r"^--config\.tune\.swap_pictures does nothing", completed(study, *arguments).stderr, re.M)


def test_what_is_wrong_is_one_line_before_anything_is_trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avmae_jax.train.study.finetune", Tuner(killed=0))
    run, given = saved(tmp_path / "run"), ("--given=audio", f"--out={tmp_path / 'out'}")

    def refusal(path: Path, data: Path, *more: str, **changes: object) -> str:
        done = completed(study, path, f"--config={recipe(tmp_path, data, **changes)}", *given, *more)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert re.search("WeightsError.*nowhere", refusal(tmp_path / "nowhere", data))
    assert re.search("WeightsError.*nowhere", refusal(run, data, f"--also=x={tmp_path / 'nowhere'}"))
    assert re.search("DatasetError.*nowhere", refusal(run, tmp_path / "nowhere"))
    assert re.search("WeightsError.*width is 16.*32", refusal(run, data, model__width=32))
    assert re.search("DatasetError.*labels", refusal(run, prepared(tmp_path / "bare", "bare")))
    assert re.search("DatasetError.*held out", refusal(run, prepared(tmp_path / "whole", test=0)))
    assert re.search(r"ConfigError.*train\.steps is 3", refusal(run, data, train__steps=3, tune__average_first=0, tune__average_last=0))
    assert re.search("ValueError.*classifier", refusal(saved(tmp_path / "tuned", classes=3), data))
    assert re.search(r"model\.kind", refusal(run, data, model__kind="cavmae"))
    assert re.search("image", refusal(run, data, "--given=image"))
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    assert re.search(r"AvmaeError.*\[baseline\].*--starts", refusal(run, data))


def test_scikit_learn_is_needed_by_probe_and_baseline_alone(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    monkeypatch.setattr("avmae_jax.train.study.finetune", Tuner())
    run = saved(tmp_path / "run")
    done = completed(
        study, run, f"--config={recipe(tmp_path, data)}", "--given=audio", "--labels=2", "--seeds=1", "--starts=scratch,pretrained"
    )
    assert done.returncode == 0, done.stderr
    assert [row["method"] for row in read(run)["cells"]] == ["pretrained", "scratch"]
