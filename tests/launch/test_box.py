"""The model in the box: how it is made anew, and that it is good."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import avmae_jax as av
import launch.box
import launch.calibrate
import launch.convert
import launch.predict
from avmae_jax.config_files import shipped
from avmae_jax.data.clip import Clip
from avmae_jax.data.decode.images import decode_image
from avmae_jax.data.instruments import INSTRUMENTS, make_clip
from avmae_jax.models import registry
from avmae_jax.trees import flatten
from avmae_jax.weights import box
from avmae_jax.weights.init_from import initialise_from
from avmae_jax.weights.io import read
from tests.media import write_clip
from tests.support import TINY, completed

RECIPE = """
from avmae_jax.config_files import shipped

def get_config():
    config = shipped({base!r})
    for name, value in {changes!r}.items():
        setattr(config.holder(name), name.rpartition(".")[2], value)
    return config
"""


@pytest.mark.slow
def test_a_classifier_is_made_anew(tmp_path: Path) -> None:
    for name in ("drums", "flute", "tuba"):
        for number in range(4):
            write_clip(tmp_path / f"clips/{name}/{number}.mp4", 1.0, hertz=300 + 50 * number)
    small = {name: value for name, value in TINY.items() if name.startswith("model.")} | {"mesh.data": 1, "train.batch_size": 4}
    stages = {"pretrain": {"train.steps": 2}, "finetune": {"train.epochs": 2, "tune.average_first": 1, "tune.average_last": 2}}
    stages["finetune"] |= {"train.eval_every": 0, "tune.eval_crops": 2, "optim.decay_start": 1}
    for stage, changes in stages.items():
        text = RECIPE.format(base=f"{stage}_instruments", changes=small | changes)
        (tmp_path / f"{stage}.py").write_text(text)
    options = [f"--videos={tmp_path}/clips", r"--test_pattern=/3\.mp4$", "--generated=2", "--name=three", "--about=Tones."]
    options += [f"--{stage}_config={tmp_path}/{stage}.py" for stage in stages]
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        done = completed(launch.box, *options, f"--out={tmp_path}/out", f"--workdir={tmp_path}/work")
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(found) == {"three.safetensors", "three.json", "three.md"}
    card = json.loads(found["three.json"])
    assert (card["clips"], card["generated"], card["held_out"], set(card["figures"])) == (12, 4, 3, {"both", "audio", "image"})
    assert len(read(tmp_path / "out/three.safetensors").notes.calibration.modes) == 3  # pyright: ignore[reportOptionalMemberAccess]
    assert av.load(tmp_path / "out/three.safetensors").label_names == ("drums", "flute", "tuba")


def unseen(count: int) -> list[tuple[str, Clip]]:
    """Returns generated clips of those classes that the model in the box has too, of another seed and split than it was trained on."""
    labels = {name.removesuffix("s") for name in box.card_of(box.DEFAULT).label_names}
    known = [number for number, name in enumerate(INSTRUMENTS) if name in labels]
    indices = [turn * len(INSTRUMENTS) + number for turn in range(count) for number in known]
    return [(INSTRUMENTS[index % len(INSTRUMENTS)], make_clip("test", index, seed=7)) for index in indices]


@pytest.mark.slow
def test_it_names_unseen_generated_clips_far_above_chance() -> None:
    model = av.load(box.DEFAULT)
    clips = unseen(3)
    assert len(clips) == 30
    right = 0
    for name, clip in clips:
        image = decode_image(clip.frames[5], 224)
        right += model.predict(audio=np.asarray(clip.waveform), image=image).top[0][0].removesuffix("s") == name
    assert right >= 15  # guessing: 2.5


def test_it_answers_where_no_model_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 1.0)
    done = completed(launch.predict, tmp_path / "clip.mp4")
    assert done.returncode == 0, done.stderr
    first, card = done.stdout.splitlines()[0], box.card_of(box.DEFAULT)
    assert box.DEFAULT in first
    assert f"{card.figures['both'].accuracy:.0%} of {card.held_out}" in first
    done = completed(launch.predict, tmp_path / "clip.mp4", "--json=-")
    assert json.loads(done.stdout)["model"] == box.DEFAULT
    assert box.DEFAULT in done.stderr


def test_its_card_is_of_its_weights() -> None:
    card, weights = box.card_of(box.DEFAULT), read(box.DEFAULT)
    assert (card.kind, tuple(card.label_names)) == (weights.config.kind, weights.notes.label_names)
    assert weights.notes.calibration is not None
    assert box.located(box.DEFAULT).stat().st_size <= 4e6
    assert card.text(1).startswith(f"# {card.name}")
    assert box.located(f"./{box.DEFAULT}") == Path(box.DEFAULT)


def test_it_is_copied_but_not_calibrated_in_its_place(tmp_path: Path) -> None:
    assert completed(launch.calibrate, box.DEFAULT).returncode == 1
    assert completed(launch.convert, box.DEFAULT, tmp_path / "copy.safetensors").returncode == 0
    ours, copy = read(box.DEFAULT), read(tmp_path / "copy.safetensors")
    assert ours.notes == copy.notes
    assert all((copy.params[name] == value).all() for name, value in ours.params.items())


def test_a_run_starts_from_it() -> None:
    config = shipped("finetune_instruments").model
    model = registry.build(config, 3, rngs=nnx.Rngs(0))
    initialise_from(config, model, box.DEFAULT)
    ours, theirs = flatten(nnx.state(model, nnx.Param)), read(box.DEFAULT).params
    assert all((np.asarray(value) == theirs[name]).all() for name, value in ours.items() if name.startswith("encoder."))
