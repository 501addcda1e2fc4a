"""Opens the page in a real browser."""

from pathlib import Path
from typing import Any

import pytest

from avmae_jax.data.instruments import INSTRUMENTS, make_clip
from avmae_jax.demo.examples import write_video

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def harp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "a clip.mp4"
    write_video(path, make_clip("test", INSTRUMENTS.index("harp")))
    return path


def drop(page: Any, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(str(path))


def finish(page: Any) -> None:
    page.locator(".av-explained, .av-error").first.wait_for()
    page.locator(".av-waiting").wait_for(state="detached")


def test_a_clip_gets_its_class_a_timeline_and_pictures(visit: Any, harp: Path) -> None:
    page = visit()
    drop(page, harp)
    finish(page)
    assert page.locator(".av-bars li .av-name").first.inner_text() == "harp"
    assert page.locator(".av-row").count() == 6
    assert page.locator(".av-spectrogram img").first.get_attribute("alt")


def test_a_broken_file_gets_one_sentence(visit: Any, tmp_path: Path) -> None:
    page = visit()
    broken = tmp_path / "film.mp4"
    broken.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 40)
    drop(page, broken)
    finish(page)
    words = page.locator(".av-error").inner_text()
    assert "film.mp4 can't be opened as a media file" in words
    assert "/" not in words
