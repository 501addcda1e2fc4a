"""Finds the models in the box: trained classifiers that are installed with the package, each with a card that says how good it is.

`launch/box.py` makes them anew.
"""

import dataclasses
from pathlib import Path
from typing import Any

from avmae_jax.data.text_files import read_json
from avmae_jax.errors import WeightsError

FOLDER = Path(__file__).parent / "boxed"
DEFAULT = "instruments12"

_TEXT = """# {name}

A classifier ({kind}) of audio and image with {count} classes: {classes}. {parameters:.2f} M parameters, stored in float16.

**Trained** on {clips} clips of 10 s, {held_out} of which were held out while the figures were measured, and on {generated} generated clips
of those classes that the built-in set has too. No clip is contained in the package. `launch/box.py` makes the file anew.

{about}

**Measured** on the {held_out} held-out clips, with a model that was trained in the same way without them; in brackets the 95 % interval:

| given | accuracy | mAP |
|---|---|---|
{rows}

**Limits.** It answers one of its classes for whatever it hears or sees, and several instruments at once get one name: give
`--unsure_below`. Recordings unlike those of training are named right less often than the table says. An image alone is a weak hint.
"""


@dataclasses.dataclass(frozen=True)
class Figures:
    """Holds what was measured of a classifier that was trained in the same way, on clips that it has never seen."""

    accuracy: float
    accuracy_interval: tuple[float, float]  # the middle 95 % of bootstrap draws
    map: float
    map_interval: tuple[float, float]

    def row(self, given: str) -> str:
        """Returns a line of a Markdown table."""
        pairs = ((self.accuracy, self.accuracy_interval), (self.map, self.map_interval))
        return f"| {given} | " + " | ".join(f"{value:.3f} ({low:.2f} to {high:.2f})" for value, (low, high) in pairs) + " |"


@dataclasses.dataclass(frozen=True)
class Card:
    """Describes a model in the box."""

    name: str
    kind: str
    label_names: tuple[str, ...]
    clips: int  # that it was trained on, apart from generated ones
    generated: int
    held_out: int  # clips that the figures are of
    figures: dict[str, Figures]  # by what the classifier is given: both, audio, image
    about: str  # of the clips

    @property
    def line(self) -> str:
        """Says in one line which model answers, and how good it is."""
        both = self.figures["both"]
        low, high = both.accuracy_interval
        right = f"right for {both.accuracy:.0%} of {self.held_out} held-out clips (95 % interval {low:.0%} to {high:.0%})"
        return f"{self.name}, the model in the box, answers: {len(self.label_names)} classes, {right}; --model chooses another"

    def text(self, parameters: int) -> str:
        """Returns the card in Markdown, of a model with so many parameters."""
        fields = {**vars(self), "count": len(self.label_names), "classes": ", ".join(self.label_names), "parameters": parameters / 1e6}
        return _TEXT.format(**fields, rows="\n".join(row.row(given) for given, row in self.figures.items()))


def located(path: str | Path) -> Path:
    """Returns the file of a model in the box for its name, and any other path as it is; `./NAME` is a path of one's own."""
    return _file(path) if is_boxed(path) else Path(path).expanduser()


def is_boxed(path: str | Path) -> bool:
    """Returns whether this is the name of a model in the box."""
    return "/" not in str(path) and _file(path).is_file()


def card_of(name: str) -> Card:
    """Reads the card of a model in the box; raises WeightsError if it is damaged."""
    file = FOLDER / f"{name}.json"
    content: Any = read_json(file)
    try:
        figures = {given: Figures(**row) for given, row in content["figures"].items()}
        return Card(**{**content, "figures": figures})
    except (TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{file} is damaged ({error}); install the package again") from error


def _file(name: str | Path) -> Path:
    return FOLDER / f"{name}.safetensors"
