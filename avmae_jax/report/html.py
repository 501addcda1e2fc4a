"""Builds a page that opens offline: one HTML file without a script or an outside link, with all its plots and audio inside.

A piece of HTML is a str that one of these functions returned; they escape every other text. Plots and audio are data URIs, and the page's
Content-Security-Policy forbids a browser to load anything else.
"""

import base64
import html
import io
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from avmae_jax.files import printable
from avmae_jax.plots.canvas import DENSITY, DPI, SMALL
from avmae_jax.plots.curves import CURVE_HEIGHT, CURVE_WIDTH
from avmae_jax.plots.palette import DARK, LIGHT, Scheme

_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGE = 200_000  # bytes of a PNG that is embedded as WebP instead; photographs become a tenth of it
_QUALITY = 90  # of the WebP
_LARGEST = 16_383  # pixels of a side of a WebP
_SMALLER = SMALL / 10  # a plot's letters may shrink to 10 pixels before it scrolls


def _colours(scheme: Scheme) -> str:
    names = ("page", "card", "text", "soft", "line", "accent", "wrong")
    return " ".join(f"--{name}: {getattr(scheme, name)};" for name in names)


_STYLE = (
    f"""
:root {{ color-scheme: light dark; {_colours(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colours(DARK)} }} }}
"""
    + """* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1232px; padding: 1.2rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.4rem 0; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 0.6rem; padding-top: 0.6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
p { margin: 0.5rem 0; max-width: 75ch; }
.soft { color: var(--soft); }
a { color: var(--accent); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; margin: 0.8rem 0; padding: 0; }
.scroll { overflow-x: auto; margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child { min-width: 7rem; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
figure { margin: 0.8rem 0; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
figcaption { color: var(--soft); font-size: 0.9rem; margin: 0.2rem 0; }
.grid { display: grid; gap: 0.8rem; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.grid figure { margin: 0; min-width: 0; display: flex; flex-direction: column; justify-content: space-between; }
.grid img { width: 100%; }
audio { display: block; width: 100%; max-width: 420px; }
.missing { background: var(--card); border-left: 4px solid var(--wrong); padding: 0.5rem 0.9rem; border-radius: 4px; margin: 0.7rem 0; }
code, pre { font: 0.85rem/1.45 ui-monospace, monospace; background: var(--card); border-radius: 4px; }
code { padding: 0.1rem 0.3rem; }
pre { padding: 0.8rem; overflow-x: auto; overflow-wrap: normal; }
summary { cursor: pointer; color: var(--accent); margin: 0.5rem 0; }
"""
)


