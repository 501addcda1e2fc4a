"""Draws drum, cymbal, xylophone and chimes, and how they are played.

The mallet is where the pitch is and swings as high as the note is loud; a hard small head gives a bright tone, a big soft one a dark
one; a drum is muffled by a cloth on its skin.
"""

import numpy as np

from avmae_jax.data.instruments.canvas import INK, Canvas, Colour, blend, shade
from avmae_jax.data.instruments.phrase import Moment

RAINBOW = ((214, 48, 49), (225, 112, 40), (240, 190, 50), (80, 170, 70), (40, 150, 190), (60, 80, 190), (130, 70, 170))


def _mallet(c: Canvas) -> tuple[float, Colour]:
    """Returns radius and colour of a mallet's head: wool when soft, wood when hard."""
    bright = c.look.brightness
    return 0.17 - 0.12 * bright, blend((235, 225, 215), (150, 30, 30), bright)


def drum_body(c: Canvas) -> None:
    """Draws the drum and the cloth on its skin."""
    paint, metal = c.look.paint, c.look.metal
    for x in (-0.4, 0.0, 0.4):
        c.line([(x, 0.4), (1.3 * x, 0.92)], shade(metal, 0.6), 0.05)
    c.disc((0, 0.45), 0.66, shade(paint, 0.5), 0.23, edge=INK)
    c.box(-0.66, -0.15, 0.66, 0.45, paint)
    c.box(0.35, -0.15, 0.66, 0.47, shade(paint, 0.72))
    c.box(-0.66, -0.15, -0.5, 0.47, shade(paint, 1.25))
    xs = np.linspace(-0.64, 0.64, 9)
    drop = 0.22 * np.sqrt(1 - (xs / 0.67) ** 2)
    c.line(
        [(float(x), float(d + (-0.08 if i % 2 else 0.44))) for i, (x, d) in enumerate(zip(xs, drop, strict=True))],
        shade(c.look.trim, 1.3),
        0.03,
    )
    c.disc((0, -0.15), 0.7, metal, 0.26, edge=INK)
    c.disc((0, -0.15), 0.63, (245, 238, 222), 0.21, edge=shade(metal, 0.5))
    muffled = 1 - c.look.brightness
    if muffled > 0.05:
        c.disc((-0.05, -0.2), 0.56 * muffled, shade(c.look.trim, 0.75), 0.15 * muffled + 0.01, edge=INK)


def drum_play(c: Canvas, m: Moment) -> None:
    """Draws two sticks that strike in turn."""
    x = 0.04 + 0.5 * m.place  # from the middle to the edge
    c.strike((x, -0.14), m, 40, 0.06, (205, 150, 90))
    c.strike((-x, -0.1), m._replace(phase=(m.phase + 0.5) % 1), 140, 0.06, (205, 150, 90))


def cymbal_body(c: Canvas) -> None:
    """Draws the stand."""
    metal = shade(c.look.metal, 0.5)
    c.line([(0, -0.2), (0, 0.62)], metal, 0.06)
    for x in (-0.42, 0.02, 0.42):
        c.line([(0, 0.55), (x, 0.95)], metal, 0.05)


def cymbal_play(c: Canvas, m: Moment) -> None:
    """Draws the cymbal, tilted by the blow, and the mallet."""
    tilt = 0.03 + 0.22 * m.loudness * (1 - 0.5 * m.phase) * m.stroke
    gold = c.look.metal

    def ring(rx: float, ry: float) -> list[tuple[float, float]]:
        turns = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        return [(float(rx * np.cos(a)), float(-0.2 + ry * np.sin(a) + tilt * rx * np.cos(a))) for a in turns]

    c.polygon([(x, y + 0.035) for x, y in ring(0.85, 0.24)], shade(gold, 0.45))
    c.polygon(ring(0.85, 0.24), gold, shade(gold, 0.4))
    for rx, factor in ((0.72, 1.25), (0.68, 1.0), (0.52, 1.3), (0.47, 1.05), (0.33, 0.8)):
        c.polygon(ring(rx, 0.28 * rx), shade(gold, factor))
    c.disc((0, -0.26), 0.2, shade(gold, 1.35), 0.1, edge=shade(gold, 0.5))
    c.line([(0, -0.42), (0, -0.28)], INK, 0.05)
    size, colour = _mallet(c)
    c.strike((0.8 - 0.66 * m.place, -0.16), m, 35, size, colour)


def _bar(place: float) -> tuple[float, float]:
    """Returns middle and half length of the bar at `place`."""
    return -0.85 + 1.7 * place, 0.46 - 0.24 * place


def xylophone_body(c: Canvas) -> None:
    """Draws the bars, the longest to the left."""
    for x in (-0.75, 0.75):
        c.line([(x, 0.1), (1.1 * x, 0.95)], shade(c.look.trim, 0.5), 0.07)
    for side in (-1, 1):
        c.line([(-0.95, side * 0.3), (0.95, side * 0.15)], shade(c.look.trim, 0.6), 0.08)
    wooden = c.look.trim[2] % 2 == 0
    for number in range(13):
        x, half = _bar(number / 12)
        colour = shade(c.look.paint, 0.9 + 0.15 * (number % 2)) if wooden else RAINBOW[number % 7]
        c.box(x - 0.058, -half, x + 0.058, half, colour, INK)
        c.line([(x - 0.03, -0.85 * half), (x - 0.03, 0.85 * half)], shade(colour, 1.5), 0.02)
        for side in (-1, 1):
            c.disc((x, side * half * 0.72), 0.02, INK)


def xylophone_play(c: Canvas, m: Moment) -> None:
    """Draws the struck bar and the mallet."""
    x, half = _bar(m.place)
    c.box(x - 0.058, -half, x + 0.058, half, (255, 255, 235, 110))
    size, colour = _mallet(c)
    c.strike((x, -0.05), m, 70 if m.stroke > 0 else 110, size, colour)


def _tube(place: float) -> tuple[float, float]:
    """Returns the position of the chime at `place` and where it ends."""
    return -0.66 + 1.32 * place, 0.74 - 0.75 * place


def chimes_body(c: Canvas) -> None:
    """Draws the frame and its tubes, the longest to the left."""
    wood = shade(c.look.paint, 0.6)
    for x in (-0.85, 0.85):
        c.box(x - 0.05, -0.85, x + 0.05, 0.92, wood, INK)
    c.box(-0.95, 0.84, 0.95, 0.94, wood, INK)
    for number in range(11):
        x, bottom = _tube(number / 10)
        c.tube([(x, -0.72), (x, bottom)], c.look.metal, 0.1)
    c.box(-0.95, -0.92, 0.95, -0.74, shade(wood, 1.15), INK)


def chimes_play(c: Canvas, m: Moment) -> None:
    """Draws the struck tube and the hammer."""
    x, bottom = _tube(m.place)
    sway = 0.06 * m.loudness * m.stroke * (1 - m.phase)
    c.tube([(x, -0.72), (x + sway, bottom)], shade(c.look.metal, 1.35), 0.13)
    size, colour = _mallet(c)
    c.strike((x + 0.05, -0.5), m, 40, size + 0.02, colour)
