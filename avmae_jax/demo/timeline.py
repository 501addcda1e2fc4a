"""Draws values along time under a player; static/page.js moves the cursor and seeks."""

import json
import math
from typing import NamedTuple

import numpy as np

from avmae_jax.demo.answers import Answer
from avmae_jax.demo.html import escape, percent
from avmae_jax.demo.limits import clock
from avmae_jax.inference.along_time import MATCH

PLAYER = "av-player"  # the id of the player's element
_WIDTH, _HEIGHT = 1000, 40  # of a row, in units of its own
_AT_END = 0.97  # of the axis: a tick's words stand left of it from here on
_TICKS = 6  # at most, and about
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds from tick to tick


class Track(NamedTuple):
    """Holds one row."""

    name: str
    values: np.ndarray  # float32[n], NaN where there is none
    low: float
    high: float
    form: str  # "percent" or "number"


def tracks_of(answer: Answer) -> list[Track]:
    """Returns the rows of an answer: its first classes, and the match."""
    course, values = answer.course, answer.probabilities
    if course is None:
        return []
    scores, tracks = course.given_all(), []
    if scores is not None and values is not None:
        for label in np.argsort(-values, kind="stable")[:5]:
            tracks.append(Track(answer.label_names[label], scores[:, label], 0.0, 1.0, "percent"))
    if MATCH in course.values:
        tracks.append(Track("match of sound and picture", course.values[MATCH], -1.0, 1.0, "number"))
    return tracks


def timeline(answer: Answer) -> str:
    """Writes the timeline of an answer; "" where there is no time, as in an image."""
    course = answer.course
    tracks = tracks_of(answer)
    if course is None or not tracks or course.end <= 0:
        return ""
    end = course.end
    centres = course.starts + course.seconds / 2
    rows = "".join(_row(track, centres, end) for track in tracks)
    ticks = "".join(_tick(second, end) for second in ticks_of(0.0, end))
    label = "Moment in the recording. Arrow keys move it by a second, page keys by ten."
    return (
        f'<av-timeline data-player="{PLAYER}" data-end="{end:.2f}" data-times="{_numbers(centres)}">'
        f'<div class="av-rows" role="slider" tabindex="0" aria-label="{label}" aria-valuemin="0" aria-valuemax="{end:.1f}" '
        f'aria-valuenow="0">{rows}<div class="av-cursor" aria-hidden="true"></div></div>'
        f'<div class="av-axis" aria-hidden="true"><div>{ticks}</div></div></av-timeline>'
    )


def ticks_of(start: float, end: float) -> list[float]:
    """Returns round moments for an axis in seconds."""
    step = next((step for step in _STEPS if (end - start) / step <= _TICKS), _STEPS[-1])
    return [number * step for number in range(math.ceil(start / step - 1e-9), math.floor(end / step + 1e-9) + 1)]


def _tick(second: float, end: float) -> str:
    place = "av-last" if second > _AT_END * end else ""
    return f'<span class="{place}" style="left:{100 * second / end:.2f}%">{clock(second)}</span>'


def _row(track: Track, centres: np.ndarray, end: float) -> str:
    there = np.isfinite(track.values)
    if not there.any():
        return ""
    shares = np.clip((track.values[there] - track.low) / (track.high - track.low), 0, 1)
    points = list(zip(centres[there] / end * _WIDTH, _HEIGHT * (1 - shares), strict=True))
    points = [(0.0, points[0][1]), *points, (float(_WIDTH), points[-1][1])]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    base = _HEIGHT * (1 - np.clip(-track.low / (track.high - track.low), 0, 1))
    drawing = (
        f'<polygon points="0,{base:.1f} {line} {_WIDTH},{base:.1f}"/><polyline points="{line}"/>'
        f'<line x1="0" x2="{_WIDTH}" y1="{base:.1f}" y2="{base:.1f}"/>'
    )
    shown = percent(float(track.values[there][0])) if track.form == "percent" else f"{track.values[there][0]:.2f}"
    return (
        f'<div class="av-row" data-form="{track.form}" data-name="{escape(track.name)}" data-values="{_numbers(track.values)}">'
        f'<span class="av-name">{escape(track.name)}</span>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{drawing}</svg>'
        f'<span class="av-value">{shown}</span></div>'
    )


def _numbers(values: np.ndarray) -> str:
    return escape(json.dumps([float(f"{value:.6g}") if np.isfinite(value) else None for value in values], separators=(",", ":")))
