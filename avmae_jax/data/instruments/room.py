"""Draws the room around the player: its depth and its bare walls make it echo, the weather behind its window is the noise one hears.

All else in it (colours, light, paintings, lamps, plants) is there to be ignored.
"""

import colorsys
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from avmae_jax.data.instruments.canvas import Colour, blend, ghosts, shade
from avmae_jax.data.instruments.phrase import Moment

PAPER: Colour = (250, 244, 225)
LAMPS: tuple[Colour, ...] = ((60, 235, 80), (255, 215, 40), (255, 50, 40))


class Room(NamedTuple):
    """Holds an empty room, and where the window of its near wall is."""

    image: Image.Image  # RGB, without the window
    window: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    frame: Colour
    drops: np.ndarray  # float[D, 2]: where in the window the streaks of rain begin, in [0, 1]
    rain: float  # Traits.rain
    metronome: tuple[float, float]  # middle of its foot, in pixels
    meter: tuple[float, float]  # as metronome
    wood: Colour  # of the metronome


def any_colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """Draws a colour of any hue at random."""
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return (int(255 * r), int(255 * g), int(255 * b))


def build_room(size: int, hall: float, rain: float, rng: np.random.Generator) -> Room:
    """Draws an empty room.

    Args:
      size: pixels a side.
      hall: Traits.hall; the higher, the farther away and the barer of absorbers is the back wall.
      rain: Traits.rain.
      rng: source of everything else.
    """
    wall, floor = any_colour(rng, (0.05, 0.5), (0.55, 0.95)), any_colour(rng, (0.1, 0.6), (0.25, 0.75))
    image = Image.new("RGB", (size, size), shade(wall, 0.8))
    draw = ImageDraw.Draw(image, "RGBA")
    half = 0.5 * (0.92 - 0.62 * hall) * size
    x, y = size * rng.uniform(0.46, 0.54), size * rng.uniform(0.42, 0.5)
    left, top, right, bottom = x - half, y - half, x + half, y + 0.8 * half
    draw.polygon([(0, 0), (size, 0), (right, top), (left, top)], shade(wall, 1.35))
    draw.polygon([(0, size), (size, size), (right, bottom), (left, bottom)], floor)
    draw.polygon([(size, 0), (size, size), (right, bottom), (right, top)], shade(wall, 0.62))
    for share in np.linspace(0, 1, 7):  # floor boards and, between them, how far the hall goes
        draw.line([(size * (1.6 * share - 0.3), size), (left + (right - left) * share, bottom)], shade(floor, 0.7), max(1, size // 120))
    draw.rectangle((left, top, right, bottom), wall, shade(wall, 0.35), max(2, size // 70))
    for corner, inner in (((0, 0), (left, top)), ((size, 0), (right, top)), ((0, size), (left, bottom)), ((size, size), (right, bottom))):
        draw.line([corner, inner], shade(wall, 0.35), max(2, size // 90))
    foam, width = any_colour(rng, (0.1, 0.6), (0.12, 0.3)), (right - left) / 5
    for number in range(5):  # absorbers on the wall of a dry room
        x0, drop = left + width * (number + 0.07), top + (bottom - top) * (1 - hall)
        draw.rectangle((x0, top, x0 + 0.86 * width, drop), foam)
    for _ in range(rng.integers(0, 4)):
        _furnish(draw, size, (left, top, right, bottom), rng)
    light = Image.linear_gradient("L").rotate(float(rng.choice([0, 90, 180, 270]))).resize((size, size))
    image = Image.blend(image, Image.merge("RGB", (light, light, light)), rng.uniform(0, 0.2))
    x, y = size * rng.uniform(0.02, 0.05, 2)
    return Room(
        image=image,
        window=(x, y, x + 0.28 * size, y + 0.28 * size),
        frame=any_colour(rng, (0.0, 0.5), (0.6, 1.0)),
        drops=rng.uniform(0, 1, (36, 2)),
        rain=rain,
        metronome=(size * rng.uniform(0.86, 0.9), size * rng.uniform(0.96, 0.99)),
        meter=(size * rng.uniform(0.1, 0.14), size * rng.uniform(0.96, 0.99)),
        wood=any_colour(rng, (0.5, 0.9), (0.3, 0.6)),
    )


def _furnish(draw: ImageDraw.ImageDraw, size: int, back: tuple[float, float, float, float], rng: np.random.Generator) -> None:
    """Draws a painting, a lamp or a plant."""
    left, top, right, bottom = back
    colour, second = any_colour(rng, (0.3, 0.9), (0.3, 1.0)), any_colour(rng, (0.3, 0.9), (0.3, 1.0))
    x, y, u = rng.uniform(left, right), rng.uniform(top, (top + bottom) / 2), size * rng.uniform(0.05, 0.1)
    kind = rng.integers(3)
    if kind == 0:
        draw.rectangle((x - u, y - 0.8 * u, x + u, y + 0.8 * u), colour, shade(colour, 0.4), max(1, size // 90))
        draw.ellipse((x - 0.5 * u, y - 0.4 * u, x + 0.3 * u, y + 0.4 * u), second)
    elif kind == 1:
        draw.line([(x, 0), (x, y)], shade(colour, 0.3), max(1, size // 120))
        draw.polygon([(x - 0.4 * u, y), (x + 0.4 * u, y), (x + u, y + u), (x - u, y + u)], colour)
        draw.ellipse((x - 0.4 * u, y + 0.8 * u, x + 0.4 * u, y + 1.4 * u), (255, 245, 190))
    else:
        foot = size * rng.uniform(0.85, 0.95)
        x = float(rng.choice([0.07, 0.93])) * size
        for lean in (-0.8, -0.4, 0.0, 0.4, 0.8):
            draw.line(
                [(x, foot), (x + lean * 1.6 * u, foot - (2.6 - abs(lean)) * u)], blend((40, 120, 50), colour, 0.2), max(2, size // 50)
            )
        draw.rectangle((x - 0.6 * u, foot - 0.4 * u, x + 0.6 * u, foot + 0.8 * u), second)


def draw_window(image: Image.Image, room: Room, share: float) -> None:
    """Draws the window and the weather `share` of the way through the clip."""
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = room.window
    width, height = right - left, bottom - top
    stroke = max(1, round(width / 40))
    sky = blend((110, 195, 255), (50, 55, 66), room.rain)
    draw.rectangle(room.window, sky)
    draw.rectangle((left, bottom - 0.25 * height, right, bottom), blend((90, 170, 80), (40, 60, 45), room.rain))
    if room.rain < 0.5:
        sun = 0.2 * width * (1 - 2 * room.rain) ** 0.5
        draw.ellipse(
            (right - 0.3 * width - sun, top + 0.3 * height - sun, right - 0.3 * width + sun, top + 0.3 * height + sun), (255, 236, 120)
        )
    for x, y in room.drops[: round(len(room.drops) * room.rain)]:
        x0, y0 = left + 0.94 * width * x, top + 0.76 * height * ((y + 7.3 * share) % 1.0)
        draw.line([(x0, y0), (x0 + 0.05 * width, y0 + 0.24 * height)], (215, 228, 245), stroke)
    draw.line([(left + width / 2, top), (left + width / 2, bottom)], room.frame, 2 * stroke)
    draw.rectangle(room.window, None, room.frame, 3 * stroke)


def draw_props(image: Image.Image, room: Room, moment: Moment) -> None:
    """Draws the metronome and the level meter, in front of all else."""
    draw = ImageDraw.Draw(image, "RGBA")
    _draw_metronome(draw, room, moment, 0.27 * image.width)
    _draw_meter(draw, room, moment, 0.27 * image.width)


def _draw_metronome(draw: ImageDraw.ImageDraw, room: Room, moment: Moment, u: float) -> None:
    """Draws the metronome that the player follows: its weight sits lower the faster it ticks, and its arm blurs over its swing."""
    x, y = room.metronome
    stroke = max(1, round(u / 22))
    draw.polygon(
        [(x - 0.36 * u, y), (x + 0.36 * u, y), (x + 0.2 * u, y - u), (x - 0.2 * u, y - u)], room.wood, shade(room.wood, 0.4), stroke
    )
    draw.polygon(
        [(x - 0.24 * u, y - 0.06 * u), (x + 0.24 * u, y - 0.06 * u), (x + 0.15 * u, y - 0.96 * u), (x - 0.15 * u, y - 0.96 * u)], PAPER
    )
    weight = 0.9 - 0.72 * moment.rate

    def arm(swing: float, alpha: int) -> None:
        sin, cos = math.sin(0.4 * swing) * u, math.cos(0.4 * swing) * u
        draw.line([(x, y - 0.06 * u), (x + sin, y - 0.06 * u - cos)], (20, 20, 25, alpha), stroke)
        wx, wy, r = x + weight * sin, y - 0.06 * u - weight * cos, 0.14 * u
        draw.ellipse((wx - r, wy - r, wx + r, wy + r), (225, 30, 40, alpha), (20, 20, 25, alpha), stroke)

    for share in ghosts(moment):
        arm(2 * share - 1, 90)
    arm(moment.stroke * math.cos(math.pi * moment.phase), 255)


def _draw_meter(draw: ImageDraw.ImageDraw, room: Room, moment: Moment, u: float) -> None:
    """Draws the recorder's level meter: lamps from green to red, lit up to the loudness of the note."""
    x, y = room.meter
    draw.rectangle((x - 0.3 * u, y - 1.25 * u, x + 0.3 * u, y), (28, 28, 34), (8, 8, 10), max(1, round(u / 22)))
    lamps, lit = 12, 0.5 + 11.5 * moment.loudness
    for number in range(lamps):
        colour = LAMPS[0] if number < 6 else LAMPS[1] if number < 9 else LAMPS[2]
        glow = min(1.0, max(0.0, lit - number))  # the last lamp dims, so that the meter moves continuously
        bottom = y - (0.08 + 0.092 * number) * u
        draw.rectangle((x - 0.2 * u, bottom - 0.07 * u, x + 0.2 * u, bottom), blend(shade(colour, 0.22), colour, glow))
