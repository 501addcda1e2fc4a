"""Writes how audio and images of a film match along time: how far they are apart, each against each, and what is like the audio."""

import math

from avmae_jax.demo import html
from avmae_jax.demo.html import escape
from avmae_jax.demo.limits import clock
from avmae_jax.demo.sections import layers_of
from avmae_jax.demo.timeline import ticks_of
from avmae_jax.inference.file_match import FileMatch
from avmae_jax.inference.offset import Offset
from avmae_jax.plots.heatmap import colour_limits
from avmae_jax.plots.pixels import frame_layers, matrix_pixels, png

_ABOUT = "Each picture was compared with the sound around each moment: rows are pictures, columns are sounds, bright is a good fit."
_DIAGONAL = "On the dotted line both are of the same moment."
_UNCHECKED = "The certainty was fitted to another model; launch.sync_check fits it to this one."


def match_along_time(found: FileMatch, seconds: float) -> str:
    """Writes the section of a film that is so many seconds long."""
    _, matrix = found.vectors.matrix()
    start, end = float(found.vectors.times[0]), float(found.vectors.times[-1])
    inside = html.image(png(matrix_pixels(matrix)), f"{_ABOUT} {_DIAGONAL}") + _lines(found.offset, end - start)
    times = "".join(f'<span style="left:{100 * (tick - start) / (end - start):.2f}%">{clock(tick)}</span>' for tick in ticks_of(start, end))
    drawn = (
        f'<figure class="av-square"><div class="av-inside">{inside}</div><div class="av-seconds" aria-hidden="true">{times}</div>'
        f"<figcaption>{escape(_ABOUT)} {escape(_lines_in_words(found.offset))}</figcaption></figure>"
    )
    unchecked = "" if found.calibrated else f'<p class="av-note">{escape(_UNCHECKED)}</p>'
    content = f'<p class="av-answer">{escape(answer(found.offset))}</p>{unchecked}{drawn}{_places(found)}'
    note = f"The first {math.ceil(end)} s were compared." if seconds > end + 1 else ""
    return html.section("Are sound and picture in step?", content, note=note, name="match")


def answer(offset: Offset) -> str:
    """Says the offset in a sentence."""
    words = offset.words("sound", "picture").replace("'", "’")
    return f"{words[0].upper()}{words[1:]}."


def _lines_in_words(offset: Offset) -> str:
    return _DIAGONAL if offset.seconds is None else f"{_DIAGONAL} The full line is where they fit best."


def _lines(offset: Offset, length: float) -> str:
    """Draws the diagonal, and the line of the offset: the audio of an image at y lies at y + offset."""
    found = '<line class="av-same" x1="0" y1="0" x2="100" y2="100"/>'
    if offset.seconds is not None:
        apart = 100 * offset.seconds / length
        found += f'<line x1="{apart:.2f}" y1="0" x2="{100 + apart:.2f}" y2="100"/>'
    return f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{found}</svg>'


def _places(found: FileMatch) -> str:
    """Shows images of the film, and behind a switch which of their patches are most like the audio."""
    heat = found.vectors.heat
    if heat is None:
        return ""
    numbers = [number for number, _ in found.shown]
    limits = colour_limits({"image": heat[numbers]}, None)["image"]
    pictures = "".join(
        f"<figure>{layers_of(frame_layers(image, heat[number], limits), f'The picture at {clock(when)}', '')}"
        f"<figcaption>{clock(when)}</figcaption></figure>"
        for number, image in found.shown
        for when in [float(found.vectors.times[number])]
    )
    words = "Show what in the pictures is like the sound; red is most like it"
    switch = f'<label class="av-switch"><input type="checkbox" class="av-heat-on"> {words}</label>'
    return f'<div class="av-explained"><h3>Pictures along time</h3>{switch}<div class="av-frames">{pictures}</div></div>'
