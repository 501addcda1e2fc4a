"""Opens the page in a real browser."""

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avmae_jax.data.instruments import INSTRUMENTS, make_clip
from avmae_jax.demo.examples import write_video
from tests.media import tone, write_media

pytestmark = pytest.mark.browser

MINUTES = 10


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Writes clips of the built-in set, under names that a page might act on."""
    folder = tmp_path_factory.mktemp("clips")
    paths = {"harp": folder / "<img src=x onerror=alert(1)>${1}{{1}}.mp4", "trumpet": folder / "b.mp4"}
    for name, path in paths.items():
        write_video(path, make_clip("test", INSTRUMENTS.index(name)))
    return paths


def drop(page: Any, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(str(path))


def finish(page: Any) -> None:
    page.locator("section[data-name=pictures], .av-error").first.wait_for()


def first_class(page: Any) -> str:
    return page.locator(".av-top .av-name").first.inner_text()


def test_a_clip_gets_its_class_a_timeline_and_pictures(visit: Any, clips: dict[str, Path]) -> None:
    page = visit()
    asked, problems = set(), []
    page.on("request", lambda request: asked.add(request.url.split("/")[2]))
    page.on("pageerror", lambda error: problems.append(error))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    drop(page, clips["harp"])
    finish(page)
    assert first_class(page) == "harp"
    assert page.locator(".av-row").count() == 6
    assert page.locator("section[data-name=ways] h3").all_inner_texts() == ["Sound only", "Picture only", "Both"]
    assert page.locator(".av-heat").first.is_hidden()
    page.locator(".av-heat-on").check()
    assert page.locator(".av-heat").first.is_visible()
    assert page.locator(".av-plain").first.is_hidden()
    assert page.locator("img[src=x]").count() == 0
    assert "onerror" in page.locator("figcaption").first.inner_text()
    assert problems == []
    assert asked <= {page.url.split("/")[2]}, "the page asks other machines"


def test_the_timeline_goes_with_the_player_and_by_keys(visit: Any, clips: dict[str, Path]) -> None:
    page = visit()
    drop(page, clips["harp"])
    finish(page)
    slider = page.locator("[role=slider]")
    page.wait_for_function("document.getElementById('av-player').readyState >= 1")
    for _ in range(40):  # by keys alone
        if page.evaluate("document.activeElement.getAttribute('role')") == "slider":
            break
        page.keyboard.press("Tab")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    page.wait_for_function("document.getElementById('av-player').currentTime === 2")
    assert re.match(r"0:02: harp .*%", slider.get_attribute("aria-valuetext"))
    page.evaluate("document.getElementById('av-player').currentTime = 7")
    page.wait_for_function("document.querySelector('[role=slider]').getAttribute('aria-valuenow') === '7.0'")
    page.keyboard.press("Home")
    page.wait_for_function("document.getElementById('av-player').currentTime === 0")
    drawing = page.locator(".av-row svg").first.bounding_box()
    page.mouse.click(drawing["x"] + drawing["width"] / 2, drawing["y"] + 5)
    page.wait_for_function("Math.abs(document.getElementById('av-player').currentTime - 5) < 0.2")


def test_the_player_goes_on_when_the_answer_arrives(visit: Any, clips: dict[str, Path]) -> None:
    page = visit()
    drop(page, clips["trumpet"])
    page.wait_for_function("document.getElementById('av-player')?.focus() ?? document.activeElement.id === 'av-player'")
    page.evaluate("document.getElementById('av-player').mine = true")
    finish(page)
    assert page.evaluate("document.getElementById('av-player').mine")
    assert page.evaluate("document.activeElement.id") == "av-player"


def test_an_example_can_be_chosen_by_keys(visit: Any) -> None:
    page = visit()
    focused = ""
    for _ in range(20):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.textContent").strip()
        if focused.startswith("Example: "):
            break
    assert focused.startswith("Example: ")
    page.keyboard.press("Enter")
    finish(page)
    assert first_class(page) == focused.removeprefix("Example: ")


def test_a_broken_file_gets_one_sentence_and_the_next_one_works(visit: Any, clips: dict[str, Path], tmp_path: Path) -> None:
    page = visit()
    broken = tmp_path / "film.mp4"
    broken.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 40)
    drop(page, broken)
    finish(page)
    words = page.locator("[role=alert]").inner_text()
    assert "film.mp4 can't be opened as a media file" in words
    assert "/" not in words
    page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
    page.locator(".av-error").wait_for(state="detached")
    drop(page, clips["trumpet"])
    finish(page)
    assert first_class(page) == "trumpet"


def test_two_visitors_at_once_get_their_own_answers(visit: Any, clips: dict[str, Path]) -> None:
    pages = {name: visit() for name in clips}
    for name, page in pages.items():
        drop(page, clips[name])
    for name, page in pages.items():
        finish(page)
        assert first_class(page) == name


def test_a_film_of_ten_minutes_has_its_timeline(visit: Any, tmp_path: Path) -> None:
    page = visit()
    seconds = 60 * MINUTES
    path = tmp_path / "film.mp4"
    frames = (np.full((48, 64, 3), number % 250, np.uint8) for number in range(seconds))
    write_media(path, frames=frames, frame_rate=1, sound=tone(440, seconds, 8_000), sample_rate=8_000)
    drop(page, path)
    finish(page)
    end = float(page.locator("av-timeline").get_attribute("data-end"))
    assert end == pytest.approx(seconds, abs=3)
    page.locator("[role=slider]").focus()
    page.keyboard.press("End")
    assert re.match(r"(9:59|10:0\d): ", page.locator("[role=slider]").get_attribute("aria-valuetext"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_and_letters_are_legible(visit: Any, clips: dict[str, Path], scheme: str) -> None:
    page = visit(390, scheme)
    drop(page, clips["harp"])
    finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for place in (".av-top .av-name", ".av-note", ".av-row .av-value", ".av-hertz span", "h2"):
        assert page.locator(place).first.evaluate(CONTRAST) >= 4.5, place


CONTRAST = """element => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  while (behind && (parts(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
  const page = getComputedStyle(behind ?? document.body).backgroundColor;
  const [low, high] = [light(getComputedStyle(element).color), light(page)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def test_a_new_file_takes_the_place_of_one_that_is_still_computed(visit: Any, clips: dict[str, Path]) -> None:
    page = visit()
    page.get_by_role("button", name="Example").first.click()
    page.get_by_role("button", name="Example").last.click()
    wanted = page.get_by_role("button", name="Example").last.inner_text().removeprefix("Example: ")
    page.locator(f".av-player figcaption:has-text('{wanted}')").wait_for()
    finish(page)
    page.wait_for_timeout(1500)  # what is left of the first one
    assert first_class(page) == wanted
    assert page.locator(".av-waiting").count() == 0


def test_no_file_of_the_machine_can_be_fetched(address: str) -> None:
    for path in ("/etc/passwd", str(Path(__file__).resolve()), "README.md", "pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}gradio_api/file={path}", timeout=30)  # noqa: S310 - our own address
        with refused.value as answer:
            assert answer.code in (403, 404)
