"""The room around the player: how deep it is tells how much it echoes, the weather behind its window is the noise one hears.

All else in it (colours, light, pictures, lamps, plants) is there to be ignored.
"""

import colorsys
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from avmae_jax.data.instruments.canvas import Colour, blend, ghosts, shade
from avmae_jax.data.instruments.phrase import Moment


class Room(NamedTuple):
    """An empty room, and where the window of its near wall is."""

    image: Image.Image  # RGB, without the window
    window: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    frame: Colour
    drops: np.ndarray  # float[D, 2]: where in the window the streaks of rain begin, in [0, 1]
    rain: float  # Traits.rain
    wall: Colour
    metronome: tuple[float, float]  # middle of its foot, in pixels
    wood: Colour  # of the metronome


def any_colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A colour of any hue."""
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return (int(255 * r), int(255 * g), int(255 * b))


def build_room(size: int, hall: float, rain: float, rng: np.random.Generator) -> Room:
    """Draws an empty room.

    Args:
      size: pixels a side.
      hall: Traits.hall; the back wall is the smaller the deeper the hall.
      rain: Traits.rain.
      rng: source of everything else.
    """
    wall, floor = any_colour(rng, (0.05, 0.6), (0.35, 0.95)), any_colour(rng, (0.1, 0.6), (0.25, 0.75))
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
    for _ in range(rng.integers(0, 4)):
        _furnish(draw, size, (left, top, right, bottom), rng)
    light = Image.linear_gradient("L").rotate(float(rng.choice([0, 90, 180, 270]))).resize((size, size))
    image = Image.blend(image, Image.merge("RGB", (light, light, light)), rng.uniform(0, 0.2))
    side = rng.integers(2) * 0.68 * size
    window = (side + 0.03 * size, 0.03 * size, side + 0.29 * size, 0.29 * size)
    corner = (0.88 * size if side == 0 else 0.12 * size, 0.97 * size)
    drops = rng.uniform(0, 1, (36, 2))
    return Room(image, window, any_colour(rng, (0.0, 0.5), (0.6, 1.0)), drops, rain, wall, corner, any_colour(rng, (0.5, 0.9), (0.3, 0.6)))


def _furnish(draw: ImageDraw.ImageDraw, size: int, back: tuple[float, float, float, float], rng: np.random.Generator) -> None:
    """A picture, a lamp or a plant."""
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


def draw_metronome(image: Image.Image, room: Room, moment: Moment) -> None:
    """Draws the metronome that the player follows: its weight sits the lower the faster it ticks, its arm blurs over the whole swing."""
    draw, (x, y), u = ImageDraw.Draw(image, "RGBA"), room.metronome, 0.24 * image.width
    stroke = max(1, round(u / 22))
    draw.polygon(
        [(x - 0.36 * u, y), (x + 0.36 * u, y), (x + 0.15 * u, y - u), (x - 0.15 * u, y - u)], room.wood, shade(room.wood, 0.4), stroke
    )
    draw.polygon(
        [(x - 0.2 * u, y - 0.1 * u), (x + 0.2 * u, y - 0.1 * u), (x + 0.1 * u, y - 0.94 * u), (x - 0.1 * u, y - 0.94 * u)], (250, 244, 225)
    )
    weight = 0.95 - 0.65 * moment.rate

    def arm(swing: float, alpha: int) -> None:
        sin, cos = math.sin(0.5 * swing) * u, math.cos(0.5 * swing) * u
        draw.line([(x, y - 0.1 * u), (x + sin, y - 0.1 * u - cos)], (20, 20, 25, alpha), stroke)
        wx, wy, r = x + weight * sin, y - 0.1 * u - weight * cos, 0.12 * u
        draw.ellipse((wx - r, wy - r, wx + r, wy + r), (225, 30, 40, alpha), (20, 20, 25, alpha), stroke)

    for share in ghosts(moment):
        arm(2 * share - 1, 90)
    arm(moment.stroke * math.cos(math.pi * moment.phase), 255)
