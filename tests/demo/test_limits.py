"""Which files the page takes, decided from their headers."""

import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from avmae_jax.demo.limits import MEGABYTE, Limits, clock, look_at, sentence, shown_name
from avmae_jax.errors import ClipError
from tests.media import numbered, tone, write_media


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("films") / "film.mp4", frames=[numbered(n) for n in range(50)], sound=tone(300, 5))


def test_a_header_says_kind_and_length(film: Path, tmp_path: Path) -> None:
    found = look_at(film, Limits())
    assert (found.kind, found.name, found.note) == ("video", "film.mp4", "")
    assert found.seconds == pytest.approx(5, abs=0.1)
    sound = write_media(tmp_path / "sound.wav", sound=tone(300, 1), audio_codec="pcm_s16le")
    assert look_at(sound, Limits()).kind == "audio"
    Image.fromarray(numbered(3)).save(tmp_path / "a.png")
    image = look_at(tmp_path / "a.png", Limits())
    assert (image.kind, image.seconds) == ("image", 0)


def test_a_long_film_is_cut_with_a_sentence(film: Path) -> None:
    assert "first 0:02" in look_at(film, Limits(media_seconds=2)).note
    assert not look_at(film, Limits(media_seconds=4.99)).note  # containers rarely end at once


def test_a_film_of_three_hours_is_not_read_through(tmp_path: Path) -> None:
    path = write_media(tmp_path / "long.mkv", frames=[numbered(0, 48)] * 3, times=[0.0, 1.0, 10_800.0], frame_rate=1)
    note = look_at(path, Limits()).note
    assert "3:00:0" in note
    assert "10:00" in note


def test_a_file_of_two_gigabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "huge.mp4"
    with path.open("wb") as file:
        file.truncate(2048 * MEGABYTE)  # sparse
    with pytest.raises(ClipError, match=r"2048 MB.*200 MB"):
        look_at(path, Limits())


@pytest.mark.parametrize("name", ["zip.mp4", "notes.txt", "notes.mp4", "empty.mp4", "list.m3u8", "page.html", "image.svg"])
def test_what_is_no_media_gets_one_sentence_without_its_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = {"zip.mp4": zipped(), "empty.mp4": b"", "list.m3u8": b"#EXTM3U\n#EXTINF:3,\nfile:///etc/passwd\n"}.get(
        name, b"no media\n" * 99
    )
    path.write_bytes(content)
    with pytest.raises(ClipError) as found:
        look_at(path, Limits())
    said = sentence(found.value, path)
    assert said.startswith(name)
    assert said.endswith((".", ")"))
    assert str(tmp_path) not in said
    assert "\n" not in said


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("film.mp4", b"\0" * 10_000)
    return buffer.getvalue()


def test_a_long_name_keeps_its_ends_and_loses_what_terminals_and_readers_act_on() -> None:
    assert shown_name("x/\u202egpj.exe") == "\\u202egpj.exe"
    long = shown_name("a" * 300 + ".mp4")
    assert len(long) <= 80
    assert long.endswith(".mp4")


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (7.4, "0:07"), (600, "10:00"), (10_800, "3:00:00")])
def test_moments_are_written_as_on_a_player(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
