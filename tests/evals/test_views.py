"""Tests how views of an evaluation are named for people."""

import pytest

from avmae_jax.errors import counted
from avmae_jax.evals.views import mode_title, title_of


@pytest.mark.parametrize(
    ("mode", "frames", "title"),
    [
        ("multimodal", "middle", "audio and image, middle frame"),
        ("multimodal", "all", "audio and image, all frames"),
        ("audioonly", "middle", "audio alone"),
        ("videoonly", "first", "image alone, first frame"),
        ("missingaudioonly", "middle", "audio, image missing"),
        ("missingvideoonly", "middle", "image, audio missing, middle frame"),
        ("<b>", "middle", "<b>"),
    ],
)
def test_a_view_is_named_in_plain_words(mode: str, frames: str, title: str) -> None:
    assert title_of(mode, frames) == title


def test_what_is_given_names_a_mode_too() -> None:
    assert [mode_title(given) for given in ("both", "audio", "image")] == ["audio and image", "audio alone", "image alone"]


def test_one_thing_is_singular() -> None:
    assert [counted(count, "clip") for count in (0, 1, 2, 2000)] == ["0 clips", "1 clip", "2 clips", "2,000 clips"]
    assert [counted(count, "class", "classes") for count in (1, 12)] == ["1 class", "12 classes"]
