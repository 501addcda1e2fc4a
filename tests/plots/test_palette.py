"""Tests the colours by computing: contrast as WCAG 2.2 defines it, and distances as people with each kind of colour blindness see them."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from avmae_jax.plots.palette import BROKEN, DARK, HIDDEN, LIGHT, PADDING, SHARES, Scheme, readable_on

# Machado et al. 2009, severity 1, on linear RGB.
SEEN = {
    "all": np.eye(3),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "no blue": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
SCHEMES = pytest.mark.parametrize("scheme", [LIGHT, DARK])


def linear(colour: str) -> np.ndarray:
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    white = XYZ.sum(axis=1)
    values = XYZ @ np.clip(seen @ linear(colour), 0, 1) / white
    x, y, z = np.where(values > 0.008856, np.cbrt(values), 7.787 * values + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@SCHEMES
def test_every_text_can_be_read(scheme: Scheme) -> None:
    for name in ("text", "soft", "accent", "right", "wrong"):
        for ground in (scheme.page, scheme.card):
            assert contrast(getattr(scheme, name), ground) >= 4.5, (name, ground)


@SCHEMES
def test_every_line_stands_out(scheme: Scheme) -> None:
    assert min(contrast(colour, scheme.page) for colour in scheme.series) >= 3


@SCHEMES
@pytest.mark.parametrize("kind", SEEN)
def test_lines_and_marks_are_told_apart_with_any_colour_blindness(scheme: Scheme, kind: str) -> None:
    pairs = [*combinations(scheme.series, 2), (scheme.right, scheme.wrong), (scheme.right, scheme.held_out)]
    distances = [float(np.linalg.norm(lab(one, SEEN[kind]) - lab(other, SEEN[kind]))) for one, other in pairs]
    assert min(distances) > 25  # about 2 can just be seen


def test_every_number_of_a_matrix_can_be_read() -> None:
    for colour in colormaps[SHARES](np.linspace(0, 1, 101))[:, :3]:
        assert contrast(to_hex(tuple(colour)), readable_on(*colour)) >= 4.5


def test_what_is_written_on_padding_can_be_read() -> None:
    assert contrast(LIGHT.text, PADDING) >= 4.5
    assert contrast(HIDDEN, BROKEN) > 1.1
