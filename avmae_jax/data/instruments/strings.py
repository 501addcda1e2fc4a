"""Draws guitar, violin, cello, harp and piano, and how they are played.

Each instrument is a pair of functions: one draws what stays still, one what moves. The hand on the neck, the string or the keyboard is
where the pitch is; the right hand or the bow swings with loudness and sits nearer to the bridge the brighter the tone; a piano's lid opens
for it.
"""

import math

import numpy as np
from scipy.interpolate import PchipInterpolator

from avmae_jax.data.instruments.canvas import GHOST, INK, Canvas, Point, ghosts, shade
from avmae_jax.data.instruments.phrase import Moment


def _outline(along: list[float], half: list[float]) -> list[Point]:
    """Outlines a body that is symmetric about y = 0, from its half width at some x."""
    xs = (np.linspace(0, 1, 26) ** 2 * (3 - 2 * np.linspace(0, 1, 26))) * (along[-1] - along[0]) + along[0]  # closer at the ends
    ys = PchipInterpolator(along, half)(xs)
    upper = [(float(x), -float(y)) for x, y in zip(xs, ys, strict=True)]
    return upper + [(x, -y) for x, y in reversed(upper)]


GUITAR = _outline([-0.92, -0.88, -0.62, -0.2, 0.02, 0.2, 0.22], [0.0, 0.24, 0.45, 0.24, 0.33, 0.12, 0.0])
VIOLIN = _outline([-0.78, -0.75, -0.52, -0.36, -0.2, -0.02, 0.14, 0.16], [0.0, 0.2, 0.36, 0.22, 0.2, 0.28, 0.12, 0.0])
CELLO = _outline([-0.8, -0.77, -0.48, -0.28, -0.12, 0.1, 0.26, 0.28], [0.0, 0.24, 0.45, 0.28, 0.26, 0.36, 0.14, 0.0])


def _neck(c: Canvas, start: float, end: float, half: float, strings: int) -> None:
    c.polygon([(start, -half), (end, -0.8 * half), (end, 0.8 * half), (start, half)], shade(c.look.trim, 0.45), INK)
    c.polygon([(end, -1.1 * half), (end + 0.17, -1.5 * half), (end + 0.17, 1.5 * half), (end, 1.1 * half)], shade(c.look.paint, 0.7), INK)
    for y in np.linspace(-0.65, 0.65, strings):
        c.disc((end + 0.1, float(np.sign(y)) * 1.7 * half), 0.03, c.look.metal)


def _strings(c: Canvas, start: float, end: float, half: float, strings: int) -> None:
    for y in np.linspace(-0.65, 0.65, strings):
        c.line([(start, float(y) * half * 1.2), (end, float(y) * half)], (245, 240, 225), 0.012)


def guitar_body(c: Canvas) -> None:
    """Draws the guitar lying, head to the right."""
    c.polygon(GUITAR, c.look.paint, shade(c.look.paint, 0.4))
    c.polygon([(0.95 * x - 0.01, 0.86 * y) for x, y in GUITAR], shade(c.look.paint, 1.22))
    c.disc((-0.1, 0), 0.165, shade(c.look.trim, 0.8))
    c.disc((-0.1, 0), 0.13, INK)
    c.box(-0.68, -0.17, -0.6, 0.17, shade(c.look.trim, 0.45))
    _neck(c, 0.02, 0.83, 0.065, 6)
    for fret in range(1, 11):
        c.line([(x := 0.83 - 0.72 * fret / 11, -0.05), (x, 0.05)], c.look.metal, 0.012)
    _strings(c, -0.64, 0.83, 0.065, 6)


def guitar_play(c: Canvas, m: Moment) -> None:
    """Draws the hand that plucks and the hand on the neck."""
    reach = 0.08 + 0.42 * m.loudness
    x = 0.02 - 0.5 * c.look.brightness
    for share in ghosts(m):
        c.hand((x, reach * (2 * share - 1)), 150, alpha=GHOST)
    c.hand((x, m.stroke * reach * (2 * m.phase - 1)), 150)
    c.hand((0.82 - 0.66 * m.place, 0.05), 75)


def _bow(c: Canvas, x: float, m: Moment) -> None:
    """Draws a bow across the strings at `x`, held in a hand below; its stroke is as long as the note is loud."""
    reach = 0.06 + 0.36 * m.loudness
    for share in ghosts(m):
        c.hand((x, 0.62 + reach * (2 * share - 1)), 90, alpha=GHOST)
    y = m.stroke * reach * (2 * m.phase - 1)
    c.line([(x - 0.02, y - 0.85), (x - 0.05, y - 0.4), (x - 0.02, y + 0.65)], shade(c.look.trim, 0.5), 0.04)
    c.line([(x, y - 0.84), (x, y + 0.64)], (250, 246, 235), 0.03)
    c.hand((x, y + 0.62), 90)


def _violin_top(c: Canvas, body: list[Point], waist: float) -> None:
    c.polygon(body, c.look.paint, shade(c.look.paint, 0.35))
    c.polygon([(waist + 0.92 * (x - waist), 0.86 * y) for x, y in body], shade(c.look.paint, 1.18))
    for side in (-1, 1):
        c.line(
            [(waist - 0.13, 0.17 * side), (waist - 0.08, 0.13 * side), (waist + 0.05, 0.14 * side), (waist + 0.1, 0.1 * side)], INK, 0.028
        )
    c.polygon([(waist - 0.4, -0.07), (waist - 0.12, -0.04), (waist - 0.12, 0.04), (waist - 0.4, 0.07)], INK)
    c.box(waist - 0.06, -0.11, waist - 0.02, 0.11, (235, 205, 150), INK)


