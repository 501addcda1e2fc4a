"""python -m launch.pretrain as a user runs it: from nothing, killed, stopped, out of disk, on real videos, and with wrong arguments."""

import json
import logging
import math
import shutil
import signal
import textwrap
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from avmae_jax.checkpoint.manager import restore_params
from avmae_jax.config import Config
from avmae_jax.config_files import shipped, shipped_names
from avmae_jax.data.batches import TrainBatches, TrainOptions
from avmae_jax.data.clip import Clip
from avmae_jax.models import registry
from avmae_jax.train import run
from avmae_jax.train.pretraining import PretrainingTask
from avmae_jax.train.step import Context, make_loss
from avmae_jax.train.step_log import MEASURED
from tests.media import tone, write_clip, write_media
from tests.support import TINY, Clips, Program, apply, as_arguments

STEPS = 12
RUN = TINY | {"train.steps": STEPS, "train.eval_every": 4, "train.checkpoint_every": 3, "train.picture_every": 100}

# Runs the command with something happening to it at the step `when`: a signal as soon as its losses are written, "fill disk" before its
# checkpoint is written, "kill saving" while it is.
DISTURBED = """
    import os, pathlib, resource, runpy, signal, sys
    from avmae_jax.checkpoint.manager import Checkpoints
    from avmae_jax.train.logbook import Logbook

    what, when = sys.argv[1], int(sys.argv[2])
    if what.startswith("Ctrl-C"):
        os.setsid()
    write, save = Logbook.write, Checkpoints.save

    def disturbed_write(self, step, split, values):
        write(self, step, split, values)
        if step == when and split == "train" and what in ("SIGKILL", "SIGTERM"):
            os.kill(os.getpid(), getattr(signal, what))
        if step == when and split == "train" and what.startswith("Ctrl-C"):
            for _ in range(1 + what.endswith("twice")):
                os.killpg(0, signal.SIGINT)  # as a terminal sends it: the reader processes get it too

    def disturbed_save(self, step, **items):
        if step == when and what == "fill disk":
            self.wait()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit raises, as it does on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        save(self, step, **items)
        if step == when and what == "kill saving":
            while not list(self.directory.glob(f"{step}*")):
                pass
            os.kill(os.getpid(), signal.SIGKILL)

    Logbook.write, Checkpoints.save = disturbed_write, disturbed_save
    sys.argv = ["launch.pretrain", *sys.argv[3:]]
    runpy.run_module("launch.pretrain", run_name="__main__", alter_sys=True)
"""


class Command:
    """`python -m launch.pretrain` with RUN in a folder."""

    def __init__(self, program: Program, cache_dir: Path):
        self._program, self._cache_dir = program, cache_dir

    def arguments(self, workdir: Path, changes: dict[str, Any] | None = None) -> list[str]:
        places = {"train.workdir": workdir, "data.cache_dir": self._cache_dir}
        return ["--config", "configs/tiny.py", *as_arguments(RUN | places | (changes or {}))]

    def __call__(self, workdir: Path, *, devices: int = 1, **changes: Any) -> Any:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return self._program("-m", "launch.pretrain", *self.arguments(workdir, named), devices=devices)

    def disturbed(self, workdir: Path, what: str, when: int, **changes: Any) -> Any:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return self._program("-c", textwrap.dedent(DISTURBED), what, when, *self.arguments(workdir, named))


@pytest.fixture(scope="module")
def command(program: Program, cache_dir: Path) -> Command:
    return Command(program, cache_dir)


