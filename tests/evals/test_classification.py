"""What is measured of a classifier, by hand on a few clips, and what one view writes."""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.config import Config, Modality, ModelConfig, TuneConfig
from avmae_jax.data.batches import Frames
from avmae_jax.data.clip import Clip
from avmae_jax.evals import metrics
from avmae_jax.evals.classification import PICTURES, classifier_of, evaluate_into, evaluate_views, label_names_for, plain
from avmae_jax.evals.scores import clip_losses, measure
from avmae_jax.files import write_json
from avmae_jax.inference.forward import Classify, Scores
from avmae_jax.models.classifier import Mode
from avmae_jax.plots import classification
from avmae_jax.weights import io
from avmae_jax.weights.build import Model
from avmae_jax.weights.trained import Trained
from tests.support import ODD, Clips, made

pytestmark = pytest.mark.usefixtures("unpolished")

NAMES = ("harp", "oboe", "horn")
ONE_EACH = Scores(
    ["a", "b", "c", "d"],
    np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1]], np.float32),
    np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], np.float32),
)


class Labelled(Clips):
    """Clip n has class n % 2; nobody has the third."""

    label_names: Sequence[str] = NAMES

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=(index % 2,))


class Several(Labelled):
    """Clip n has class n % 2, and the second the first class too."""

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=(0, 1) if index == 1 else (index % 2,))


class Damaged(Labelled):
    """In place of clips 1 and 4, the last, the next ones stand, as data/store/reader.py's Tolerant has it."""

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__({1: 2, 4: 0}.get(index, index))


