"""Names the trained models that are installed with the package, so that prediction works without training and without a network."""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "box"
DEFAULT = "instruments12"  # the one that answers where no model is given
SUFFIX = ".safetensors"


class Boxed(NamedTuple):
    """Describes one of the models."""

    name: str
    path: Path  # of its weights
    card: str  # what it was trained on, how good it is, and its limits: Markdown

    @property
    def summary(self) -> str:
        """Returns the first paragraph of the card in a line: which model it is and how good."""
        paragraphs = [part for part in self.card.split("\n\n") if not part.startswith("#")]
        return " ".join(paragraphs[0].split())


def names() -> list[str]:
    """Lists the models."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def find(name: str | Path) -> Boxed | None:
    """Finds a model by its name; None if the package has none of this name, or if there is a file or a folder called so."""
    name = str(name)
    if name not in names() or Path(name).expanduser().exists():
        return None
    path = FOLDER / f"{name}{SUFFIX}"
    return Boxed(name, path, path.with_suffix(".md").read_text(encoding="utf-8"))
