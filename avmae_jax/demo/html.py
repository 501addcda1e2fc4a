"""Writes pieces of HTML; each text in them goes through `escape`."""

import base64
import html
import io
import re
import wave

import numpy as np

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.files import printable

_ACTING = re.compile(r"[{}$`\\]")  # what gradio's templates act on
_FULL_SCALE = 32_767


def escape(text: str) -> str:
    """Turns text into HTML that shows it, in an element or a quoted attribute; nothing in it is acted on, by browsers or by templates."""
    return _ACTING.sub(lambda found: f"&#{ord(found[0])};", html.escape(printable(text)))


def section(heading: str, content: str, *, note: str = "", name: str = "") -> str:
    """Wraps HTML in a section with a heading, and a note below it."""
    below = f'<p class="av-note">{escape(note)}</p>' if note else ""
    return f'<section class="av-section" data-name="{escape(name)}"><h2>{escape(heading)}</h2>{below}{content}</section>'


def image(png: bytes, alt: str, *, classes: str = "") -> str:
    """Shows a PNG with words for those who can't see it."""
    return f'<img class="{classes}" alt="{escape(alt)}" src="{data_uri(png, "image/png")}">'


def sound(waveform: np.ndarray, label: str) -> str:
    """Offers float[S] at 16 kHz, of which 1 is full scale, on a player."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.rint(np.clip(waveform, -1, 1) * _FULL_SCALE).astype("<i2").tobytes())
    return f'<audio controls preload="none" aria-label="{escape(label)}" src="{data_uri(buffer.getvalue(), "audio/wav")}"></audio>'


def data_uri(content: bytes, kind: str) -> str:
    """Writes a file into the page itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def bars(rows: list[tuple[str, float]]) -> str:
    """Lists classes with their probabilities as bars."""
    items = "".join(
        f'<li><span class="av-name">{escape(name)}</span><span class="av-percent">{percent(value)}</span>'
        f'<span class="av-bar" aria-hidden="true"><span style="width:{100 * value:.1f}%"></span></span></li>'
        for name, value in rows
    )
    return f'<ol class="av-bars">{items}</ol>'


def percent(value: float) -> str:
    """Writes a share, without a false 0 or 100."""
    return "< 1 %" if 0 < value < 0.005 else "> 99 %" if 0.995 <= value < 1 else f"{value:.0%}".replace("%", " %")