def violin_body(c: Canvas) -> None:
    """Draws the violin lying, scroll to the right."""
    _violin_top(c, VIOLIN, -0.3)
    c.disc((-0.68, 0.16), 0.11, INK, 0.08)  # chin rest
    _neck(c, -0.05, 0.72, 0.05, 4)
    _strings(c, -0.4, 0.72, 0.05, 4)
    c.disc((0.93, 0.0), 0.075, shade(c.look.paint, 0.7), edge=INK)


def violin_play(c: Canvas, m: Moment) -> None:
    """Draws the bow and the hand on the neck."""
    _bow(c, 0.06 - 0.34 * c.look.brightness, m)
    c.hand((0.72 - 0.6 * m.place, 0.05), 70)


def cello_body(c: Canvas) -> None:
    """Draws the cello lying, as the violin is; its pose turns it upright."""
    c.line([(-0.78, 0), (-1.02, 0)], c.look.metal, 0.04)
    _violin_top(c, CELLO, -0.2)
    _neck(c, 0.08, 0.82, 0.06, 4)
    _strings(c, -0.3, 0.82, 0.06, 4)
    c.disc((1.0, 0.0), 0.07, shade(c.look.paint, 0.7), edge=INK)


def cello_play(c: Canvas, m: Moment) -> None:
    """Draws the bow and the hand on the neck."""
    _bow(c, 0.16 - 0.32 * c.look.brightness, m)
    c.hand((0.82 - 0.62 * m.place, -0.05), -80)


def _harp_string(share: float) -> tuple[Point, Point]:
    """Returns the upper and lower end of the string at `share`: 0 the longest, 1 the shortest."""
    x = 0.46 - 0.92 * share
    return (x, -0.72 + 0.28 * math.sin(math.pi * share) ** 2 + 0.2 * share), (x, 0.72 - 1.02 * share)


def harp_body(c: Canvas) -> None:
    """Draws the harp with its longest strings at the column."""
    paint = c.look.paint
    neck = [_harp_string(s)[0] for s in np.linspace(-0.06, 1.08, 12)]
    c.line([(0.53, 0.86), (0.53, -0.78)], shade(paint, 0.4), 0.14)
    c.line([(0.53, 0.86), (0.53, -0.78)], c.look.metal, 0.09)
    c.polygon([(-0.62, -0.5), (-0.44, -0.46), (0.62, 0.68), (0.62, 0.9), (0.2, 0.9)], paint, shade(paint, 0.4))
    c.line([(x, y - 0.04) for x, y in neck], shade(paint, 0.4), 0.15)
    c.line([(x, y - 0.04) for x, y in neck], paint, 0.1)
    c.disc((0.54, -0.82), 0.11, c.look.metal, edge=INK)
    for number, share in enumerate(np.linspace(0.02, 0.98, 18)):
        c.line(_harp_string(float(share)), (220, 40, 40) if number % 7 == 0 else (245, 240, 225), 0.016)


def harp_play(c: Canvas, m: Moment) -> None:
    """Draws the hand and the string it pulls aside."""
    top, bottom = _harp_string(0.03 + 0.9 * m.place)
    height = 0.35 + 0.55 * c.look.brightness  # plucked in the middle it is mellow, at the soundboard it is sharp
    y = top[1] + (bottom[1] - top[1]) * height
    reach = 0.08 + 0.45 * m.loudness
    for share in ghosts(m):
        c.hand((top[0] + reach * share, y), 20, alpha=GHOST)
    pulled = (top[0] + reach * m.phase, y)
    c.line([top, (top[0] + 0.12 * m.loudness, y), bottom], (255, 255, 255), 0.025)
    c.hand(pulled, 20)


def piano_body(c: Canvas) -> None:
    """Draws the piano from the front, its lid open as far as the tone is bright."""
    paint = shade(c.look.paint, 0.5)
    angle = math.radians(3 + 27 * c.look.brightness)
    tip = (-0.9 + 1.7 * math.cos(angle), -0.16 - 1.7 * math.sin(angle))
    c.line([(0.5, -0.1), (-0.9 + 1.4 * math.cos(angle), -0.16 - 1.4 * math.sin(angle))], c.look.metal, 0.03)  # the prop
    c.polygon([(-0.92, -0.1), tip, (tip[0] + 0.06, tip[1] + 0.1), (-0.86, -0.06)], shade(c.look.paint, 0.75), INK)
    for x in (-0.78, 0.72):
        c.box(x, 0.4, x + 0.09, 0.95, paint, INK)
    c.box(-0.05, 0.4, 0.05, 0.9, paint)
    c.disc((-0.04, 0.92), 0.09, c.look.metal, 0.03)
    c.box(-0.95, -0.1, 0.95, 0.46, paint, INK)
    c.box(-0.92, -0.07, 0.92, 0.02, shade(c.look.paint, 0.9))
    c.box(-0.85, 0.08, 0.85, 0.4, (250, 248, 240), INK)
    keys = [float(x) for x in np.linspace(-0.85, 0.85, 22)]
    for number, x in enumerate(keys[1:-1], start=1):
        c.line([(x, 0.08), (x, 0.4)], (120, 120, 120), 0.01)
        if number % 7 not in (0, 3):
            c.box(x - 0.022, 0.08, x + 0.022, 0.27, INK)


def piano_play(c: Canvas, m: Moment) -> None:
    """Draws the hand and the key it holds down."""
    x, reach = -0.8 + 1.6 * m.place, 0.06 + 0.5 * m.loudness
    c.box(x - 0.05, 0.26, x + 0.05, 0.41, (255, 205, 90), INK)
    for share in ghosts(m):
        c.hand((x, 0.34 - reach * share), 80, alpha=GHOST)
    c.hand((x, 0.34 - reach * abs(math.sin(math.pi * m.phase))), 80)
