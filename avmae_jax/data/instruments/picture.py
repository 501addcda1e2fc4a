"""Draws a phrase: frames of an instrument being played in a room.

Drawn at twice the size and averaged down, which is what smooths the edges.
"""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from avmae_jax.data.instruments import strings, struck, winds
from avmae_jax.data.instruments.canvas import Canvas, Colour, Look, Outline, Point, Pose, blend
from avmae_jax.data.instruments.phrase import Moment, Phrase
from avmae_jax.data.instruments.room import any_colour, build_room, draw_props, draw_window

WOODS: tuple[Colour, ...] = ((190, 120, 60), (150, 75, 40), (215, 165, 95), (120, 60, 35), (225, 190, 130))
METALS: tuple[Colour, ...] = ((230, 185, 60), (205, 210, 218), (205, 125, 80), (245, 215, 110))
HAIRS: tuple[Colour, ...] = ((35, 25, 22), (90, 55, 30), (190, 140, 70), (160, 70, 35), (200, 198, 195))
SKINS: tuple[Colour, ...] = ((255, 214, 180), (240, 185, 145), (215, 150, 105), (165, 105, 70), (120, 75, 50))


FRAMES = 10  # of a clip, unless more or fewer are asked for


class Drawing(NamedTuple):
    """Describes how an instrument is drawn."""

    body: Callable[[Canvas], None]  # what stays still
    play: Callable[[Canvas, Moment], None]  # what moves
    turn: float  # degrees clockwise in which it is held
    source: Point  # where its acoustic waves start
    direction: float  # degrees in which they go


DRAWINGS = {
    "accordion": Drawing(winds.nothing, winds.accordion_play, 0, (0.0, -0.5), -90),
    "cello": Drawing(strings.cello_body, strings.cello_play, -82, (-0.6, -0.3), -120),
    "chimes": Drawing(struck.chimes_body, struck.chimes_play, 0, (0.1, 0.35), 60),
    "clarinet": Drawing(winds.nothing, winds.clarinet_play, 0, (0.25, 0.35), 20),
    "cymbal": Drawing(struck.cymbal_body, struck.cymbal_play, 0, (-0.4, -0.35), -120),
    "drum": Drawing(struck.drum_body, struck.drum_play, 0, (0.0, -0.35), -90),
    "flute": Drawing(winds.nothing, winds.flute_play, 0, (-0.35, -0.3), -60),
    "guitar": Drawing(strings.guitar_body, strings.guitar_play, -14, (-0.1, -0.2), -90),
    "harp": Drawing(strings.harp_body, strings.harp_play, 0, (-0.15, 0.3), 140),
    "piano": Drawing(strings.piano_body, strings.piano_play, 0, (-0.1, -0.15), -90),
    "trombone": Drawing(winds.trombone_body, winds.trombone_play, 0, (0.3, -0.5), -60),
    "trumpet": Drawing(winds.nothing, winds.trumpet_play, 0, (0.72, -0.32), -80),
    "violin": Drawing(strings.violin_body, strings.violin_play, -18, (-0.45, -0.3), -120),
    "xylophone": Drawing(struck.xylophone_body, struck.xylophone_play, 0, (0.0, -0.4), -90),
}


def film(phrase: Phrase, size: int, rng: np.random.Generator, frames: int = FRAMES) -> tuple[bytes, ...]:
    """Draws the frames of a phrase.

    Args:
      phrase: what is played.
      size: pixels a side of a frame.
      rng: source of colours, pose and furniture.
      frames: how many; what a frame shows follows from its moment alone, however many others there are.

    Returns:
      JPEGs of RGB [size, size], which divide the clip evenly, the first at its start.
    """
    drawing, double = DRAWINGS[phrase.instrument], 2 * size
    room = build_room(double, phrase.traits.hall, phrase.traits.rain, rng)
    look = _look(phrase, rng)
    pose = _pose(phrase, double, math.radians(drawing.turn), rng)
    drawing.body(Canvas(room.image, pose, look))
    drawn = []
    for number in range(frames):
        image = room.image.copy()
        moment = phrase.at(number / frames * phrase.seconds)
        canvas = Canvas(image, pose, look)
        canvas.waves(drawing.source, drawing.direction, moment.loudness)
        draw_window(image, room, number / frames)
        drawing.play(canvas, moment)
        draw_props(image, room, moment)
        data = io.BytesIO()
        image.reduce(2).save(data, "JPEG", quality=92)
        drawn.append(data.getvalue())
    return tuple(drawn)


def outlines(phrase: Phrase, size: int, rng: np.random.Generator, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """Computes where the instrument is in the frames that `film` draws of the same arguments, and where signs are that show the audio too.

    Returns:
      bool[F, size, size] twice, True where more than half of a pixel belongs to them: the instrument without its player; and the window
      with its weather, the metronome and the level meter, which stand before it.
    """
    drawing, double = DRAWINGS[phrase.instrument], 2 * size
    room = build_room(double, phrase.traits.hall, phrase.traits.rain, rng)
    look = _look(phrase, rng)
    pose = _pose(phrase, double, math.radians(drawing.turn), rng)
    still = Image.new("RGB", (double, double))
    drawing.body(Outline(still, pose, look))
    instrument, signs = np.zeros((2, frames, size, size), bool)
    for number in range(frames):
        image, moment = still.copy(), phrase.at(number / frames * phrase.seconds)
        drawing.play(Outline(image, pose, look), moment)
        instrument[number] = np.asarray(image.reduce(2))[..., 0] > 127
        drawn = []
        for ground in ("black", "white"):  # what is drawn is the same on both
            image = Image.new("RGB", (double, double), ground)
            draw_window(image, room, number / frames)
            draw_props(image, room, moment)
            drawn.append(np.asarray(image.reduce(2), int))
        signs[number] = np.abs(drawn[0] - drawn[1]).max(axis=-1) < 128
    return instrument & ~signs, signs


def _look(phrase: Phrase, rng: np.random.Generator) -> Look:
    painted = any_colour(rng, (0.5, 1.0), (0.4, 1.0))
    tint = any_colour(rng, (0.3, 1.0), (0.3, 1.0))
    return Look(
        paint=painted if rng.uniform() < 0.25 else blend(WOODS[rng.integers(len(WOODS))], tint, 0.15),
        trim=any_colour(rng, (0.2, 0.9), (0.4, 0.9)),
        metal=blend(METALS[rng.integers(len(METALS))], tint, 0.1),
        skin=blend(SKINS[rng.integers(len(SKINS))], tint, 0.05),
        hair=blend(HAIRS[rng.integers(len(HAIRS))], tint, 0.1),
        sleeve=any_colour(rng, (0.5, 1.0), (0.4, 1.0)),
        brightness=phrase.traits.brightness,
    )


def _pose(phrase: Phrase, size: int, turn: float, rng: np.random.Generator) -> Pose:
    return Pose(
        x=size * rng.uniform(0.46, 0.54),
        y=size * rng.uniform(0.5, 0.56),
        unit=size * 0.42 * rng.uniform(0.94, 1.06),
        grow=1.1 - 0.4 * phrase.traits.register,
        turn=turn + math.radians(rng.uniform(-6, 6)),
        mirror=bool(rng.integers(2)),
    )
