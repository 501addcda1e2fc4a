"""What the page shows of files, and how it is written, without a browser."""

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avmae_jax import load
from avmae_jax.data.instruments import INSTRUMENTS
from avmae_jax.demo import html, sections
from avmae_jax.demo.answers import Answer, Answerer, OutOfTimeError
from avmae_jax.demo.examples import write_examples
from avmae_jax.demo.limits import Limits, Media, look_at, sentence
from avmae_jax.demo.timeline import ticks_of, timeline
from avmae_jax.demo.visitors import Replaced
from avmae_jax.errors import ClipError
from avmae_jax.inference.embed import DatasetEmbedder, note_of
from avmae_jax.inference.embedding_files import write_embeddings
from avmae_jax.weights.io import write
from tests.demo.reader import Reader
from tests.inference.tiny_models import NAMES, weights
from tests.media import numbered, tone, write_media
from tests.support import Clips

EVIL = "<img src=x onerror=alert(1)>${alert(2)}{{alert(3)}}.mp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    write(weights(4, loss="ce", label_names=NAMES), root / "run.safetensors")
    write(weights(0, seed=1), root / "pre.safetensors")
    write_media(root / EVIL.replace("/", ""), frames=[numbered(40 * number) for number in range(50)], sound=tone(300, 5))
    write_media(root / "sound.wav", sound=tone(500, 2), audio_codec="pcm_s16le")
    return root


@pytest.fixture(scope="module")
def answerer(folder: Path) -> Answerer:
    return Answerer(load(folder / "run.safetensors"), Limits())


@pytest.fixture(scope="module")
def answer(folder: Path, answerer: Answerer) -> Answer:
    return answerer.answer(look_at(folder / EVIL, Limits()))


def whole_page(answerer: Answerer, answer: Answer) -> str:
    found = answerer.pictures(answer)
    assert found
    beside = sections.player(answer.media) + sections.classes(answer) + sections.along_time(answer)
    return beside + sections.three_ways(answer, answerer.ways) + sections.pictures(found)


def test_the_answer_is_that_of_predict(folder: Path, answerer: Answerer, answer: Answer) -> None:
    alone = answerer.trained.predict(folder / EVIL)  # pyright: ignore[reportAttributeAccessIssue] - a Model
    assert [name for name, _ in answer.top()] == [name for name, _ in alone.top]
    assert answer.match == pytest.approx(alone.match, abs=1e-5)


def test_nothing_of_a_name_is_acted_on(answerer: Answerer, answer: Answer) -> None:
    written = whole_page(answerer, answer)
    read = Reader(written)
    assert all("onerror" not in attributes for _, attributes in read.tags)
    assert EVIL in read.words
    assert not re.search(r"[{}$`\\]", written)  # what gradio's templates act on


def test_every_picture_and_player_has_words_and_headings_come_in_order(answerer: Answerer, answer: Answer) -> None:
    read = Reader(whole_page(answerer, answer))
    for tag, attributes in read.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag in ("video", "audio") or attributes.get("role") == "slider":
            assert attributes["aria-label"]
    headings = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 2
    assert max(np.diff(headings)) <= 1


def test_the_timeline_has_a_row_for_each_class_and_one_for_the_match(answer: Answer) -> None:
    read = Reader(timeline(answer))
    rows = [attributes for _, attributes in read.tags if attributes.get("class") == "av-row"]
    assert [row["data-name"] for row in rows] == [*(name for name, _ in answer.top()), "match of sound and picture"]


def test_audio_alone_has_no_picture_and_says_so(folder: Path, answerer: Answerer) -> None:
    answer = answerer.answer(look_at(folder / "sound.wav", Limits()))
    assert answer.match is None
    assert "no picture" in Reader(sections.three_ways(answer, answerer.ways)).words
    found = answerer.pictures(answer)
    assert found
    assert found.image is None
    assert set(found.heat) == {"audio"}


def test_a_film_that_computes_too_long_is_refused_in_a_sentence(folder: Path) -> None:
    slow = Answerer(load(folder / "run.safetensors"), Limits(computing_seconds=0))
    with pytest.raises(ClipError, match="more than 0 s"):
        slow.answer(look_at(folder / EVIL, Limits()))


