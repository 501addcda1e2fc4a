"""Draws what instruments are made of: shapes in an instrument's own coordinates, hands, sticks, heads and acoustic waves.

An instrument is drawn in a square that goes from -1 to 1, x to the right and y down; a `Canvas` turns, mirrors, shifts and scales it into
the image. Hands, heads and sticks keep their size whatever the size of the instrument: against a hand one sees how big it is.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from avmae_jax.data.instruments.phrase import Moment

Point = tuple[float, float]
Colour = tuple[int, int, int]
Fill = Colour | tuple[int, int, int, int]  # with an alpha in [0, 255] where it lets the background through

INK: Colour = (24, 20, 24)
_WHITE: Colour = (255, 255, 255)
GHOST = 120  # alpha of a pale copy
_CIRCLE = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 28, endpoint=False)]


class Look(NamedTuple):
    """Holds the colours of one clip; drawn at random once a clip."""

    paint: Colour  # the instrument's main colour
    trim: Colour  # its second colour
    metal: Colour  # gold, silver or copper
    skin: Colour
    hair: Colour
    sleeve: Colour
    brightness: float  # the clip's Traits.brightness, which each instrument shows in its own way


class Pose(NamedTuple):
    """Places the instrument in the image."""

    x: float  # centre, in pixels
    y: float
    unit: float  # pixels of 1 for a hand
    grow: float  # size of the instrument against that of a hand
    turn: float  # radians, clockwise
    mirror: bool


def shade(colour: Colour, factor: float) -> Colour:
    """Darkens a colour below 1 and lightens it above; 2 is white."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    return blend(colour, (255, 255, 255), factor - 1)


def blend(a: Colour, b: Colour, share: float) -> Colour:
    """Mixes two colours: `a` at share 0, `b` at share 1."""
    return (int(a[0] + (b[0] - a[0]) * share), int(a[1] + (b[1] - a[1]) * share), int(a[2] + (b[2] - a[2]) * share))


def ghosts(moment: Moment) -> list[float]:
    """Returns the shares in [0, 1] of a stroke at which to draw a pale copy of what moves: the faster the notes, the more."""
    return [float(x) for x in np.linspace(0, 1, 2 + round(5 * moment.rate))]


