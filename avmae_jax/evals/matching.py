"""Matches the classes of clips with those of a classifier by their names, so that a data set of other classes can be evaluated in part."""

from collections.abc import Sequence
from typing import NamedTuple

from absl import logging

from avmae_jax.data.catalog.labels import alike_names
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.store.reader import frames_of, labels_of
from avmae_jax.errors import some
from avmae_jax.weights.trained import Trained


class Matched(NamedTuple):
    """Holds clips whose labels are numbers of the classifier's classes."""

    source: ClipSource
    label_names: tuple[str, ...]  # the classifier's, or the data's where it has none
    unknown: tuple[str, ...]  # classes of the data that the classifier doesn't have
    missing: tuple[str, ...]  # classes of the classifier that the data doesn't have
    left_out: int  # clips that have unknown classes alone

    @property
    def note(self) -> str:
        """Describes in a line what didn't match; "" if everything did."""
        parts = list[str]()
        if self.unknown:
            parts.append(f"classes that the model doesn't have are left out, with {self.left_out} clips: {some(self.unknown)}")
        if self.missing and self.unknown:
            parts.append(f"classes of the model that the data doesn't have: {some(self.missing)}")
        return "; ".join([*parts, *alike_names([*self.label_names, *self.unknown])])


class _Relabelled:
    """Gives some clips of a source with other numbers as labels."""

    def __init__(self, source: ClipSource, label_names: Sequence[str], number_of: Sequence[int | None], rows: Sequence[int]):
        self._source, self.label_names, self._number_of, self._rows = source, label_names, number_of, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Clip:
        clip = self._source[self._rows[index]]
        return clip._replace(labels=self._own(clip.labels))

    @property
    def frames(self) -> int | None:
        """Returns the number of frames that the source was prepared with; None where it doesn't know."""
        return frames_of(self._source)

    def labels_of(self, index: int) -> tuple[int, ...]:
        """Returns the labels of the clip at an index."""
        return self._own(labels_of(self._source, self._rows[index]))

    def _own(self, labels: Sequence[int]) -> tuple[int, ...]:
        return tuple(number for label in labels if (number := self._number_of[label]) is not None)


def match_classes(trained: Trained, source: ClipSource) -> Matched:
    """Matches the classes of clips with those of a classifier, by name.

    Where the classifier's names weren't stored, those of the data are used by their number, and logged. A clip keeps those of its classes
    that the classifier has; one that has other classes alone is left out.

    Raises:
      ValueError: if the clips have no classes, none is the classifier's, no clip is left, or the classifier has no names and another number
        of classes.
    """
    own, theirs = trained.label_names, tuple(source.label_names)
    if not theirs:
        raise ValueError("the clips have no classes; prepare videos that lie in class folders, or a labelled list")
    if own == theirs:
        return Matched(source, own, (), (), 0)
    if own == tuple(f"class {number}" for number in range(trained.classes)):  # load_trained's, where none were stored
        if len(theirs) != trained.classes:
            raise ValueError(
                f"{trained.path} has {trained.classes} classes without names and the clips have {len(theirs)}; give the data that it was "
                "tuned on, or --labels_csv"
            )
        logging.info("%s doesn't name its %d classes; the names are those of the data", trained.path, trained.classes)
        return Matched(source, theirs, (), (), 0)
    numbers = {name: number for number, name in enumerate(own)}
    number_of = [numbers.get(name) for name in theirs]
    unknown = tuple(name for name in theirs if name not in numbers)
    missing = tuple(name for name in own if name not in theirs)
    if len(unknown) == len(theirs):
        spelling = "; ".join(["", *alike_names([*own, *theirs])])
        raise ValueError(f"none of the classes of the clips ({some(theirs)}) is one of {trained.path} ({some(own)}){spelling}")
    rows = list[int]()
    for index in range(len(source)):
        labels = labels_of(source, index)
        if not labels or any(number_of[label] is not None for label in labels):
            rows.append(index)
    if not rows:
        raise ValueError(f"no clip has a class of {trained.path} ({some(own)}); the clips have others ({some(unknown)})")
    matched = Matched(_Relabelled(source, own, number_of, rows), own, unknown, missing, len(source) - len(rows))
    logging.info("classes are matched by name: %d of the data's %d are the model's", len(theirs) - len(unknown), len(theirs))
    return matched