@pytest.fixture(scope="module")
def undisturbed(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went through; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = command(folder)
    assert done.returncode == 0, done.stderr
    assert f"{STEPS} steps in " in done.stdout
    assert str(folder) in done.stdout
    return folder


def steps(workdir: Path) -> list[int]:
    """The complete checkpoints."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def computed(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what they say of the machine."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def assert_same_run(workdir: Path, undisturbed: Path) -> None:
    """The same numbers to the last bit: every line of metrics.jsonl, the final parameters, the summary."""
    assert computed(workdir) == computed(undisturbed)
    got, want = (restore_params(folder / "checkpoints") for folder in (workdir, undisturbed))
    assert got.step == want.step == STEPS
    assert {path: np.asarray(x).tobytes() for path, x in got.params.items()} == {
        path: np.asarray(x).tobytes() for path, x in want.params.items()
    }
    summaries = [json.loads((folder / "summary.json").read_text()) | {"seconds": 0} for folder in (workdir, undisturbed)]
    assert summaries[0] == summaries[1]


def assert_one_message(done: Any, *parts: str) -> None:
    """It failed with one message that has these parts, and no traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


@pytest.mark.slow
def test_a_run_leaves_its_numbers_pictures_and_settings(undisturbed: Path) -> None:
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if row["split"] == "eval"] == [4, 8, 12]
    assert all(math.isfinite(value) for row in rows for name, value in row.items() if name != "split")
    assert rows[-1]["loss"] < rows[4]["loss"]  # held out, after 12 and after 4 steps
    assert steps(undisturbed) == [6, 9, 12]
    for name in ("reconstructions_0000012.png", "loss_curves.png"):
        with Image.open(undisturbed / "pictures" / name) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 100
    board = b"".join(path.read_bytes() for path in (undisturbed / "tensorboard").glob("events.*"))
    assert (undisturbed / "pictures/reconstructions_0000012.png").read_bytes() in board
    for name in (b"train/pairs_per_second", b"train/epoch", b"train/seconds", b"train/peak_host_gib", b"eval/loss"):
        assert name in board
    (start,) = json.loads((undisturbed / "environment.json").read_text())["starts"]
    assert "-m launch.pretrain --config configs/tiny.py" in start["command"]
    log = (undisturbed / "log.txt").read_text()
    for step, row in ((row["step"], row) for row in rows if row["split"] == "eval"):
        assert f"step {step} of {STEPS}, epoch {step / 6:.2f}, held out: loss {row['loss']:.4g}" in log
    settings = json.loads((undisturbed / "config.json").read_text())
    assert (settings["model"]["width"], settings["train"]["steps"]) == (32, STEPS)
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["held_out"]["loss"] == rows[-1]["loss"]
    assert summary["retrieval"]["clips"] == 16
    assert 0 <= summary["retrieval"]["audio_to_image_r1"] <= summary["retrieval"]["audio_to_image_r10"] <= 1


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_and_while_saving_is_the_same_to_the_last_bit(
    command: Command, undisturbed: Path, tmp_path: Path
) -> None:
    when = int(np.random.default_rng(20).integers(3, 9))
    assert command.disturbed(tmp_path, "SIGKILL", when).returncode == -9
    assert steps(tmp_path) in ([3, 6], [3], [])
    assert command.disturbed(tmp_path, "kill saving", 9).returncode == -9
    assert 6 in steps(tmp_path)
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed from step" in done.stderr
    assert_same_run(tmp_path, undisturbed)
    assert steps(tmp_path) == [6, 9, 12]
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if not path.name.isdecimal()]


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_and_then_stopped_is_the_same_to_the_last_bit(
    command: Command, undisturbed: Path, tmp_path: Path
) -> None:
    assert command.disturbed(tmp_path, "SIGKILL", 2).returncode == -9
    assert steps(tmp_path) == []
    when = int(np.random.default_rng(21).integers(3, 11))
    stopped = command.disturbed(tmp_path, "SIGTERM", when)
    assert stopped.returncode == 0, stopped.stderr
    assert steps(tmp_path)[-1] in (when, when + 1)
    assert f"stopped by SIGTERM after step {steps(tmp_path)[-1]}, which is saved" in stopped.stderr
    assert not (tmp_path / "summary.json").exists()
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed from step" in done.stderr
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_ctrl_c_saves_and_a_second_one_stops_at_once(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    twice = command.disturbed(tmp_path, "Ctrl-C twice", 2)
    assert twice.returncode == -signal.SIGINT, twice.stderr
    assert steps(tmp_path) == []
    once = command.disturbed(tmp_path, "Ctrl-C", 4)
    assert once.returncode == 0, once.stderr
    stopped = steps(tmp_path)[-1]
    assert stopped in (4, 5)
    assert f"stopped by Ctrl-C after step {stopped}" in once.stderr
    done = command(tmp_path, train__checkpoint_minutes=1e-9)  # from within an epoch, and saving after every step
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in twice.stderr + once.stderr + done.stderr
    assert_same_run(tmp_path, undisturbed)
    assert steps(tmp_path) == [10, 11, 12]
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 0, stopped]
    log = (tmp_path / "log.txt").read_text()
    assert log.count("started: ") == 3
    assert log.count("stopped by Ctrl-C") == 1