def escape(text: str) -> str:
    """Turns text into a piece of HTML that shows it; what a browser would act on becomes an escape."""
    return html.escape(printable(text))


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """Builds the whole file.

    Args:
      title: text.
      subtitle: a piece of HTML.
      sections: the heading of each, a text, and its content, a piece of HTML; a table of contents links to them.
    """
    links = "".join(f'<li><a href="#section-{n}">{escape(heading)}</a></li>' for n, (heading, _) in enumerate(sections))
    body = "".join(
        f'<section id="section-{n}"><h2>{escape(heading)}</h2>\n{content}</section>\n' for n, (heading, content) in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n{subtitle}</header>\n<nav><ul>{links}</ul></nav>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def paragraph(text: str, *, soft: bool = False) -> str:
    """Wraps text in a paragraph."""
    return f'<p class="soft">{escape(text)}</p>\n' if soft else f"<p>{escape(text)}</p>\n"


def missing(text: str, command: str = "") -> str:
    """Names what is missing, and the command that makes it."""
    made = f" It is made by <code>{escape(command)}</code>" if command else ""
    return f'<div class="missing">{escape(text)}{made}</div>\n'


def folded(summary: str, content: str, *, is_open: bool = False) -> str:
    """Folds a piece of HTML away until it is clicked."""
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>\n{content}</details>\n"


def preformatted(text: str) -> str:
    """Shows text with its spaces and line breaks."""
    return f"<pre>{escape(text)}</pre>\n"


def grid(pieces: Iterable[str]) -> str:
    """Places pieces of HTML side by side as far as there is room."""
    return f'<div class="grid">{"".join(pieces)}</div>\n'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Builds a table, which scrolls on a narrow screen. A column is aligned as numbers if its first value looks like one."""
    cells = [list(row) for row in rows]
    numeric = [bool(cells) and column < len(cells[0]) and _is_number(cells[0][column]) for column in range(len(head))]

    def line(tag: str, values: Sequence[Any]) -> str:
        marks = ((' scope="col"' if tag == "th" else "") + (' class="number"' if right else "") for right in numeric)
        return (
            "<tr>" + "".join(f"<{tag}{mark}>{escape(words(value))}</{tag}>" for mark, value in zip(marks, values, strict=True)) + "</tr>\n"
        )

    body = "".join(line("td", row) for row in cells)
    return f'<div class="scroll" tabindex="0"><table>\n<thead>{line("th", head)}</thead>\n<tbody>{body}</tbody></table></div>\n'


def heading(text: str) -> str:
    """Writes a heading inside a section."""
    return f"<h3>{escape(text)}</h3>\n"


def curve(draw: Callable[[Scheme], bytes], alt: str) -> str:
    """Embeds an SVG that is drawn twice, for light and for dark pages.

    Args:
      draw: returns the SVG in some colours.
      alt: what it shows, for those who can't see it.
    """
    light, dark = (_data_uri(draw(scheme), "image/svg+xml") for scheme in (LIGHT, DARK))
    size = f'width="{CURVE_WIDTH}" height="{CURVE_HEIGHT}"'
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return f'<figure><picture>{source}<img src="{light}" alt="{escape(alt)}" {size}></picture></figure>\n'


def image_file(path: Path, alt: str, caption: str = "") -> str:
    """Embeds a PNG file, or a note in its place if it can't be read or is no PNG.

    Args:
      path: of the file. One of plots.canvas is shown in the size that it was drawn for; on a narrow screen it scrolls.
      alt: what it shows, for those who can't see it.
      caption: above it.
    """
    if path.exists() and not path.is_file():
        return missing(f"{path} is no regular file.")
    try:
        data = path.read_bytes()
    except OSError as error:
        return missing(f"{path} can't be read ({error.strerror}).")
    if not data.startswith(_PNG):
        return missing(f"{path} is no PNG.")
    try:
        source, width, height = _embedded(data)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow raises SyntaxError for a broken PNG
        return missing(f"{path} is a damaged PNG.")
    above = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    least = f'style="min-width: {math.ceil(width / _SMALLER)}px"'
    shown = f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}" {least}>'
    return f'<figure>{above}<div class="scroll" tabindex="0">{shown}</div></figure>\n'


def _embedded(data: bytes) -> tuple[str, int, int]:
    """Returns a PNG as a data URI, and its size on the page; a large one becomes a WebP, which hardly differs and is much smaller."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        is_dense = round(picture.info.get("dpi", (0, 0))[0]) == round(DPI * DENSITY)
        width, height = (round(side / (DENSITY if is_dense else 1)) for side in picture.size)
        if len(data) < _LARGE or max(picture.size) > _LARGEST:
            picture.load()
            return _data_uri(data, "image/png"), width, height
        smaller = io.BytesIO()
        picture.convert("RGB").save(smaller, "WEBP", quality=_QUALITY)
        return _data_uri(smaller.getvalue(), "image/webp"), width, height


def sound(wav: bytes, label: str) -> str:
    """Embeds a WAV file with a player; `label` says what it plays, above it and to those who can't see it."""
    source = _data_uri(wav, "audio/wav")
    return (
        f'<figure><figcaption>{escape(label)}</figcaption><audio controls src="{source}" aria-label="{escape(label)}"></audio></figure>\n'
    )


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def words(value: Any) -> str:
    """Formats a value of a JSON file as text; None and numbers that aren't finite become a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 and abs(value) >= 2 else f"{value:.4g}"
    if isinstance(value, list | tuple) and not any(isinstance(item, list | tuple | dict) for item in value):
        return ", ".join(map(words, value))
    return str(value) if isinstance(value, str | int) else reprlib.repr(value)  # of nested lists not every level


def _is_number(value: Any) -> bool:
    return value is None or re.fullmatch(r"-|-?[\d.,]+(e[+-]?\d+)?%?( \([\d.]+%? to [\d.]+%?\))?", words(value)) is not None
