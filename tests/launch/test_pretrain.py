"""python -m launch.pretrain as a user runs it: from nothing, killed, stopped, out of disk, on real videos, and with wrong arguments."""

import json
import math
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

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
from avmae_jax.train.step import Context, make_loss
from tests.launch.pretraining import STEPS, Command, assert_one_message, steps
from tests.media import tone, write_clip, write_media
from tests.support import TINY, Clips, Program, apply


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
    first = next(row for row in rows if row["split"] == "train")
    assert f"step 1, epoch {first['epoch']:.2f}: loss {first['loss']:.4f}" in log
    assert f'finished: {{"steps": {STEPS}' in log.splitlines()[-1]
    settings = json.loads((undisturbed / "config.json").read_text())
    assert (settings["model"]["width"], settings["train"]["steps"]) == (32, STEPS)
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["held_out"]["loss"] == rows[-1]["loss"]
    assert summary["retrieval"]["clips"] == 16
    assert 0 <= summary["retrieval"]["audio_to_image_r1"] <= summary["retrieval"]["audio_to_image_r10"] <= 1


def test_a_run_can_start_from_the_weights_of_another(command: Command, undisturbed: Path, tmp_path: Path) -> None:
    done = command(tmp_path, init_from=undisturbed, train__steps=1, optim__learning_rate=0.0)
    assert done.returncode == 0, done.stderr
    assert str(undisturbed) in done.stderr
    got, want = (restore_params(folder / "checkpoints").params for folder in (tmp_path, undisturbed))
    assert {path: np.asarray(x).tobytes() for path, x in got.items()} == {path: np.asarray(x).tobytes() for path, x in want.items()}
    wrong = command(tmp_path / "wrong", init_from=undisturbed, model__depth=3)
    assert_one_message(wrong, str(undisturbed), "model.depth is 2", "3")


def test_a_loss_that_explodes_ends_the_run_naming_step_and_clips(command: Command, tmp_path: Path) -> None:
    done = command(tmp_path, optim__learning_rate=1e30)
    assert_one_message(done, "NonFiniteLossError", "step 2 ", "optim.learning_rate")
    assert len(re.findall(r"\bbuiltin/train/", done.stderr)) == TINY["train.batch_size"]
    assert steps(tmp_path) == []


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
    assert re.search(" 8 .* 2 ", done.stderr)
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
    assert "data.eval_path" in done.stderr
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


@pytest.mark.parametrize("place", [occupied, in_the_way, below_a_file])
def test_a_folder_that_cannot_be_taken_is_refused(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    workdir = place(tmp_path)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=rf"train\.workdir {workdir}"):
        claim(apply(Config(), {"train.workdir": str(workdir)}))
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_the_noted_config_is_that_of_the_checkpoints(tmp_path: Path) -> None:
    def noted(seed: int) -> int:
        claim(apply(Config(), {"train.workdir": str(tmp_path / "run"), "train.seed": seed}))
        return json.loads((tmp_path / "run/config.json").read_text())["train"]["seed"]

    assert [noted(1), noted(2)] == [1, 2]  # nothing has been saved with seed 1
    (tmp_path / "run/checkpoints/3").mkdir(parents=True)
    assert noted(3) == 2  # and 3 will be refused


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
    options = TrainOptions(config.augment, len(task.label_names), weights, task.needs, task.pairs)
    with closing(TrainBatches(clips, config.model, config.data, 2, config.train.seed, options)) as batches:
        batch = {field: jnp.asarray(value) for field, value in next(batches).items() if field != "id"}
    total, metrics = jax.eval_shape(
        lambda params, frozen, key: make_loss(graph, task)(params, frozen, batch, Context(key, 1, {})), params, frozen, jax.random.key(0)
    )
    assert total.shape == ()
    assert task.loss_weights.keys() <= metrics.keys()
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 500
