"""Draws flute, clarinet, trumpet, trombone and accordion, and how they are played.

Covered holes, the slide and the keyboard hand are where the pitch is; cheeks and bellows swell with loudness; a brighter tone is a clarinet
or flute held up, a bell without a mute, open shutters.
"""

import itertools
import math

import numpy as np

from avmae_jax.data.instruments.canvas import GHOST, INK, Canvas, Point, ghosts, shade
from avmae_jax.data.instruments.phrase import Moment

# The valves that lower a trumpet by 0 to 6 semitones.
VALVES = ((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1))


def nothing(c: Canvas) -> None:
    """Draws nothing, for an instrument of which nothing stays still."""


def _along(start: Point, angle: float, distance: float, off: float = 0.0) -> Point:
    """Returns the point `distance` along a line from `start` at `angle` radians, and `off` to its right."""
    return start[0] + distance * math.cos(angle) - off * math.sin(angle), start[1] + distance * math.sin(angle) + off * math.cos(angle)


def _holes(c: Canvas, start: Point, angle: float, first: float, last: float, m: Moment) -> None:
    """Draws nine holes or keys, covered from the first on; the lower the note the more. The hand follows the last covered one."""
    holes = [float(x) for x in np.linspace(first, last, 9)]
    covered = round((1 - m.place) * len(holes))
    end = first + (last - first) * (1 - m.place)
    below = math.degrees(angle) + 90
    for share in ghosts(m):
        c.hand(_along(start, angle, end, 0.08 - 0.5 * share), below, alpha=GHOST)
    c.hand(_along(start, angle, first + 0.02, 0.1), below)
    c.hand(_along(start, angle, end, 0.12), below)
    for number, x in enumerate(holes):
        if number < covered:
            c.disc(_along(start, angle, x), 0.055, c.look.skin, edge=INK)
        else:
            c.disc(_along(start, angle, x), 0.045, c.look.metal, edge=(255, 255, 255))


def flute_play(c: Canvas, m: Moment) -> None:
    """Draws the player, the flute and the fingers."""
    angle = math.radians(24 - 38 * c.look.brightness)
    mouth = (-0.5, -0.1)
    c.head((mouth[0] + 0.02, mouth[1] - 0.02), m)
    ends = [_along(mouth, angle, d) for d in (-0.12, 1.4)]
    c.tube(ends, c.look.metal, 0.1)
    for d in (0.2, 1.1):
        c.line([_along(mouth, angle, d, -0.06), _along(mouth, angle, d, 0.06)], shade(c.look.metal, 0.6), 0.03)
    c.disc(_along(mouth, angle, 0.02), 0.05, shade(c.look.metal, 0.5), 0.03)
    _holes(c, mouth, angle, 0.35, 1.3, m)


def clarinet_play(c: Canvas, m: Moment) -> None:
    """Draws the player, the clarinet and the fingers."""
    angle = math.radians(72 - 52 * c.look.brightness)
    mouth = (-0.42, -0.42)
    c.head(mouth, m)
    wood = shade(c.look.paint, 0.35)
    c.line([mouth, _along(mouth, angle, 0.16)], INK, 0.05)
    c.line([_along(mouth, angle, 0.14), _along(mouth, angle, 1.2)], INK, 0.135)
    c.line([_along(mouth, angle, 0.14), _along(mouth, angle, 1.2)], wood, 0.1)
    bell = [(1.15, -0.06), (1.3, -0.09), (1.45, -0.19), (1.45, 0.19), (1.3, 0.09), (1.15, 0.06)]
    c.polygon([_along(mouth, angle, d, off) for d, off in bell], wood, INK)
    for d in (0.16, 0.3, 0.72, 1.15, 1.44):
        half = 0.17 if d > 1.4 else 0.065
        c.line([_along(mouth, angle, d, -half), _along(mouth, angle, d, half)], c.look.metal, 0.03)
    _holes(c, mouth, angle, 0.38, 1.1, m)


def _bell(c: Canvas, x: float, y: float, length: float, half: float) -> None:
    """Draws a brass bell that opens to the right at `x`, with its mute."""
    flare = [(-length, 0.05), (-0.6 * length, 0.07), (-0.25 * length, 0.4 * half), (0, half)]
    outline = [(x + dx, y - dy) for dx, dy in flare] + [(x + dx, y + dy) for dx, dy in reversed(flare)]
    c.polygon(outline, c.look.metal, shade(c.look.metal, 0.4))
    c.line([(x - length, y - 0.02), (x - 0.2 * length, y - 0.05)], shade(c.look.metal, 1.7), 0.03)
    c.disc((x, y), 0.07, shade(c.look.metal, 0.55), half, edge=shade(c.look.metal, 1.5))
    mute = 1 - c.look.brightness
    if mute > 0.08:
        size = half * (0.3 + 0.75 * mute)
        c.polygon([(x - 0.02, y - 0.5 * size), (x + 0.34 * mute, y - size), (x + 0.34 * mute, y + size), (x - 0.02, y + 0.5 * size)],
                  shade(c.look.trim, 0.6), INK)  # fmt: skip
        c.disc((x + 0.34 * mute, y), 0.05, (190, 40, 50), size, edge=INK)