class Canvas:
    """Draws one posed instrument on an image."""

    def __init__(self, image: Image.Image, pose: Pose, look: Look):
        self.draw = ImageDraw.Draw(image, "RGBA")
        self.pose = pose
        self.look = look
        self.hand_size = 1 / pose.grow  # a hand's unit in instrument coordinates
        side = -1 if pose.mirror else 1
        self._cos, self._sin = math.cos(pose.turn) * pose.unit * pose.grow, math.sin(pose.turn) * pose.unit * pose.grow
        self._side = side

    def pixels(self, points: Iterable[Point]) -> list[Point]:
        """Converts instrument coordinates to pixels."""
        x0, y0, side, cos, sin = self.pose.x, self.pose.y, self._side, self._cos, self._sin
        return [(x0 + side * (x * cos - y * sin), y0 + x * sin + y * cos) for x, y in points]

    def width(self, width: float) -> int:
        """Converts a line's width from instrument units to pixels, at least 1."""
        return max(1, round(width * self.pose.unit * self.pose.grow))

    def polygon(self, points: Iterable[Point], fill: Fill, edge: Fill | None = None) -> None:
        """Fills a polygon and draws its edge."""
        corners = self.pixels(points)
        self.draw.polygon(corners, fill)
        if edge:
            self.draw.line([*corners, corners[0]], edge, self.width(0.022), joint="curve")

    def line(self, points: Iterable[Point], fill: Fill, width: float) -> None:
        """Draws a line of a width in instrument units."""
        self.draw.line(self.pixels(points), fill, self.width(width), joint="curve")

    def disc(self, centre: Point, rx: float, fill: Fill, ry: float | None = None, edge: Fill | None = None) -> None:
        """Draws a circle, or an ellipse where `ry` is given."""
        ry = rx if ry is None else ry
        self.polygon([(centre[0] + rx * c, centre[1] + ry * s) for c, s in _CIRCLE], fill, edge)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Fill, edge: Fill | None = None) -> None:
        """Draws a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill, edge)

    def tube(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """Draws a round metal or wooden tube: a dark edge, the colour, a gleam."""
        self.line(points, shade(fill, 0.45), width)
        self.line(points, fill, width * 0.7)
        self.line(points, shade(fill, 1.6), width * 0.22)

    def hand(self, centre: Point, arm: float, alpha: int = 255) -> None:
        """Draws a hand with its palm at `centre` and its arm leading away at `arm` degrees (0 right, 90 down)."""
        u, (x, y) = self.hand_size, centre
        cos, sin = math.cos(math.radians(arm)), math.sin(math.radians(arm))
        skin, ink = (*self.look.skin, alpha), (*INK, alpha)
        if alpha == 255:
            wrist, elbow = (x + 0.15 * u * cos, y + 0.15 * u * sin), (x + 0.75 * u * cos, y + 0.75 * u * sin)
            self.line([wrist, elbow], INK, 0.21 * u)
            self.line([wrist, elbow], self.look.sleeve, 0.17 * u)
            self.line([(x, y), (x + 0.2 * u * cos, y + 0.2 * u * sin)], skin, 0.13 * u)
        for spread in (-0.7, -0.25, 0.2, 0.65):
            c, s = math.cos(math.radians(arm) + math.pi + spread), math.sin(math.radians(arm) + math.pi + spread)
            tip = (x + 0.2 * u * c, y + 0.2 * u * s)
            if alpha == 255:
                self.line([(x, y), tip], ink, 0.075 * u)
            self.line([(x, y), tip], skin, 0.05 * u)
        self.disc(centre, 0.115 * u, skin, edge=ink)

    def strike(self, target: Point, moment: Moment, arm: float, head: float, colour: Colour, length: float = 0.62) -> None:
        """Draws a stick that hits `target`, held in a hand `length` away at `arm` degrees; the louder, the higher it swings.

        `head` is the radius of its head. Pale copies fill the swing.
        """
        u = self.hand_size
        base, swing = math.radians(arm), 0.25 + 1.0 * moment.loudness
        if arm > 90:  # held from the left: up is anticlockwise
            swing = -swing
        hand = (target[0] + length * u * math.cos(base), target[1] + length * u * math.sin(base))

        def tip(share: float) -> Point:
            angle = base + math.pi + swing * share
            return hand[0] + length * u * math.cos(angle), hand[1] + length * u * math.sin(angle)

        for share in ghosts(moment):
            self.line([hand, tip(share)], (*shade(self.look.trim, 1.4), 150), 0.035 * u)
            self.disc(tip(share), head * u, (*colour, 140), edge=(*INK, 90))
        lifted = tip(abs(math.sin(math.pi * moment.phase)))
        self.line([hand, lifted], INK, 0.065 * u)
        self.line([hand, lifted], shade(self.look.trim, 1.3), 0.04 * u)
        self.disc(lifted, head * u, colour, edge=INK)
        self.hand(hand, arm)

    def head(self, mouth: Point, moment: Moment) -> None:
        """Draws a player's head that looks to the right with its lips at `mouth`; the cheeks swell with loudness."""
        u, (x, y) = self.hand_size, mouth
        look, puff = self.look, 0.05 + 0.1 * moment.loudness
        self.polygon([(x - 0.75 * u, y + 0.95 * u), (x - 0.6 * u, y + 0.35 * u), (x - 0.1 * u, y + 0.35 * u), (x + 0.1 * u, y + 0.95 * u)],
                     look.sleeve, INK)  # fmt: skip
        self.box(x - 0.42 * u, y + 0.1 * u, x - 0.2 * u, y + 0.42 * u, shade(look.skin, 0.85))
        self.disc((x - 0.32 * u, y - 0.13 * u), 0.3 * u, look.hair, 0.36 * u)
        self.disc((x - 0.26 * u, y - 0.06 * u), 0.26 * u, look.skin, 0.32 * u)
        self.polygon([(x - 0.02 * u, y - 0.2 * u), (x + 0.07 * u, y - 0.06 * u), (x - 0.03 * u, y - 0.04 * u)], look.skin)
        self.disc((x - 0.11 * u, y - 0.17 * u), 0.035 * u, INK)
        self.disc((x - 0.14 * u, y + 0.04 * u), puff * u, blend(look.skin, (230, 90, 80), 0.25 + 0.5 * moment.loudness))
        self.disc((x - 0.02 * u, y), 0.045 * u, (170, 60, 60))

    def waves(self, source: Point, direction: float, loudness: float) -> None:
        """Draws acoustic waves that leave `source` at `direction` degrees; the louder, the more, the wider and the thicker."""
        u, reach, middle = self.hand_size, 0.12 + 0.85 * loudness, math.radians(direction)
        width = (0.025 + 0.04 * loudness) * u
        radii = [*np.arange(0.14, reach, 0.13), reach]  # the outermost moves with loudness continuously
        for radius in radii:
            arc = [(source[0] + radius * u * math.cos(middle + a), source[1] + radius * u * math.sin(middle + a)) for a in _ARC]
            self.line(arc, INK, 2 * width)
            self.line(arc, (255, 255, 235), width)


class Outline(Canvas):
    """Draws an instrument alone, without its player, sticks and acoustic waves, in white: where it is."""

    def polygon(self, points: Iterable[Point], fill: Fill, edge: Fill | None = None) -> None:
        """Fills a polygon and its edge; what lets the background through is a blur, which isn't where the instrument is."""
        if len(fill) == 3:
            self.draw.polygon(self.pixels(points), _WHITE, _WHITE)

    def line(self, points: Iterable[Point], fill: Fill, width: float) -> None:
        """Draws a line of a width in instrument units."""
        if len(fill) == 3:
            self.draw.line(self.pixels(points), _WHITE, self.width(width), joint="curve")

    def hand(self, centre: Point, arm: float, alpha: int = 255) -> None:
        """Draws nothing: a hand is the player's."""

    def head(self, mouth: Point, moment: Moment) -> None:
        """Draws nothing: a head is the player's."""

    def strike(self, target: Point, moment: Moment, arm: float, head: float, colour: Colour, length: float = 0.62) -> None:
        """Draws nothing: a stick is the player's."""

    def waves(self, source: Point, direction: float, loudness: float) -> None:
        """Draws nothing."""


_ARC = [float(a) for a in np.linspace(-0.75, 0.75, 9)]
