"""Classical baselines: what they find, how folds are dealt, what is refused, and how a model is compared with them."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avmae_jax.data.clip import Clip
from avmae_jax.errors import AvmaeError, DatasetError
from avmae_jax.evals.baselines.baseline import BASELINE, baseline_into, best_for, measure, read_baselines, verdict
from avmae_jax.evals.baselines.classifiers import FOREST, LOGISTIC, NEIGHBOURS, scikit_learn
from avmae_jax.evals.baselines.clip_statistics import COEFFICIENTS, audio_statistics, image_statistics
from avmae_jax.evals.baselines.cross_validation import Chosen, Family, Fit, cross_validated, fold_of_clips, fused
from avmae_jax.evals.baselines.labelled import Labelled, for_fitting, read_labelled, warning_of
from tests.support import Clips

pytest.importorskip("sklearn")
NAMES = ("low", "high", "absent")


class Tones(Clips):
    """Gives clip n a tone whose pitch is that of its class, n % 2."""

    label_names: Sequence[str] = NAMES

    def __init__(self, count: int, first: int = 0, labels: bool = True):
        super().__init__(count)
        self._first, self._labels = first, labels

    def __getitem__(self, index: int) -> Clip:
        number = index + self._first
        clip = super().__getitem__(number)
        wave = np.sin(np.arange(11_200) * (0.1 + 0.5 * (number % 2)) + number) * 8_000 + clip.waveform / 10
        labels = (number % 2,) if self._labels else ()
        return clip._replace(id=f"clip{number}", waveform=wave.astype(np.int16), labels=labels)


def made(targets: np.ndarray, videos: list[str] | None = None, prefix: str = "c", seed: int = 0) -> Labelled:
    """Clips whose features say their classes, with noise."""
    rng = np.random.default_rng(seed)
    noisy = targets @ np.eye(targets.shape[1], 4) + rng.normal(0, 0.1, (len(targets), 4))
    ids = [f"{prefix}{n}" for n in range(len(targets))]
    return Labelled(ids, videos or ids, targets > 0, {"audio": noisy})


def one_of(count: int, classes: int = 3) -> np.ndarray:
    return np.eye(classes)[np.arange(count) % classes]


def skip(*_: int) -> None:
    pass


def test_statistics_are_of_the_whole_clip_and_finite() -> None:
    noise = np.random.default_rng(0).integers(-9_000, 9_000, 16_000).astype(np.int16)
    found = audio_statistics(noise)
    assert found.shape == (3 * COEFFICIENTS,)
    assert np.abs(found - audio_statistics(np.concatenate([noise, noise // 50]))).max() > 1  # the second half counts
    for short in (0, 10, 400):
        assert np.isfinite(audio_statistics(np.zeros(short, np.int16))).all()
    frame = Clips(1)[0].frames[0]
    assert image_statistics(frame).shape == (174,)
    with pytest.raises(ValueError, match="decoded"):
        image_statistics(frame[:40])


def test_folds_keep_videos_together_and_classes_apart() -> None:
    videos = [f"v{n // 3}" for n in range(54)]
    train = made(np.repeat(one_of(18), 3, axis=0), videos)
    folds = fold_of_clips(train, seed=1)
    assert all(len({int(folds[n]) for n in range(54) if videos[n] == video}) == 1 for video in set(videos))
    assert {tuple(train.targets[folds == fold].sum(axis=0)) for fold in range(6)} == {(3, 3, 3)}
    assert (folds != fold_of_clips(train, seed=2)).any()
    assert fold_of_clips(made(one_of(4)), 0).max() == 3


@pytest.mark.parametrize("family", [LOGISTIC, NEIGHBOURS, pytest.param(FOREST, marks=pytest.mark.slow)], ids=lambda family: family.name)
@pytest.mark.parametrize("exclusive", [True, False])
def test_each_classifier_learns_one_class_or_several_a_clip(family: Family, exclusive: bool) -> None:
    rng = np.random.default_rng(3)
    targets = one_of(30) if exclusive else (rng.random((30, 4)) < 0.5) * np.array([1, 1, 1, 0])
    train, held_out = made(targets), made(targets, prefix="h", seed=1)
    found = family.predict(Fit(train.features["audio"], train.targets, held_out.features["audio"], exclusive, 0), family.settings[-1])
    assert ((found > 0.5) == held_out.targets).mean() > 0.9
    assert (found >= 0).all()
    assert (found <= 1).all()
    if exclusive:
        np.testing.assert_allclose(found.sum(axis=1), 1)


def test_the_setting_is_chosen_inside_the_training_clips_and_a_fold_never_sees_itself() -> None:
    seen: list[tuple[int, int]] = []

    def predict(fit: Fit, setting: Any) -> np.ndarray:
        seen.append((len(fit.targets), len(fit.others)))
        assert not {*fit.features[:, 0]} & {*fit.others[:, 0]}
        found = np.zeros((len(fit.others), 3))
        found[np.arange(len(found)), (fit.others[:, 0].astype(int) + int(setting["shift"])) % 3] = 1
        return found

    targets = one_of(12) > 0
    numbers = np.arange(12.0)[:, None]
    family = Family("shifted", ({"shift": 1}, {"shift": 0}, {"shift": 2}), predict)
    folds = fold_of_clips(Labelled([*"abcdefghijkl"], [*"abcdefghijkl"], targets, {}), 0)
    chosen = cross_validated(family, Fit(numbers, targets, numbers + 12, True, 0), folds)
    assert chosen.setting == {"shift": 0}
    np.testing.assert_array_equal(chosen.folds, targets)
    assert sorted(set(seen)) == [(10, 2), (12, 12)]


def test_fusion_takes_the_better_of_two() -> None:
    targets = one_of(6) > 0
    good, bad = np.where(targets, 0.8, 0.1), np.where(np.roll(targets, 1, axis=1), 0.8, 0.1)
    for order, share in (([good, bad], 0.0), ([bad, good], 0.6)):
        found = fused([Chosen({}, part, part) for part in order], targets, exclusive=True)
        assert (found.held_out.argmax(axis=1) == targets.argmax(axis=1)).all()
        assert found.setting["share"] == share
    several = fused([Chosen({}, good, good), Chosen({}, good, good)], targets, exclusive=False)
    np.testing.assert_allclose(several.held_out, good)


def test_rare_and_doubtful_classes_are_named() -> None:
    train = Labelled(["a", "b", "c"], ["a", "b", "c"], np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], bool), {})
    held_out = Labelled(["c", "d"], ["c", "d"], np.array([[0, 0, 1], [1, 0, 0]], bool), {})
    warning = warning_of(train, held_out, ("Harp", "harp ", "oboe"))
    for words in (
        "without a training clip.*oboe",
        "single training clip.*harp",
        "'Harp' and 'harp ' differ in case",
        "1 of the held-out.*c",
    ):
        assert re.search(words, warning), words


@pytest.mark.parametrize(
    ("targets", "message"),
    [(np.array([[1, 0]] * 4), "1 classes"), (np.zeros((4, 2)), "0 training clips"), (np.array([[1, 0]]), "1 training clips")],
)
def test_too_little_to_fit_to_is_refused(targets: np.ndarray, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        for_fitting(made(targets), exclusive=True)


def test_clips_without_classes_are_refused_and_a_broken_one_is_named() -> None:
    with pytest.raises(DatasetError, match="no classes"):
        read_labelled(Clips(2), lambda clip: {}, skip)

    def broken(clip: Clip) -> dict[str, np.ndarray]:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="clip clip0: bad"):
        read_labelled(Tones(2), broken, skip)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(AvmaeError, match=r"avmae-jax\[baseline\]"):
        scikit_learn()


def test_a_single_class_in_a_fold_is_predicted_alone() -> None:
    fit = Fit(np.zeros((3, 2)), np.array([[0, 1]] * 3, bool), np.ones((2, 2)), True, 0)
    np.testing.assert_array_equal(LOGISTIC.predict(fit, {"C": 1.0}), [[0, 1]] * 2)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "avmae_jax.evals.baselines.baseline.FAMILIES", (Family("logistic regression", LOGISTIC.settings[5:7], LOGISTIC.predict),)
    )


@pytest.mark.usefixtures("fast")
@pytest.mark.slow
def test_baselines_are_written_with_the_ids_of_their_clips(tmp_path: Path) -> None:
    path = tmp_path / "set" / BASELINE
    found = baseline_into(path, Tones(12), Tones(6, 12), "both", data="set", seed=0, on_progress=skip)
    assert json.loads(path.read_text()) == found
    assert (found["train_ids"], found["ids"]) == ([f"clip{n}" for n in range(12)], [f"clip{n}" for n in range(12, 18)])
    rows = {row["name"]: row for row in found["baselines"]}
    audio = rows["audio: logistic regression"]
    assert (audio["map"], audio["accuracy"], audio["no_positive"]) == (1.0, 1.0, ["absent"])
    assert [row["given"] for row in rows.values()] == ["audio", "image", "both"]
    assert "without a training clip" not in found["warning"]  # the absent class has no held-out clip either
    again = baseline_into(tmp_path / "again.json", Tones(12), Tones(6, 12), "both", data="set", seed=0, on_progress=skip)
    assert again == found
    alone = baseline_into(tmp_path / "audio.json", Tones(12), Tones(6, 12), "audio", data="set", seed=0, on_progress=skip)
    assert alone["baselines"] == [audio]
    with pytest.raises(DatasetError, match="0 training clips"):
        baseline_into(path, Tones(4, labels=False), Tones(2), "audio", data="set", seed=0, on_progress=skip)


def row(name: str, given: str, precision: float | None, accuracy: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "given": given,
        "map": precision,
        "accuracy": accuracy,
        "auc": 0.5,
        "d_prime": 0.1,
        "top_5_accuracy": None,
        "loss": 1,
    }


def content(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"baselines": [*rows], "ids": ["a", "b"], "label_names": ["x", "y"]}


def view(mode: str, precision: float | None, accuracy: float | None) -> dict[str, Any]:
    return {"mode": mode, "map": precision, "accuracy": accuracy, "ids": ["b", "a"], "label_names": ["x", "y"]}


def test_a_model_is_compared_with_what_is_given_the_same() -> None:
    found = content(row("A", "audio", 0.9, 0.7), row("I", "image", 0.3, 0.2), row("B", "both", 0.8, 0.75))
    assert {key: best["name"] for key, best in best_for(view("multimodal", 1, 1), found).items()} == {"map": "A", "accuracy": "B"}
    assert {best["name"] for best in best_for(view("missingvideoonly", 1, 1), found).values()} == {"I"}
    assert best_for(view("audioonly", 1, 1) | {"ids": ["a"]}, found) == {}
    assert best_for(view("audioonly", 1, 1) | {"label_names": ["y", "z"]}, found) == {}
    assert best_for(view("audioonly", 1, 1) | {"label_names": ["y", "x"]}, found) != {}  # the same ones in another order


@pytest.mark.parametrize(
    ("precision", "accuracy", "beats"), [(0.91, 0.75, True), (0.91, 0.74, False), (0.9, 0.8, False), (0.95, None, True), (None, 0.9, False)]
)
def test_only_a_model_above_all_baselines_beats_them(precision: float | None, accuracy: float | None, beats: bool) -> None:
    found = content(row("A", "audio", 0.9, 0.7), row("B", "both", 0.8, 0.75))
    own = view("multimodal", precision, accuracy)
    assert ("doesn't beat" not in verdict(own, best_for(own, found))) == beats


def test_a_file_is_found_in_the_data_or_the_run_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert read_baselines(str(tmp_path / "data"), tmp_path / "run") is None
    with pytest.raises(DatasetError, match=r"mine\.json"):
        read_baselines("", None, str(tmp_path / "mine.json"))
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / BASELINE
    path.write_text(json.dumps(content(row("A", "audio", None, 0.5))))
    assert (read_baselines("the built-in set", tmp_path / "run") or {})["ids"] == ["a", "b"]
    for damaged in (
        "[]",
        "{}",
        json.dumps(content(row("A", "smell", 1, 1))),
        json.dumps(content(row("A", "audio", 1, 1) | {"auc": "x"})),
        "{",
    ):
        path.write_text(damaged)
        with pytest.raises(DatasetError, match=str(path)):
            read_baselines("", tmp_path / "run")


@pytest.mark.usefixtures("fast")
def test_several_classes_a_clip_have_no_accuracy() -> None:
    several = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]] * 4)
    (found,) = measure(made(several), made(several, prefix="h", seed=1), NAMES)
    assert (found["map"], found["accuracy"], found["no_positive"]) == (1.0, None, ("absent",))