@pytest.mark.slow
def test_ctrl_c_does_not_reach_the_reader_processes(command: Command, tmp_path: Path) -> None:
    stopped = command.disturbed(tmp_path, "Ctrl-C", 2, data__workers=1)
    assert stopped.returncode == 0, stopped.stderr
    assert "KeyboardInterrupt" not in stopped.stderr
    assert steps(tmp_path)[-1] in (2, 3)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_costs_one_checkpoint(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    full = command.disturbed(tmp_path, "fill disk", 6)
    assert_one_message(
        full, f"{tmp_path}/checkpoints: saving step 6 failed", "the newest complete checkpoint is step 3, untouched. Free space"
    )
    assert len(full.stderr.splitlines()) < 30  # Orbax has pages to say
    assert steps(tmp_path) == [3]
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed from step 3" in done.stderr
    assert_same_run(tmp_path, undisturbed)


def test_a_run_can_start_from_the_weights_of_another(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    done = command(tmp_path, init_from=undisturbed, train__steps=1, optim__learning_rate=0.0)
    assert done.returncode == 0, done.stderr
    assert f"weights from {undisturbed}" in done.stderr
    got, want = (restore_params(folder / "checkpoints").params for folder in (tmp_path, undisturbed))
    assert {path: np.asarray(x).tobytes() for path, x in got.items()} == {path: np.asarray(x).tobytes() for path, x in want.items()}
    wrong = command(tmp_path / "wrong", init_from=undisturbed, model__depth=3)
    assert_one_message(wrong, str(undisturbed), "missing: encoder.audio.blocks.1.attn.qkv.kernel")


@pytest.mark.slow
def test_a_finished_run_is_reported_again_and_takes_no_other_config(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    done = command(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "step 1 of" not in done.stderr
    assert f"{STEPS} steps in " in done.stdout
    assert_same_run(tmp_path / "run", undisturbed)
    files = {path: path.read_bytes() for name in ("metrics.jsonl", "config.json") for path in [tmp_path / "run" / name]}
    refused = command(tmp_path / "run", optim__learning_rate=1e-3, model__depth=3)
    assert_one_message(refused, "model.depth: 2 in the checkpoint, 3 now", "train.workdir")
    assert all(path.read_bytes() == content for path, content in files.items())


def test_a_loss_that_explodes_ends_the_run_naming_step_and_clips(command: Command, tmp_path: Path) -> None:
    done = command(tmp_path, optim__learning_rate=1e30)
    assert_one_message(done, "NonFiniteLossError: the ", " of step 2 is ", "last good checkpoint: none yet", "optim.learning_rate")
    named = done.stderr.split("clips of that batch: ")[1].splitlines()[0].split(", ")
    assert len(named) == TINY["train.batch_size"]
    assert all(name.startswith("builtin/train/") for name in named)
    assert steps(tmp_path) == []


@pytest.mark.slow
def test_a_run_goes_on_on_several_devices_with_pictures_and_retrieval(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/12")
    (tmp_path / "run/pictures/reconstructions_0000012.png").unlink()
    done = command(tmp_path / "run", devices=4, mesh__data=-1, mesh__fsdp=2)
    assert done.returncode == 0, done.stderr
    assert "CPU, 4 device(s)" in done.stderr
    assert "resumed from step 9" in done.stderr
    assert (tmp_path / "run/pictures/reconstructions_0000012.png").exists()
    rows, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (tmp_path / "run", undisturbed)
    )
    assert [(row["step"], row["split"]) for row in rows] == [(row["step"], row["split"]) for row in expected]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-5)
    summaries = [json.loads((folder / "summary.json").read_text())["retrieval"] for folder in (tmp_path / "run", undisturbed)]
    assert summaries[0].keys() == summaries[1].keys()
    assert summaries[0]["clips"] == 16


@pytest.mark.slow
def test_a_folder_of_videos_is_prepared_and_trained_on(command: Command, program: Program, tmp_path: Path) -> None:
    for number in range(10):
        write_clip(tmp_path / f"videos/{'ab'[number % 2]}/{number}.mp4", 0.7, first=number, hertz=200 + 50 * number)
    out = tmp_path / "clips"
    sizes = ["--clip_seconds=0.64", "--frame_size=32", "--workers=0", "--test_pattern=[89].mp4"]
    prepared = program("-m", "launch.prepare", "--videos", tmp_path / "videos", "--out", out, *sizes)
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    source = {"data__source": "prepared", "data__path": out, "train__steps": 2, "train__batch_size": 4}
    done = command(tmp_path / "run", **source)
    assert done.returncode == 0, done.stderr
    assert "8 training clips, 2 held out" in done.stderr
    assert "generating" not in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in rows] == [(1, "train"), (2, "train"), (2, "eval")]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert json.loads((tmp_path / "run/summary.json").read_text())["retrieval"]["clips"] == 2


@pytest.mark.slow
def test_a_manifest_is_trained_on_with_reader_processes(command: Command, tmp_path: Path) -> None:
    entries = []
    for number in range(6):
        write_media(tmp_path / f"{number}.wav", sound=tone(200 + 50 * number, 0.7), audio_codec="pcm_s16le")
        for frame in range(10):
            picture = tmp_path / f"frames/frame_{frame}/{number}.jpg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 32), (40 * number, 20 * frame, 0)).save(picture)
        entries.append({"video_id": str(number), "wav": f"{number}.wav", "video_path": "frames", "labels": "/m/1"})
    (tmp_path / "train.json").write_text(json.dumps({"data": entries}))
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,/m/1,Speech\n")
    source = {"data__source": "manifest", "data__path": tmp_path / "train.json", "data__labels_csv": tmp_path / "labels.csv"}
    done = command(tmp_path / "run", **source, data__workers=2, train__steps=2, train__batch_size=4)
    assert done.returncode == 0, done.stderr
    assert "data.eval_path is empty" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in rows] == [(1, "train"), (2, "train")]
    assert json.loads((tmp_path / "run/summary.json").read_text()) | {"seconds": 0} == {
        "steps": 2, "seconds": 0, "held_out": {}, "retrieval": {},
    }  # fmt: skip


def test_a_mesh_that_does_not_fit_the_devices_is_one_clear_line(program: Program, tmp_path: Path) -> None:
    arguments = ["--config=configs/tiny.py", "--config.mesh.data=4", f"--config.train.workdir={tmp_path / 'run'}"]
    assert_one_message(program("-m", "launch.pretrain", *arguments), "mesh is data=4, fsdp=1, tensor=1")


def occupied(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run/thesis.txt").write_text("all I have")
    return folder / "run"


def claim(config: Config) -> None:
    with run.claimed(config):
        pass


def in_the_way(folder: Path) -> Path:
    (folder / "run").write_text("a file")
    return folder / "run"


def below_a_file(folder: Path) -> Path:
    return in_the_way(folder) / "deeper"


@pytest.mark.parametrize(("place", "reason"), [(occupied, "holds no run"), (in_the_way, "File exists"), (below_a_file, "Not a directory")])
def test_a_folder_that_cannot_be_taken_is_refused(tmp_path: Path, place: Callable[[Path], Path], reason: str) -> None:
    workdir = place(tmp_path)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=rf"train\.workdir {workdir}.*{reason}"):
        claim(apply(Config(), {"train.workdir": str(workdir)}))
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_the_noted_config_is_that_of_the_checkpoints(tmp_path: Path) -> None:
    def noted(seed: int) -> int:
        claim(apply(Config(), {"train.workdir": str(tmp_path / "run"), "train.seed": seed}))
        return json.loads((tmp_path / "run/config.json").read_text())["train"]["seed"]

    assert [noted(1), noted(2)] == [1, 2]  # nothing has been saved with seed 1
    (tmp_path / "run/checkpoints/3").mkdir(parents=True)
    assert noted(3) == 2  # and 3 will be refused


def picked(config: Config, before: int = 0) -> int:
    task = PretrainingTask(config, None, Path("unused"))
    return run.pick_micro_batch(config, task, before)


@pytest.mark.parametrize(("batch", "micro", "mesh"), [(7, 0, 2), (8, 3, 1), (8, 16, 1), (8, 1, 2), (0, 0, 1), (8, -2, 1)])
def test_a_batch_that_does_not_divide_names_the_fields(monkeypatch: pytest.MonkeyPatch, batch: int, micro: int, mesh: int) -> None:
    monkeypatch.setattr(
        "avmae_jax.train.loop.sharding.make_mesh", lambda config: jax.sharding.AbstractMesh((mesh, 1, 1), ("data", "fsdp", "tensor"))
    )
    config = apply(Config(), TINY | {"train.batch_size": batch, "train.micro_batch": micro})
    with pytest.raises(ValueError, match=rf"train\.batch_size (is )?{batch}.*mesh"):
        picked(config)


def test_a_step_that_has_to_be_split_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="absl"):
        assert picked(apply(Config(), TINY | {"train.micro_batch": 2})) == 2
    assert "a step of 8 pairs is computed as 4 micro-batches of 2" in caplog.text
    assert picked(apply(Config(), TINY)) == 8


