"""What the page shows of a file step by step, without a browser."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avmae_jax.demo.answers import Answer, OutOfTimeError
from avmae_jax.demo.limits import Limits
from avmae_jax.demo.visitors import Visitors
from avmae_jax.errors import ClipError
from tests.media import tone, write_media

pytest.importorskip("gradio")

from avmae_jax.demo.page import Shown, answered  # after the line that skips without gradio


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write_media(tmp_path / "sound.wav", sound=tone(300, 1), audio_codec="pcm_s16le")


def shown_of(path: Path, **steps: Any) -> list[Shown]:
    """Returns what is shown one after the other of a file by a model of which each step does what it is given."""
    nothing = {
        "answer": lambda media, tell: Answer(media, None, (), ("A note.",)),
        "pictures": lambda answer, go_on: None,
        "match_along": lambda answer, go_on: None,
        "nearest": lambda answer: [],
        "reconstruction": lambda answer: None,
    }
    answerer: Any = SimpleNamespace(limits=Limits(), ways=(), **nothing | steps)
    visitors = Visitors(path.parent)
    visitors.hold("one", path)
    return list(answered(answerer, visitors, "one", str(path)))


def refuse(answer: Answer, *_: Any) -> None:
    raise ClipError(str(answer.media.path), "video", "is damaged")


def be_late(answer: Answer, *_: Any) -> None:
    raise OutOfTimeError("Too late.")


def test_the_player_is_written_once(sound: Path) -> None:
    shown = shown_of(sound)
    assert "<audio" in shown[0].player
    assert [each.player for each in shown[1:]] == [Shown().player] * (len(shown) - 1)


def test_a_step_that_fails_leaves_a_note_and_the_answer_stays(sound: Path) -> None:
    shown = shown_of(sound, pictures=refuse, nearest=refuse, reconstruction=be_late, match_along=be_late)
    assert "A note." in shown[1].along
    assert shown[-1] == Shown(more=shown[-1].more)
    assert shown[-1].more.count("sound.wav is damaged.") == 1
    assert shown[-1].more.count("Too late.") == 1


def test_a_file_that_cannot_be_used_gets_an_error_alone(sound: Path) -> None:
    shown = shown_of(sound.with_name("gone.wav"))
    assert "gone.wav does not exist" in shown[-1].error
    assert [*shown[-1]].count("") == len(shown[-1]) - 1


def test_a_visitor_who_has_another_file_by_now_is_shown_nothing(sound: Path) -> None:
    visitors = Visitors(sound.parent)
    visitors.hold("one", sound.with_name("other.wav"))
    assert list(answered(SimpleNamespace(limits=Limits()), visitors, "one", str(sound))) == []  # pyright: ignore[reportArgumentType]
