"""Holds the colours of all plots and pages, light and dark.

The lines are told apart by people with any kind of colour blindness, and every text has a contrast of at least 4.5:1 to what it stands on;
tests/plots/test_palette.py computes both.
"""

from typing import NamedTuple


class Scheme(NamedTuple):
    """Holds colours that fit each other, as #rrggbb."""

    page: str  # the background
    card: str  # of what is set off from the page
    text: str
    soft: str  # text of less weight
    line: str  # borders, and grids behind curves
    accent: str  # links
    right: str  # text and marks: correct, or a query's own partner
    wrong: str  # text and marks: mistaken, not finite, missing
    series: tuple[str, ...]  # lines, in this order

    @property
    def training(self) -> str:
        """Returns the colour of training values."""
        return self.series[0]

    @property
    def held_out(self) -> str:
        """Returns the colour of held-out values."""
        return self.series[1]


LIGHT = Scheme(
    page="#ffffff",
    card="#f6f7f9",
    text="#1c1e21",
    soft="#5a616b",
    line="#dcdfe3",
    accent="#2459b8",
    right="#0066a1",
    wrong="#b34700",
    series=("#0072b2", "#d55e00", "#222222", "#8c19ff", "#8c523f"),
)
DARK = Scheme(
    page="#15181c",
    card="#1e2227",
    text="#e4e6e9",
    soft="#9aa2ad",
    line="#363b42",
    accent="#86b0ff",
    right="#6bb8ee",
    wrong="#f2a05c",
    series=("#56b4e9", "#f08c3a", "#ffffff", "#8a8a8a", "#c619ff"),
)


def readable_on(red: float, green: float, blue: float) -> str:
    """Returns black or white, whichever has more contrast to a colour in [0, 1]; it is at least 4.5:1."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


SPECTROGRAM = "magma"  # dark to bright, evenly, for any kind of colour blindness
SHARES = "Blues"  # of a whole: white is none
SIGNED = "bwr"  # blue is against, red is for
HIDDEN = "#808080"  # patches that the encoder doesn't see
BROKEN = "#ff00ff"  # values that aren't finite, in images
PADDING, HATCHING = "#e9ebee", "#a6acb5"  # where a spectrogram has no audio
