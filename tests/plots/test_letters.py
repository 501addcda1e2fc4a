"""Tests that the letters of every plot can be read where the report shows it: in a page 1280 pixels wide, and on a phone."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from avmae_jax.inference.panels import Panels
from avmae_jax.plots.calibration import class_f1, reliability
from avmae_jax.plots.canvas import WIDTH
from avmae_jax.plots.classification import Mistake, confusion, mistakes, precision_recall
from avmae_jax.plots.contact_sheet import contact_sheet
from avmae_jax.plots.curves import loss_curves
from avmae_jax.plots.gallery import Card, Search, Section, draw_gallery
from avmae_jax.plots.heatmap import draw_heatmap
from avmae_jax.plots.learning_curve import draw_curves
from avmae_jax.plots.reconstructions import reconstructions
from tests.plots.pixels import drawn_figures, letters
from tests.support import Clips

LEAST = 10  # pixels on the page
PAGE = 1280 - 2 * 24  # what a window of 1280 has for a plot; the report has 1200
RNG = np.random.default_rng(0)
LONG = "Male speech, man speaking (a very long name of a class) $x_1"


def names(count: int) -> list[str]:
    return [f"{number} {LONG}" for number in range(count)]


def draw_confusion(path: Path, classes: int) -> None:
    confusion(path, RNG.integers(0, 1500, (classes, classes)), names(classes), heading=LONG)


def draw_precisions(path: Path, classes: int) -> None:
    scores, targets = RNG.random((40, classes)), RNG.random((40, classes)) < 0.5
    precision_recall(path, scores, targets, names(classes), RNG.random(classes), heading=LONG)


def draw_mistakes(path: Path) -> None:
    found = [(LONG, 0.5), ("b", 0.25), ("c", 0.1)]
    mistakes(path, [Mistake(clip, found, found) for clip in (Clips(3)[0], Clips(3)[1])], heading=LONG)


def draw_reliability(path: Path) -> None:
    bins: Any = SimpleNamespace(confidence=RNG.random(10), right=RNG.random(10), clips=np.arange(10) * 999, error=0.25)
    reliability(path, bins, bins, heading=LONG)


def draw_f1(path: Path) -> None:
    class_f1(path, [{"name": name, "positives": 1, "threshold": 0.5, "f1": 0.25} for name in names(50)], heading=LONG)


def draw_sheet(path: Path) -> None:
    contact_sheet(path, [Clips(9)[number]._replace(id=LONG, labels=(0,)) for number in range(5)], names(1), heading=LONG)


def draw_searches(path: Path) -> None:
    card = Card(Clips(9)[1], ("0.50  its own, rank 28", LONG, "folder/" + LONG), "right")
    draw_gallery(path, [Section(LONG, [Search(LONG, Clips(9)[0], side, [card] * 5, card) for side in ("audio", "image")], LONG)])


def draw_heat(path: Path) -> None:
    arrays = {"waveform": np.ones(7920, np.int16), "samples": 4000, "image": np.full((32, 32, 3), 100, np.uint8)}
    draw_heatmap(path, {"image": np.ones((2, 2)), "audio": np.ones((2, 3))}, 0.5, arrays, start=2.0, title=LONG)


def draw_study(path: Path) -> None:
    points: Any = [SimpleNamespace(labels=labels, mean=0.5, spread=0.1) for labels in (2, 4, 24)]
    curves = {f"{number} method": points for number in range(6)}
    draw_curves(path, {"accuracy": curves, "map": curves})


def draw_reconstructions(path: Path) -> None:
    image = RNG.random((1, 8, 8, 3), np.float32)
    fbank = RNG.random((1, 128, 100, 1), np.float32)
    audio = Panels(fbank, np.zeros((1, 128, 100), bool), fbank, np.array([60]), np.array([[-5.0, 4.0]]))
    reconstructions(path, {"image": Panels(image, np.ones((1, 8, 8), bool), image), "audio": audio}, [LONG], norm_pix=True)


def draw_losses(path: Path) -> None:
    path.with_suffix(".jsonl").write_text('{"step": 5, "split": "eval", "loss": 1e-7}\n{"step": 6, "split": "train", "loss": 2e-7}\n')
    loss_curves(path, path.with_suffix(".jsonl"), batch_size=48)


DRAWN: dict[str, Callable[[Path], None]] = {
    "12 classes": lambda path: draw_confusion(path, 12),
    "309 classes": lambda path: draw_confusion(path, 309),
    "527 curves": lambda path: draw_precisions(path, 527),
    "2 curves": lambda path: draw_precisions(path, 2),
    "mistakes": draw_mistakes,
    "reliability": draw_reliability,
    "f1": draw_f1,
    "contact sheet": draw_sheet,
    "gallery": draw_searches,
    "heat map": draw_heat,
    "study": draw_study,
    "reconstructions": draw_reconstructions,
    "loss curves": draw_losses,
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.slow
def test_letters_can_be_read_and_lie_inside(name: str, tmp_path: Path) -> None:
    with drawn_figures() as figures:
        DRAWN[name](tmp_path / "x.png")
    (figure,) = figures
    width = figure.get_size_inches()[0] * figure.dpi
    assert width <= WIDTH + 1
    sizes = letters(figure)
    scale = min(1, PAGE / width)
    assert min(sizes.values()) * scale >= LEAST, min(sizes, key=lambda word: sizes[word])
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text.get_text()
        assert box.x1 <= width + 1, text.get_text()
