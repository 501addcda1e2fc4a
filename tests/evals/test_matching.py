"""Classes of clips and of a classifier are matched by name; what one of them lacks is named and left out."""

from collections.abc import Sequence

import pytest

from avmae_jax.config import AppliedConfig, TuneConfig
from avmae_jax.data.catalog.labels import alike_names
from avmae_jax.data.clip import Clip
from avmae_jax.evals.matching import match_classes
from avmae_jax.weights import io
from avmae_jax.weights.trained import Trained
from tests.support import ODD, Clips, made

OWN = ("harp", "oboe", "horn")


class Labelled(Clips):
    """Gives clip n the classes of a list."""

    def __init__(self, label_names: Sequence[str], labels: Sequence[tuple[int, ...]]):
        super().__init__(len(labels))
        self.label_names, self._labels = label_names, labels

    def __getitem__(self, index: int) -> Clip:
        return super().__getitem__(index)._replace(labels=self._labels[index])


def trained(names: tuple[str, ...] = OWN) -> Trained:
    return Trained("runs/it", io.made(made(ODD, 3)), AppliedConfig(model=ODD, tune=TuneConfig(loss="ce")), 3, names)


def test_the_same_classes_in_another_order_are_matched_by_name() -> None:
    found = match_classes(trained(), Labelled(("horn", "harp", "oboe"), [(0,), (1,), (2,)]))
    assert found.label_names == OWN
    assert [found.source[n].labels for n in range(3)] == [(2,), (0,), (1,)]
    assert (found.unknown, found.missing, found.left_out, found.note) == ((), (), 0, "")


def test_other_classes_are_named_and_their_clips_left_out() -> None:
    found = match_classes(trained(), Labelled(("bell", "horn", "gong"), [(0,), (1,), (0, 2), (1, 2), ()]))
    assert [found.source[n].labels for n in range(len(found.source))] == [(2,), (2,), ()]
    assert [found.source[n].id for n in range(3)] == ["clip1", "clip3", "clip4"]
    assert (found.unknown, found.missing, found.left_out) == (("bell", "gong"), ("harp", "oboe"), 2)
    assert all(name in found.note for name in ("bell", "gong", "harp", "oboe", "2 clips"))


def test_names_that_differ_in_case_alone_are_named() -> None:
    found = match_classes(trained(), Labelled(("Harp", "horn"), [(0,), (1,)]))
    assert "'harp' and 'Harp'" in found.note
    assert alike_names(["a", "A ", "b", "a"]) == ["'a' and 'A ' differ in case alone and count as 2"]


@pytest.mark.parametrize(
    ("names", "theirs", "labels", "message"),
    [
        (OWN, (), [()], "no classes"),
        (OWN, ("bell", "Harp"), [(0,)], "bell.*runs/it.*harp.*'harp' and 'Harp'"),
        (OWN, ("bell", "harp"), [(0,), (0,)], "no clip.*runs/it.*bell"),
        (("class 0", "class 1", "class 2"), ("harp", "oboe"), [(0,)], " 3 .* 2"),
    ],
)
def test_nothing_in_common_is_refused(names: tuple[str, ...], theirs: tuple[str, ...], labels: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_classes(trained(names), Labelled(theirs, labels))


def test_a_classifier_without_names_takes_those_of_the_data() -> None:
    found = match_classes(trained(("class 0", "class 1", "class 2")), Labelled(("a", "b", "c"), [(2,)]))
    assert found.label_names == ("a", "b", "c")
    assert found.source[0].labels == (2,)