class Torn(Labelled):
    """Pictures that can't be decoded."""

    def __getitem__(self, index: int) -> Clip:
        clip = super().__getitem__(index)
        return clip._replace(frames=tuple(frame[: len(frame) // 2] for frame in clip.frames))


@functools.cache
def model_of(classes: int, modality: Modality = "both") -> Model:
    return io.made(made(dataclasses.replace(ODD, modality=modality), classes))


def trained(classes: int = 3, names: tuple[str, ...] = NAMES, **tune: Any) -> Trained:
    config = Config(model=ODD, tune=TuneConfig(**{"loss": "ce", **tune}))
    return Trained("runs/it", model_of(classes), config, classes, names if classes else (), 480)


def test_figures_are_those_computed_by_hand() -> None:
    found = measure(ONE_EACH, NAMES, "ce")
    harp, oboe, horn = found.per_class
    # by its score of "harp": d (not), a, b, c (not); by "oboe": c, b (not), a (not), d
    assert harp.average_precision == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert oboe.average_precision == pytest.approx((1 + 2 / 4) / 2)
    assert (harp.auc, oboe.auc) == (0.5, 0.5)
    assert (harp.recall, harp.precision) == (1.0, pytest.approx(2 / 3))
    assert (oboe.recall, oboe.precision) == (0.5, 1.0)
    assert (harp.positives, horn.positives) == (2, 0)
    assert all(math.isnan(value) for value in (horn.average_precision, horn.auc, horn.d_prime, horn.recall, horn.precision))
    assert found.map == pytest.approx((harp.average_precision + oboe.average_precision) / 2)
    assert (found.auc, found.d_prime, found.accuracy, found.top_5_accuracy) == (0.5, 0.0, 0.75, None)
    assert (found.clips, found.no_positive) == (4, ("horn",))
    assert found.loss == pytest.approx(-np.log([0.7, 0.5, 0.7, 0.1]).mean())
    assert found.confusion is not None
    assert found.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]


@settings(deadline=None, max_examples=20)
@given(clips=st.integers(2, 40), seed=st.integers(0, 99))
def test_recall_precision_and_accuracy_are_sums_of_the_confusion_matrix(clips: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = Scores([str(n) for n in range(clips)], rng.random((clips, 7)), np.eye(7)[rng.integers(0, 7, clips)])
    found = measure(scores, [f"c{n}" for n in range(7)], "bce")
    matrix, rows = found.confusion, found.per_class
    assert matrix is not None
    assert found.accuracy == pytest.approx(np.trace(matrix) / clips)
    assert found.accuracy is not None
    assert found.top_5_accuracy is not None
    assert found.accuracy <= found.top_5_accuracy <= 1
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose([row.recall for row in rows], np.diag(matrix) / matrix.sum(axis=1))
        np.testing.assert_allclose([row.precision for row in rows], np.diag(matrix) / matrix.sum(axis=0))
    assert [row.positives for row in rows] == matrix.sum(axis=1).tolist()
    assert found.map == pytest.approx(np.nanmean(metrics.average_precision(scores.probabilities, scores.targets)))


def test_top_5_is_among_the_five_likeliest() -> None:
    given = np.tile(np.linspace(1, 0, 6), (6, 1))
    found = measure(Scores(list("abcdef"), given, np.eye(6)), list("ABCDEF"), "bce")
    assert (found.accuracy, found.top_5_accuracy) == (pytest.approx(1 / 6), pytest.approx(5 / 6))


def test_clips_of_several_classes_have_no_accuracy() -> None:
    several = ONE_EACH._replace(targets=np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32))
    found = measure(several, NAMES, "bce")
    assert (found.accuracy, found.top_5_accuracy, found.confusion) == (None, None, None)
    assert (found.per_class[0].recall, found.per_class[0].precision) == (1.0, pytest.approx(2 / 3))


def test_a_class_that_every_clip_has_has_no_auc() -> None:
    found = measure(Scores(["a", "b"], np.array([[0.5, 0.5], [0.6, 0.4]]), np.array([[1, 0], [1, 0]])), ["A", "B"], "bce")
    assert (found.map, found.no_positive, found.no_negative) == (1.0, ("B",), ("A",))
    assert math.isnan(found.auc)
    assert math.isnan(found.d_prime)


def test_clips_without_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the 4 clips has a class"):
        measure(ONE_EACH._replace(targets=np.zeros((4, 3), np.float32)), NAMES, "ce")


def test_losses_are_their_formulas() -> None:
    np.testing.assert_allclose(clip_losses(ONE_EACH, "ce"), -np.log([0.7, 0.5, 0.7, 0.1]), rtol=1e-6)
    assert clip_losses(ONE_EACH, "bce")[0] == pytest.approx(-np.log([0.7, 0.8, 0.9]).mean())


def test_names_are_the_models_or_for_want_of_them_the_datas() -> None:
    assert label_names_for(trained(), Labelled(1)) == NAMES
    assert label_names_for(trained(names=("class 0", "class 1", "class 2")), Labelled(1)) == NAMES


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (2, ("harp", "oboe"), "has 2 classes and the clips have 3"),
        (3, ("harp", "oboe", "tuba"), "class 2 is 'tuba' in runs/it and 'horn' in the data; give"),
        (3, ("harp", "horn", "oboe"), "class 1 is 'horn' .* they are the same in another order"),
    ],
)
def test_other_classes_than_the_datas_are_refused(classes: int, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_names_for(trained(classes, names), Labelled(1))


def test_what_is_no_classifier_or_has_no_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runs/it is a pretraining model, not CAV-MAE's classifier; give a run of launch.finetune"):
        classifier_of(trained(0))
    ast = Trained("runs/ast", model_of(3, "audio"), Config(model=ModelConfig(modality="audio")), 3, NAMES)
    with pytest.raises(ValueError, match="runs/ast is a classifier of audio alone"):
        classifier_of(ast)
    with pytest.raises(ValueError, match="the clips have no classes"):
        label_names_for(trained(), Clips(1))


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no clip to classify"):
        evaluate_into(tmp_path / "out", trained(), Labelled(0))
    assert not (tmp_path / "out").exists()


def test_a_view_is_written_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    model, source = trained(), Labelled(5)
    found = evaluate_into(tmp_path / "out", model, source, batch_size=5, data="sets/it", split="test")
    assert found == json.loads((tmp_path / "out/evaluation.json").read_text())
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
    scores = Classify(model.config, 3, batch_size=5)(classifier_of(model), source)
    assert found["map"] == pytest.approx(measure(scores, NAMES, "ce").map)
    assert np.array(found["confusion"]).sum() == 5
    for number, (row, said) in enumerate(zip(found["per_clip"], scores.probabilities, strict=True)):
        assert (row["id"], row["classes"]) == (f"clip{number}", [NAMES[number % 2]])
        assert row["probabilities"] == [pytest.approx(said[number % 2])]
        assert (row["top"], row["top_probability"]) == (NAMES[said.argmax()], pytest.approx(said.max()))
    assert {"jax", "numpy", "avmae-jax"} <= set(found["versions"])
    for name in ("confusion", "precision_recall", "mistakes"):
        with Image.open(tmp_path / f"out/{name}.png") as picture:
            assert picture.width == 1400


def test_several_classes_a_clip_have_no_confusion_matrix(tmp_path: Path) -> None:
    (tmp_path / "confusion.png").write_bytes(b"of an earlier evaluation")
    found = evaluate_into(tmp_path, trained(loss="bce"), Several(5), batch_size=5)
    assert (found["accuracy"], found["confusion"]) == (None, None)
    assert not (tmp_path / "confusion.png").exists()


def test_damaged_clips_are_counted_and_none_counts_twice(tmp_path: Path) -> None:
    found = evaluate_into(tmp_path, trained(), Damaged(5), batch_size=5)
    assert (found["ids"], found["damaged_clips"], found["clips"]) == (["clip0", "clip2", "clip3"], 2, 3)


def test_torn_pictures_cost_no_numbers(tmp_path: Path) -> None:
    found = evaluate_into(tmp_path, trained(), Torn(3), mode="audioonly", batch_size=5)
    assert found == json.loads((tmp_path / "evaluation.json").read_text())
    assert (tmp_path / "mistakes.png").exists()


def test_numbers_are_written_before_pictures_and_earlier_pictures_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("v/evaluation.json", *(f"v/{name}" for name in PICTURES)):
        write_json(tmp_path / name, {"of": "an earlier evaluation"})

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(classification, "precision_recall", fail)
    with pytest.raises(OSError, match="no space left"):
        evaluate_into(tmp_path / "v", trained(), Labelled(2), batch_size=5)
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["evaluation.json"]
    assert json.loads((tmp_path / "v/evaluation.json").read_text())["clips"] == 2


def test_a_failure_leaves_the_views_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "evaluation.json", {"views": [{"view": "videoonly_all"}]})
    draw, drawn = classification.mistakes, list[Path]()

    def fail_at_the_second(path: Path, *arguments: Any, **named: Any) -> None:
        drawn.append(path)
        if len(drawn) == 2:
            raise OSError("no space left")
        draw(path, *arguments, **named)

    monkeypatch.setattr(classification, "mistakes", fail_at_the_second)
    with pytest.raises(OSError, match="no space left"):
        evaluate_views(tmp_path, trained(), Labelled(2), ["audioonly", "videoonly"], ["first", "middle"], batch_size=5, data="sets/it")
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [view["view"] for view in found["views"]] == ["audioonly_first", "videoonly_first"]
    assert (found["lacking"], found["model"], found["step"], found["data"]) == (["videoonly_middle"], "runs/it", 480, "sets/it")


def test_frames_and_modes_are_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames differ in colour, so the first, the middle and all of them give other probabilities; a sound alone doesn't look at them."""
    for picture in ("confusion", "precision_recall", "mistakes"):
        monkeypatch.setattr(classification, picture, lambda *arguments, heading: None)

    def losses(mode: Mode, *frames: Frames) -> list[float]:
        return [evaluate_into(tmp_path, trained(), Labelled(2), mode=mode, frames=one, batch_size=5)["loss"] for one in frames]

    assert len({*losses("multimodal", "first", "middle", "all")}) == 3
    assert len({*losses("missingaudioonly", "first", "all")}) == 1


def test_what_is_not_finite_is_null() -> None:
    assert plain({"a": (1.0, math.nan), "b": [math.inf, "x", None, 3]}) == {"a": [1.0, None], "b": [None, "x", None, 3]}


def test_json_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a/b.json", {"x": math.nan})
    assert not list(tmp_path.iterdir())
