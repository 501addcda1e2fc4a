"""Evaluations of a classifier: what one view and several views write, and what is refused."""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avmae_jax.config import AppliedConfig, Frames, Modality, TuneConfig
from avmae_jax.data.clip import Clip
from avmae_jax.evals.classification import PLOTS, evaluate_into, evaluate_views
from avmae_jax.evals.origin import Origin
from avmae_jax.evals.scores import evaluate_scores
from avmae_jax.evals.views import View, require_classifier, views_of
from avmae_jax.files import plain, write_json
from avmae_jax.inference.forward import Classify
from avmae_jax.models.modes import MULTIMODAL, Mode, find_mode
from avmae_jax.models.registry import Model
from avmae_jax.plots import classification
from avmae_jax.plots.canvas import DENSITY, WIDTH
from avmae_jax.weights import io
from avmae_jax.weights.trained import Trained
from tests.support import ODD, Clips, made

NAMES = ("harp", "oboe", "horn")


class Labelled(Clips):
    """Gives clip n the class n % 2; no clip has the third class."""

    label_names: Sequence[str] = NAMES

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=(index % 2,))


class Several(Labelled):
    """Gives clip n the class n % 2, and the second clip the first class too."""

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=(0, 1) if index == 1 else (index % 2,))


class Damaged(Labelled):
    """Returns the next clip in place of clips 1 and 4, which is the last, as data/store/reader.py's Tolerant does."""

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__({1: 2, 4: 0}.get(index, index))


