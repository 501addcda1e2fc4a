"""Pictures of an evaluation: the numbers that they draw, and that they are drawn where they belong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avmae_jax.evals.metrics import average_precision
from avmae_jax.plots import classification
from avmae_jax.plots.classification import MOST_CONFUSED, Mistake, confusion, curve, mistakes, precision_recall
from tests.support import Clips


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written into pictures from now on."""
    words: list[str] = []
    write = classification.write

    def record(figure: object, left: float, middle: float, text: str, **style: object) -> None:
        words.append(text)
        write(figure, left, middle, text, **style)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(classification, "write", record)
    return words


def test_the_diagonal_is_dark_where_a_class_is_found(tmp_path: Path) -> None:
    counts = np.array([[4, 0, 0], [0, 0, 4], [0, 0, 0]])
    confusion(tmp_path / "a/c.png", counts, ["harp", "oboe $x$", "horn"], heading="three")
    picture = pixels(tmp_path / "a/c.png")
    corners = [picture[70 + 60 * row + 8, 200 + 60 * column + 8] for row, column in ((0, 0), (1, 2), (1, 1), (2, 2))]
    assert [corner[0] < 50 for corner in corners] == [True, True, False, False]


def test_a_row_tells_its_clips_its_recall_and_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = written(monkeypatch)
    confusion(tmp_path / "c.png", np.array([[3, 1, 0], [1, 0, 0], [0, 0, 0]]), ["a", "b", "c"], heading="three")
    assert words[-9:] == ["4", "75%", "75%", "1", "0%", "0%", "0", "-", "-"]


def test_of_many_classes_the_most_confused_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, seen = written(monkeypatch), []
    counts = np.diag(np.full(100, 9))
    counts[70, 90], counts[3, 70] = 8, 7
    monkeypatch.setattr(classification, "_draw_matrix", lambda axes, shown, rows, columns, size: seen.append((shown, rows, columns)))
    confusion(tmp_path / "c.png", counts, [f"class {n}" for n in range(100)], heading="many")
    ((shown, rows, columns),) = seen
    assert len(rows) == MOST_CONFUSED
    assert {"class 3", "class 70", "class 90"} <= set(rows)
    assert columns == [*rows, "any other"]
    assert shown[rows.index("class 70"), rows.index("class 90")] == 8
    np.testing.assert_array_equal(shown.sum(axis=1), [counts[int(name.split()[1])].sum() for name in rows])
    assert words[0].startswith(f"many; {MOST_CONFUSED} of 100 classes")


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_under_the_steps_is_the_average_precision(ties: bool) -> None:
    rng = np.random.default_rng(0)
    has = rng.random(60) < 0.3
    scores = rng.standard_normal(60) + has
    scores = np.round(scores) if ties else scores
    recall, precision = curve(scores, has)
    assert (recall[-1], (np.diff(recall, prepend=0) > 0).all()) == (1.0, True)
    assert (np.diff(recall, prepend=0) * precision).sum() == pytest.approx(average_precision(scores[:, None], has[:, None])[0])


def test_each_class_with_a_positive_has_a_panel_the_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = written(monkeypatch)
    scores, targets = np.array([[0.9, 0.9, 0.1], [0.1, 0.2, 0.2]]), np.array([[0, 1, 0], [1, 0, 0]])
    precision_recall(tmp_path / "pr.png", scores, targets, ["late", "good", "absent"], heading="two")
    assert words[1:5] == ["good", "AP 1.000, 1 of 2 clips", "late", "AP 0.500, 1 of 2 clips"]
    assert "absent" not in words
    picture = pixels(tmp_path / "pr.png")
    blue = ((picture[:, :, 2] - picture[:, :, 0]) > 20).sum(axis=0)
    assert blue[40:260].sum() > 1.7 * blue[265:490].sum() > 0  # twice the area, but for lines


def test_of_many_classes_the_best_and_the_worst_have_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = written(monkeypatch)
    targets = np.eye(40)
    scores = np.where(targets > 0, np.linspace(1, 0, 40), 0.5)  # the first are ranked first, the others last
    precision_recall(tmp_path / "pr.png", scores, targets, [f"class {n}" for n in range(40)], heading="many")
    assert "the 12 best and the 12 worst of 40 classes" in words[0]
    shown = [word for word in words if word.startswith("class ")]
    assert len(shown) == 24
    assert (shown[0], shown[-1]) == ("class 0", "class 39")


def test_mistakes_show_the_clip_and_what_it_is_taken_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = written(monkeypatch)
    clips = Clips(3)
    found = [
        Mistake(clips[0]._replace(id="first"), [("harp", 0.02)], [("oboe", 0.9), ("harp", 0.02)]),
        Mistake(clips[1]._replace(frames=()), [], [("oboe", 0.9)]),
        Mistake(clips[2], [("a", 0.1), ("b", 0.2), ("c", 0.3)], [("d", 0.9)]),
    ]
    mistakes(tmp_path / "m.png", found, heading="3 of 9 clips mistaken")
    assert words[0] == "3 of 9 clips mistaken; those with the highest loss, 3 of them"
    assert words[1:6] == ["first", "is", "harp  2.0%", "is taken for", "oboe  90.0%"]
    assert {"no class", " and 1 more"} <= set(words)
    assert pixels(tmp_path / "m.png").shape == (44 + 2 * 152, 1400, 3)
    sound = pixels(tmp_path / "m.png")[50:140, 160:440]
    assert sound.std(axis=(0, 1)).max() > 5  # noise, not a blank


def test_no_mistakes_is_a_picture_too(tmp_path: Path) -> None:
    mistakes(tmp_path / "m.png", [], heading="0 of 9 clips mistaken")
    assert pixels(tmp_path / "m.png").shape == (44, 1400, 3)
