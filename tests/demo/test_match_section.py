"""How the page shows that sound and picture of a film are in step, or by how much they are apart."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from avmae_jax import load
from avmae_jax.demo.answers import Answer, Answerer, OutOfTimeError
from avmae_jax.demo.limits import Limits, look_at
from avmae_jax.demo.match_section import answer, match_along_time
from avmae_jax.demo.visitors import Replaced
from avmae_jax.weights.io import write
from tests.demo.reader import Reader
from tests.inference.tiny_models import SYNC, weights
from tests.media import numbered, tone, write_media


def test_a_film_is_shown_against_itself(tmp_path: Path) -> None:
    write(weights(0, 1, SYNC, frames=5), tmp_path / "sync.safetensors")
    write_media(tmp_path / "film.mp4", frames=[numbered(40 * number) for number in range(50)], sound=tone(300, 5))
    write_media(tmp_path / "sound.wav", sound=tone(500, 2), audio_codec="pcm_s16le")
    answerer = Answerer(load(tmp_path / "sync.safetensors"), Limits())
    sound, film = (Answer(look_at(tmp_path / name, Limits()), None, (), ()) for name in ("sound.wav", "film.mp4"))
    assert answerer.match_along(sound) is None
    found = answerer.match_along(film)
    assert found
    read = Reader(match_along_time(found, 5.0))
    assert "Can’t tell" in read.words
    assert "launch.sync_check" in read.words
    assert sum(tag == "img" for tag, _ in read.tags) == 1 + 2 * len(found.shown)
    later = dataclasses.replace(found.offset, seconds=0.5, certainty=0.81)
    assert answer(later) == "The sound comes 0.50 s later than the picture (certainty 81%)."
    assert "later than the sound" in answer(dataclasses.replace(later, seconds=-0.5))
    assert "in step" in answer(dataclasses.replace(later, seconds=0.01))
    moved = Reader(match_along_time(dataclasses.replace(found, offset=later), 600.0))
    lines = [attributes["x1"] for tag, attributes in moved.tags if tag == "line"]
    assert lines == ["0", f"{100 * 0.5 / np.ptp(found.vectors.times):.2f}"]
    assert "first 5 s" in moved.words
    with pytest.raises(OutOfTimeError):
        answerer.match_along(dataclasses.replace(film, until=0.0))
    with pytest.raises(Replaced):
        answerer.match_along(film, leave)


def leave() -> None:
    raise Replaced