class Torn(Labelled):
    """Frames that can't be decoded."""

    def __getitem__(self, index: int) -> Clip:
        clip = super().__getitem__(index)
        return clip._replace(frames=tuple(frame[: len(frame) // 2] for frame in clip.frames))


@functools.cache
def model_of(classes: int, modality: Modality = "both") -> Model:
    return io.made(made(dataclasses.replace(ODD, modality=modality), classes))


def trained(classes: int = 3, names: tuple[str, ...] = NAMES, **tune: Any) -> Trained:
    config = AppliedConfig(
        model=dataclasses.replace(ODD, kind="cavmae_classifier" if classes else "cavmae"), tune=TuneConfig(**{"loss": "ce", **tune})
    )
    return Trained("runs/it", model_of(classes), config, classes, names if classes else (), 480)


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runs/it .*launch.finetune"):
        require_classifier(trained(0))


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip"):
        evaluate_into(tmp_path / "out", trained(), Labelled(0))
    assert not (tmp_path / "out").exists()


def test_a_view_is_written_with_its_plots(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    model, source = trained(), Labelled(5)
    found = evaluate_into(tmp_path / "out", model, source, origin=Origin("sets/it", "test"), batch_size=5)
    assert found == json.loads((tmp_path / "out/evaluation.json").read_text())
    assert all(part in found["warning"] for part in ("3 of 3", "harp (3)", "oboe (2)", "horn (0)"))
    head = {name: found[name] for name in ("model", "step", "data", "split", "mode", "frames", "crops", "clips", "ids")}
    assert head == {
        "model": "runs/it",
        "step": 480,
        "data": "sets/it",
        "split": "test",
        "mode": "multimodal",
        "frames": "middle",
        "crops": 1,
        "clips": 5,
        "ids": [f"clip{n}" for n in range(5)],
    }
    assert (found["classes_left_out"], found["no_positive"], found["damaged_clips"]) == (1, ["horn"], 0)
    assert [row["name"] for row in found["per_class"]] == found["label_names"] == list(NAMES)
    assert found["per_class"][2]["average_precision"] is None
    scores = Classify(model.config, 3, require_classifier(model), batch_size=5)(model.module, source)
    assert found["map"] == pytest.approx(evaluate_scores(scores, NAMES, "ce").map)
    assert np.array(found["confusion"]).sum() == 5
    for number, (row, probabilities) in enumerate(zip(found["per_clip"], scores.probabilities, strict=True)):
        assert (row["id"], row["classes"]) == (f"clip{number}", [NAMES[number % 2]])
        assert row["probabilities"] == [pytest.approx(probabilities[number % 2])]
        assert (row["top"], row["top_probability"]) == (NAMES[probabilities.argmax()], pytest.approx(probabilities.max()))
    assert {"jax", "numpy", "avmae-jax"} <= set(found["versions"])
    for name in ("confusion", "precision_recall", "mistakes"):
        with Image.open(tmp_path / f"out/{name}.png") as plot:
            assert plot.width == WIDTH * DENSITY


def test_several_classes_a_clip_have_no_confusion_matrix(tmp_path: Path) -> None:
    (tmp_path / "confusion.png").write_bytes(b"of an earlier evaluation")
    found = evaluate_into(tmp_path, trained(loss="bce"), Several(5), batch_size=5)
    assert (found["accuracy"], found["confusion"]) == (None, None)
    assert not (tmp_path / "confusion.png").exists()


def test_damaged_clips_are_counted_and_none_counts_twice(tmp_path: Path) -> None:
    found = evaluate_into(tmp_path, trained(), Damaged(5), batch_size=5)
    assert (found["ids"], found["damaged_clips"], found["clips"]) == (["clip0", "clip2", "clip3"], 2, 3)


def test_torn_images_cost_no_numbers(tmp_path: Path) -> None:
    found = evaluate_into(tmp_path, trained(), Torn(3), View(find_mode("audioonly")), batch_size=5)
    assert found == json.loads((tmp_path / "evaluation.json").read_text())
    assert (tmp_path / "mistakes.png").exists()


def test_numbers_are_written_before_plots_and_earlier_plots_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("v/evaluation.json", *(f"v/{name}" for name in PLOTS)):
        write_json(tmp_path / name, {"of": "an earlier evaluation"})

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(classification, "precision_recall", fail)
    with pytest.raises(OSError, match="disk"):
        evaluate_into(tmp_path / "v", trained(), Labelled(2), batch_size=5)
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["evaluation.json"]
    assert json.loads((tmp_path / "v/evaluation.json").read_text())["clips"] == 2


def test_a_failure_leaves_the_views_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "evaluation.json", {"views": [{"view": "videoonly_all"}]})
    draw, drawn = classification.mistakes, list[Path]()

    def fail_at_the_second(path: Path, *arguments: Any, **named: Any) -> None:
        drawn.append(path)
        if len(drawn) == 2:
            raise OSError("disk")
        draw(path, *arguments, **named)

    monkeypatch.setattr(classification, "mistakes", fail_at_the_second)
    views = views_of([find_mode("audioonly"), find_mode("videoonly")], ["first", "middle"])
    with pytest.raises(OSError, match="disk"):
        evaluate_views(tmp_path, trained(), Labelled(2), views, Origin("sets/it"), 5)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [view["view"] for view in found["views"]] == ["audioonly_first", "videoonly_first"]
    assert (found["lacking"], found["model"], found["step"], found["data"]) == (["videoonly_middle"], "runs/it", 480, "sets/it")


def test_a_view_without_a_mode_is_named_after_the_tuning(tmp_path: Path) -> None:
    (view,) = evaluate_views(tmp_path, trained(mode="audioonly"), Labelled(2), [View()], batch_size=5)
    assert (view["view"], view["mode"]) == ("audioonly_middle", "audioonly")
    assert (tmp_path / "audioonly_middle/evaluation.json").is_file()


def test_frames_and_modes_decide_what_the_classifier_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames differ in colour, so the first, the middle and all of them give other probabilities; a mode without the image ignores them."""
    for plot in ("confusion", "precision_recall", "mistakes"):
        monkeypatch.setattr(classification, plot, lambda *arguments, heading: None)

    def losses(mode: Mode, *frames: Frames) -> list[float]:
        return [evaluate_into(tmp_path, trained(), Labelled(2), View(mode, one), batch_size=5)["loss"] for one in frames]

    assert len({*losses(MULTIMODAL, "first", "middle", "all")}) == 3
    assert len({*losses(find_mode("missingaudioonly"), "first", "all")}) == 1


def test_what_is_not_finite_is_null() -> None:
    assert plain({"a": (1.0, math.nan), "b": [math.inf, "x", None, 3]}) == {"a": [1.0, None], "b": [None, "x", None, 3]}


def test_json_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a/b.json", {"x": math.nan})
    assert not list(tmp_path.iterdir())
