"""Warns of measurements on so few clips that their figures say little."""

from collections import Counter
from collections.abc import Sequence

from avmae_jax.data.clip import ClipSource
from avmae_jax.data.store.reader import labels_of
from avmae_jax.errors import some

ENOUGH = 5  # clips of a class


def few_clips(labels: Sequence[Sequence[int]], label_names: Sequence[str]) -> str:
    """Describes what is measured on fewer than ENOUGH clips, of a class or, without classes, in all; "" if nothing is.

    Args:
      labels: the classes of each clip.
      label_names: of the classes; empty: the clips have none.
    """
    count = Counter(label for own in labels for label in own)
    few = [f"{name} ({count[number]})" for number, name in enumerate(label_names) if count[number] < ENOUGH] if count else []
    if few:
        return f"{len(few)} of {len(label_names)} classes have fewer than {ENOUGH} clips to measure on: {some(few)}; the figures are rough"
    if len(labels) < ENOUGH:
        return f"only {len(labels)} clips to measure on, fewer than {ENOUGH}; the figures are rough"
    return ""


def few_in(source: ClipSource) -> str:
    """Applies few_clips to all clips of a source."""
    labels = [labels_of(source, index) for index in range(len(source))] if source.label_names else [()] * len(source)
    return few_clips(labels, source.label_names)
