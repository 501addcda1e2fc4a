"""Describes the ways in which a classifier is applied: which modalities it is given, and which norms they run through."""

import dataclasses
from collections.abc import Sequence
from typing import cast

from avmae_jax.config import Modality
from avmae_jax.models.layers import MAIN


@dataclasses.dataclass(frozen=True)
class Mode:
    """One way of applying a classifier. It prints as its official name, under which files store it."""

    name: str
    inputs: tuple[str, ...]  # modalities that must be given
    streams: tuple[str, ...]  # norms of the joint blocks; the tokens of several streams are averaged

    @property
    def given(self) -> Modality:
        """What the classifier is given: "both", "audio" or "image"."""
        return "both" if len(self.inputs) > 1 else cast(Modality, next(iter(self.inputs)))

    @property
    def averaged(self) -> bool:
        """True if a modality is missing that the classifier was tuned on: then two passes are averaged."""
        return len(self.streams) > 1

    def __str__(self) -> str:
        return self.name


MULTIMODAL = Mode("multimodal", ("audio", "image"), (MAIN,))
# A model tuned on both knows the joint norms; with one modality missing the original takes the mean of the passes with either norms.
MODES = (
    MULTIMODAL,
    Mode("audioonly", ("audio",), ("audio",)),
    Mode("videoonly", ("image",), ("image",)),
    Mode("missingaudioonly", ("audio",), ("audio", MAIN)),
    Mode("missingvideoonly", ("image",), ("image", MAIN)),
)


def learned(tuned: Mode, modes: Sequence[Mode] = MODES) -> tuple[Mode, ...]:
    """Lists the modes that a classifier has learned, by the mode that it was tuned in: that one first, then those that miss a modality."""
    return tuned, *(mode for mode in modes if mode.averaged and tuned.given == "both")


def find_mode(name: str, modes: Sequence[Mode] = MODES, tuned: Mode | None = None) -> Mode:
    """Finds a mode by its official name, or by what is given to a classifier.

    Args:
      name: an official name, or "both", "audio" or "image".
      modes: those that the kind of model has.
      tuned: the mode in which the classifier was tuned, which decides what "audio" and "image" mean; None: tuned on just that.

    Raises:
      ValueError: if there is no such mode, or a model tuned so can't do without the other modality.
    """
    candidates = modes if tuned is None else [*learned(tuned, modes), *modes]
    found = next((mode for mode in candidates if name in (mode.name, mode.given)), None)
    if found is None:
        choices = dict.fromkeys([*(mode.given for mode in modes), *(mode.name for mode in modes)])
        raise ValueError(f"given is {name!r}; choose one of {', '.join(choices)}")
    return found
