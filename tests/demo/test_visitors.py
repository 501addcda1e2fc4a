"""Files of visitors are deleted once nobody looks at them."""

from pathlib import Path

import pytest

from avmae_jax.demo.visitors import Replaced, Visitors


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "uploads" / name for name in ("a.mp4", "b.mp4", "examples/harp.mp4")] + [tmp_path / "own.mp4"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_a_file_is_deleted_when_another_takes_its_place_or_its_visitor_leaves(tmp_path: Path, files: list[Path]) -> None:
    visitors = Visitors(tmp_path / "uploads")
    visitors.hold("one", files[0])
    visitors.hold("one", files[1])
    assert [path.exists() for path in files] == [False, True, True, True]
    visitors.leave("one")
    assert not files[1].exists()


def test_a_file_stays_while_somebody_else_looks_at_it(tmp_path: Path, files: list[Path]) -> None:
    visitors = Visitors(tmp_path / "uploads")
    visitors.hold("one", files[0])
    visitors.hold("two", files[0])
    visitors.leave("one")
    assert files[0].exists()
    visitors.leave("two")
    assert not files[0].exists()


def test_the_same_file_again_stays(tmp_path: Path, files: list[Path]) -> None:
    visitors = Visitors(tmp_path / "uploads")
    visitors.hold("one", files[0])
    visitors.hold("one", files[0])
    assert files[0].exists()


@pytest.mark.parametrize("number", [2, 3])
def test_examples_and_files_of_others_are_never_deleted(tmp_path: Path, files: list[Path], number: int) -> None:
    visitors = Visitors(tmp_path / "uploads")
    visitors.hold("one", files[number])
    visitors.leave("one")
    assert files[number].exists()


def test_a_file_is_held_while_its_visitor_waits(tmp_path: Path, files: list[Path]) -> None:
    visitors = Visitors(tmp_path / "uploads")
    visitors.hold("one", files[0])
    visitors.begin("one", files[0])
    visitors.hold("two", files[0])  # and waits for a turn
    visitors.leave("one")
    assert files[0].exists()
    visitors.begin("two", files[0])


def test_only_the_latest_request_of_a_visitor_goes_on(tmp_path: Path, files: list[Path]) -> None:
    visitors = Visitors(tmp_path / "uploads")
    visitors.hold("one", files[0])
    first = visitors.begin("one", files[0])
    visitors.require_latest("one", first)
    visitors.hold("two", files[0])
    other = visitors.begin("two", files[0])
    visitors.hold("one", files[1])
    with pytest.raises(Replaced):
        visitors.require_latest("one", first)
    with pytest.raises(Replaced):
        visitors.begin("one", files[0])
    latest = visitors.begin("one", files[1])
    visitors.require_latest("one", latest)
    again = visitors.begin("one", files[1])
    with pytest.raises(Replaced):
        visitors.require_latest("one", latest)
    visitors.require_latest("one", again)
    visitors.leave("one")
    with pytest.raises(Replaced):
        visitors.require_latest("one", again)
    with pytest.raises(Replaced):
        visitors.begin("one", files[1])
    visitors.require_latest("two", other)