def test_all_that_is_said_of_a_file_shares_one_time(folder: Path, answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("avmae_jax.demo.answers.time.monotonic", lambda: now)
    answer = answerer.answer(look_at(folder / EVIL, Limits()))
    now += Limits().computing_seconds - 1
    assert answerer.pictures(answer)
    now += 2
    with pytest.raises(OutOfTimeError):
        answerer.pictures(answer)
    with pytest.raises(OutOfTimeError):
        Answerer(load(folder / "pre.safetensors"), Limits()).reconstruction(answer)


def test_the_time_of_a_file_begins_once_the_model_is_compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answerer, compiling, compiled, found = Answerer(load(folder / "run.safetensors"), Limits()), threading.Event(), threading.Event(), []

    def compile_slowly(answer: Answer) -> None:
        compiling.set()
        assert compiled.wait(60)

    monkeypatch.setattr(answerer, "pictures", compile_slowly)
    visit = threading.Thread(target=lambda: found.append(answerer.answer(look_at(folder / "sound.wav", Limits()))))
    warm_up = threading.Thread(target=answerer.warm_up, args=(folder / EVIL,))
    warm_up.start()
    assert compiling.wait(60)
    visit.start()
    visit.join(0.5)
    began = time.monotonic()
    compiled.set()
    for thread in (visit, warm_up):
        thread.join(60)
    assert found[0].until >= began + Limits().computing_seconds


def test_decoding_a_film_again_ends_with_the_request(answerer: Answerer, answer: Answer) -> None:
    def leave() -> None:
        raise Replaced

    with pytest.raises(Replaced):
        answerer.pictures(answer, leave)


def test_a_model_that_compares_refuses_what_lacks_one_side_in_words_for_visitors(folder: Path) -> None:
    compares = Answerer(load(folder / "pre.safetensors"), Limits())
    assert compares.needs == "both"
    write_media(folder / "silent.mp4", frames=[numbered(40 * number) for number in range(50)])
    Image.fromarray(numbered(3)).save(folder / "a.png")
    for name in ("sound.wav", "silent.mp4", "a.png"):
        media = look_at(folder / name, Limits())
        with pytest.raises(ClipError) as found:
            compares.answer(media)
        said = sentence(found.value, media.path)
        assert said.startswith(name)
        assert "video that has both" in said
        assert "fine-tune" not in said


def test_a_film_longer_than_the_limit_is_handled_up_to_there(folder: Path) -> None:
    limits = Limits(media_seconds=2)
    answer = Answerer(load(folder / "run.safetensors"), limits).answer(look_at(folder / EVIL, limits))
    assert answer.end <= 2.02
    assert len(answer.notes) == 1


@pytest.mark.slow
def test_a_pretraining_run_fills_in_what_is_hidden(folder: Path) -> None:
    answerer = Answerer(load(folder / "pre.safetensors"), Limits())
    answer = answerer.answer(look_at(folder / EVIL, Limits()))
    assert answer.top() == []
    found = answerer.reconstruction(answer)
    assert found
    read = Reader(sections.reconstruction(found))
    assert sum(tag == "img" for tag, _ in read.tags) == 6
    assert sum(tag == "audio" for tag, _ in read.tags) == 3  # original, masked, reconstructed


@pytest.mark.slow
def test_the_nearest_clips_of_an_index_are_listed(folder: Path, answerer: Answerer, tmp_path: Path) -> None:
    source = Clips(3, seconds=1.6)
    embed = DatasetEmbedder(answerer.trained, ("audio", "image"), 1)
    write_embeddings(tmp_path / "index.npz", embed(source), note_of(answerer.trained, source, embed.what, data=str(tmp_path / "gone")))
    answerer.search_in(str(tmp_path / "index.npz"), "test", lambda *_: None)
    found = answerer.nearest(answerer.answer(look_at(folder / EVIL, Limits())))
    assert [side.queried for side in found] == ["audio", "image"]
    assert {one.id for one in found[0].found} == {"clip0", "clip1", "clip2"}
    assert "clip1" in Reader(sections.neighbours(found)).words


def test_examples_are_clips_of_classes_that_the_model_knows(tmp_path: Path) -> None:
    written = write_examples(tmp_path, ["Harp", "piano", "banjo"])
    assert [example.name for example in written] == ["harp", "piano"]
    assert {look_at(example.path, Limits()).kind for example in written} == {"video"}
    assert all(example.name in INSTRUMENTS for example in write_examples(tmp_path, ["dog"]))


@pytest.mark.parametrize(
    ("start", "end", "ticks"), [(0, 10, [0, 2, 4, 6, 8, 10]), (2.56, 5.12, [3, 3.5, 4, 4.5, 5]), (0, 600, [0, 120, 240, 360, 480, 600])]
)
def test_ticks_are_round(start: float, end: float, ticks: list[float]) -> None:
    assert ticks_of(start, end) == pytest.approx(ticks)


def test_a_player_names_its_file_by_an_address_that_is_quoted() -> None:
    read = Reader(sections.player(Media(Path('/x/a "b" #1?.mp4'), "video", 1.0)))
    assert next(attributes for tag, attributes in read.tags if tag == "video")["src"] == "gradio_api/file=/x/a%20%22b%22%20%231%3F.mp4"


@pytest.mark.parametrize(("share", "shown"), [(0.0, "0 %"), (1e-6, "< 1 %"), (0.5, "50 %"), (0.9999, "> 99 %"), (1.0, "100 %")])
def test_shares_are_rounded_without_a_false_0_or_100(share: float, shown: str) -> None:
    assert html.percent(share) == shown


def test_frequencies_stand_where_their_mel_bins_are() -> None:
    heights = [sections.height_of(hertz, 128) for hertz in (20, 1000, 4000, 8000)]
    assert heights == sorted(heights)
    assert heights[0] == pytest.approx(0, abs=0.01)
    assert heights[-1] == pytest.approx(1, abs=0.01)
