"""Plots of an evaluation: the numbers that they draw, and that they are drawn where they belong."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from avmae_jax.evals.metrics import average_precision
from avmae_jax.plots.classification import MOST_CONFUSED, Mistake, confusion, curve, mistakes, precision_recall
from tests.plots.pixels import drawn_figures, pixels, places, words
from tests.support import Clips


def confused(path: Path, counts: np.ndarray, names: list[str]) -> Figure:
    with drawn_figures() as figures:
        confusion(path, counts, names, heading="heading")
    return figures[0]


def precisions_of(path: Path, scores: np.ndarray, targets: np.ndarray, names: list[str]) -> Figure:
    with drawn_figures() as figures:
        precision_recall(path, scores, targets, names, average_precision(scores, targets), heading="heading")
    return figures[0]


def row_of(figure: Figure, name: str) -> list[str]:
    """Lists the words at the right of a matrix, in the line of a class, from left to right."""
    ((_, height),) = {places(figure)[name]}
    size = figure.get_size_inches()[1] * figure.dpi
    beside = []
    for text in figure.texts:
        box = text.get_window_extent()
        if abs(size - (box.y0 + box.y1) / 2 - height) < 5:
            beside.append((box.x0, text.get_text()))
    return [word for _, word in sorted(beside)]


def test_the_diagonal_is_dark_where_a_class_is_found(tmp_path: Path) -> None:
    figure = confused(tmp_path / "a/c.png", np.array([[4, 0, 0], [0, 0, 4], [0, 0, 0]]), ["harp", "oboe $x$", "horn"])
    image, axes = pixels(tmp_path / "a/c.png").astype(int), figure.axes[0]
    height, dark = image.shape[0], []
    for row, column in ((0, 0), (1, 2), (1, 1), (2, 2)):
        x, y = axes.transData.transform((column - 0.35, row - 0.35))  # beside the number
        dark.append(image[height - round(y), round(x), 0] < 50)
    assert dark == [True, True, False, False]


def test_a_row_gives_its_clips_its_recall_and_its_precision(tmp_path: Path) -> None:
    figure = confused(tmp_path / "c.png", np.array([[3, 1, 0], [2, 0, 0], [0, 0, 0]]), ["harp", "oboe", "horn"])
    for name, expected in {"clips": ["clips", "recall", "precision"], "harp": ["4", "75%", "60%"], "horn": ["0", "-", "-"]}.items():
        assert row_of(figure, name) == expected
    assert row_of(figure, "oboe") == ["2", "0%", "0%"]


def test_of_many_classes_the_most_confused_are_shown(tmp_path: Path) -> None:
    counts = np.diag(np.full(100, 9))
    counts[70, 90], counts[3, 70], counts[70, 99] = 8, 7, 1
    figure = confused(tmp_path / "c.png", counts, [f"class {n}" for n in range(100)])
    axes = figure.axes[0]
    rows, columns = ([label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels()))
    assert len(rows) == MOST_CONFUSED
    assert {"class 3", "class 70", "class 90"} <= set(rows)
    assert columns == [*rows, "any other"]
    shown = {(rows[round(text.get_position()[1])], columns[round(text.get_position()[0])]): text.get_text() for text in axes.texts}
    assert shown["class 70", "class 90"] == "8"
    others = counts[70].sum() - sum(int(number) for (row, column), number in shown.items() if row == "class 70" and column != "any other")
    assert int(shown.get(("class 70", "any other"), 0)) == others
    assert any(f"{MOST_CONFUSED} of 100" in word for word in words(figure))


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_under_the_steps_is_the_average_precision(ties: bool) -> None:
    rng = np.random.default_rng(0)
    has = rng.random(60) < 0.3
    scores = rng.standard_normal(60) + has
    scores = np.round(scores) if ties else scores
    recall, precision = curve(scores, has)
    assert (recall[-1], (np.diff(recall, prepend=0) > 0).all()) == (1.0, True)
    assert (np.diff(recall, prepend=0) * precision).sum() == pytest.approx(average_precision(scores[:, None], has[:, None])[0])


def test_each_class_with_a_positive_has_a_panel_the_best_first(tmp_path: Path) -> None:
    scores, targets = np.array([[0.9, 0.9, 0.1], [0.1, 0.2, 0.2]]), np.array([[0, 1, 0], [1, 0, 0]])
    figure = precisions_of(tmp_path / "pr.png", scores, targets, ["late", "good", "absent"])
    where, image = places(figure), pixels(tmp_path / "pr.png").astype(int)
    assert "absent" not in where
    assert where["good"][0] < where["late"][0]
    assert abs(where["AP 1.000, 1 clip of 2"][0] - where["good"][0]) < 60
    assert abs(where["AP 0.500, 1 clip of 2"][0] - where["late"][0]) < 60
    blue = ((image[:, :, 2] - image[:, :, 0]) > 20).sum(axis=0)
    middle = int(where["late"][0]) - 30
    assert blue[:middle].sum() > 1.7 * blue[middle:].sum() > 0  # twice the area, but for lines


@pytest.mark.slow
def test_of_many_classes_the_best_and_the_worst_have_panels(tmp_path: Path) -> None:
    targets = np.eye(40)
    scores = np.where(targets > 0, np.linspace(1, 0, 40), 0.5)  # the first are ranked first, the others last
    figure = precisions_of(tmp_path / "pr.png", scores, targets, [f"class {n}" for n in range(40)])
    shown = {word for word in words(figure) if word.startswith("class ")}
    assert shown == {f"class {n}" for n in (*range(12), *range(28, 40))}
    assert any("12" in word and "40" in word for word in words(figure))


def test_mistakes_show_the_clip_and_what_it_is_taken_for(tmp_path: Path) -> None:
    clips = Clips(3)
    found = [
        Mistake(clips[0]._replace(id="first"), [("harp", 0.02)], [("oboe", 0.9), ("harp", 0.02)]),
        Mistake(clips[1]._replace(frames=()), [], [("oboe", 0.8)]),
        Mistake(clips[2], [("a", 0.1), ("b", 0.2), ("c", 0.3)], [("d", 0.9)]),
    ]
    with drawn_figures() as figures:
        mistakes(tmp_path / "m.png", found, heading="3 of 9 clips mistaken")
    where, written = places(figures[0]), words(figures[0])
    assert where["first"][1] < where["oboe  90.0%"][1]
    assert abs(where["first"][0] - where["oboe  90.0%"][0]) < 100
    assert where["oboe  80.0%"][0] > where["oboe  90.0%"][0] + 500  # the second clip is at the right
    assert written.count("harp  2.0%") == 2  # among its own, and among the likeliest
    assert {"no class", " and 1 more", "no image"} <= set(written)
    assert any("3 of 9" in word for word in written)
    box, image = figures[0].axes[2].get_window_extent(), pixels(tmp_path / "m.png")
    inside = image[round(len(image) - box.y1) : round(len(image) - box.y0), round(box.x0) : round(box.x1)]
    assert inside.std(axis=(0, 1)).max() > 5  # noise, not a blank


def test_no_mistakes_are_a_heading_alone(tmp_path: Path) -> None:
    with drawn_figures() as figures:
        mistakes(tmp_path / "m.png", [], heading="0 of 9 clips mistaken")
    assert words(figures[0]) == ["0 of 9 clips mistaken"]