def trumpet_play(c: Canvas, m: Moment) -> None:
    """Draws the player, the trumpet, its valves and its slide."""
    metal, y = c.look.metal, -0.05
    slide = 0.36 * (1 - m.place)  # the third valve's slide is pushed out for low notes
    c.head((-0.55, y), m)
    for share in ghosts(m):
        c.hand((0.05, -0.26 - 0.5 * share), 100, alpha=GHOST)
    c.hand((0.05, -0.26 - 0.1 * m.phase), 100)
    c.tube([(0.3, 0.14), (0.5 + slide, 0.14), (0.5 + slide, 0.3), (0.3, 0.3)], metal, 0.07)
    c.tube([(0.5, y), (-0.3, y), (-0.36, 0.08), (-0.3, 0.26), (0.35, 0.26)], metal, 0.085)
    c.tube([(-0.55, y), (0.3, y)], metal, 0.07)
    c.disc((-0.52, y), 0.04, metal, 0.07)
    _bell(c, 0.78, y, 0.55, 0.3)
    for number, pressed in enumerate(VALVES[m.fingering]):
        x = -0.1 + 0.15 * number
        top = -0.18 if pressed else -0.34
        c.tube([(x, -0.16), (x, 0.34)], metal, 0.12)
        c.line([(x, -0.16), (x, top)], shade(metal, 1.3), 0.045)
        c.disc((x, top), 0.06, c.look.skin if pressed else (250, 245, 235), 0.035, edge=INK)
    c.hand((0.5 + slide, 0.24), 75)


def trombone_body(c: Canvas) -> None:
    """Draws bell, bow and mute."""
    c.tube([(-0.35, 0.1), (-0.8, 0.1), (-0.92, -0.05), (-0.92, -0.32), (-0.8, -0.45), (-0.2, -0.45)], c.look.metal, 0.085)
    c.tube([(-0.55, -0.42), (-0.55, 0.08)], c.look.metal, 0.05)
    _bell(c, 0.28, -0.45, 0.55, 0.34)


def trombone_play(c: Canvas, m: Moment) -> None:
    """Draws the player and the slide."""
    metal, end = c.look.metal, 0.2 + 0.85 * (1 - m.place)
    c.head((-0.45, -0.08), m)
    c.tube([(-0.45, -0.08), (0.1, -0.08)], metal, 0.05)
    c.tube([(-0.35, 0.1), (0.1, 0.1)], metal, 0.05)
    c.tube([(end - 0.6, -0.08), (end, -0.08), (end + 0.07, 0.01), (end, 0.1), (end - 0.6, 0.1)], metal, 0.085)
    c.tube([(end - 0.5, -0.08), (end - 0.5, 0.12)], shade(metal, 0.8), 0.05)
    for share in ghosts(m):
        c.hand((end - 0.3, 0.1 + 0.4 * share), 75, alpha=GHOST)
    c.hand((end - 0.3, 0.1), 75)
    c.hand((-0.3, 0.05), 110)


def accordion_play(c: Canvas, m: Moment) -> None:
    """Draws both boxes, the bellows and the hands."""
    paint, trim, bright = c.look.paint, c.look.trim, c.look.brightness
    pull = m.phase if m.stroke > 0 else 1 - m.phase
    opening = 0.22 + 0.7 * m.loudness + 0.14 * (pull - 0.5)
    left, right = -0.35, -0.35 + opening
    for share in ghosts(m):  # the right box is blurred the more the faster the bellows go
        x = right - (0.08 + 0.2 * m.loudness) * (share - 0.5)
        c.box(x, -0.5, x + 0.3, 0.5, (*shade(paint, 1.3), 70))
    folds = np.linspace(left, right, 13).tolist()
    for number, (a, b) in enumerate(itertools.pairwise(folds)):
        deep = 0.47 if number % 2 else 0.41
        c.polygon([(a, -deep), (b, -0.88 + deep), (b, 0.88 - deep), (a, deep)], shade(trim, 0.55 if number % 2 else 0.95), INK)
    for x, side in ((left, -1), (right, 1)):
        c.polygon([(x, -0.5), (x + side * 0.3, -0.46), (x + side * 0.3, 0.46), (x, 0.5)], paint, shade(paint, 0.35))
    for number in range(6):  # shutters over the reeds
        y = -0.36 + 0.14 * number
        c.box(left - 0.25, y - 0.01, left - 0.05, y + 0.005 + 0.1 * bright, INK)
        for column in range(2):
            c.disc((right + 0.1 + 0.11 * column, y), 0.035, (250, 245, 230), edge=INK)
    c.box(left - 0.55, -0.52, left - 0.29, 0.52, (250, 248, 240), INK)
    for number, y in enumerate(np.linspace(-0.52, 0.52, 14)[1:-1], start=1):
        c.line([(left - 0.55, float(y)), (left - 0.29, float(y))], (120, 120, 120), 0.01)
        if number % 7 not in (0, 3):
            c.box(left - 0.45, float(y) - 0.02, left - 0.29, float(y) + 0.02, INK)
    y = -0.48 + 0.96 * (1 - m.place)
    for share in ghosts(m):
        c.hand((left - 0.45 - 0.35 * share, y), 160, alpha=GHOST)
    c.hand((left - 0.45, y), 160)
    c.hand((right + 0.3, 0.05), 20)