@pytest.mark.parametrize(("before", "micro", "mesh", "expected"), [(4, 0, 1, 4), (4, 2, 1, 2), (1, 0, 2, 8), (0, 0, 1, 8)])
def test_a_resumed_run_keeps_its_micro_batch_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, before: int, micro: int, mesh: int, expected: int
) -> None:
    monkeypatch.setattr(
        "avmae_jax.train.loop.sharding.make_mesh", lambda config: jax.sharding.AbstractMesh((mesh, 1, 1), ("data", "fsdp", "tensor"))
    )
    assert picked(apply(Config(), TINY | {"train.micro_batch": micro}), before) == expected


class Labelled(Clips):
    """Clips of three classes, drawn evenly."""

    label_names: Sequence[str] = "abc"

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=(index % 3,))


@pytest.mark.parametrize("name", shipped_names())
@pytest.mark.slow
def test_every_recipe_has_losses_of_its_own_sizes(name: str, tmp_path: Path) -> None:
    """Nothing that the recipe sets is replaced but the batch size: tracing costs no arithmetic, whatever the model's size."""
    config, clips = shipped(name), Labelled(2)
    task = run.make_task(config, clips, None, tmp_path)
    model = nnx.eval_shape(lambda: registry.build(config.model, len(task.label_names), rngs=nnx.Rngs(0)))
    graph, params, frozen = nnx.split(model, task.trainable(), ...)
    weights = np.ones(len(clips)) if config.augment.balanced else None
    options = TrainOptions(config.augment, len(task.label_names), weights, task.needs)
    with closing(TrainBatches(clips, config.model, config.data, 2, config.train.seed, options)) as batches:
        batch = {field: jnp.asarray(value) for field, value in next(batches).items() if field != "id"}
    total, metrics = jax.eval_shape(
        lambda params, frozen, key: make_loss(graph, task)(params, frozen, batch, Context(key, 1, {})), params, frozen, jax.random.key(0)
    )
    assert total.shape == ()
    assert task.loss_weights.keys() <= metrics.keys()
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 500
