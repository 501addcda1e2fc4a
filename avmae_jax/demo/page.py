"""Builds the page: what is dropped, recorded or chosen at the top, what the model says of it below."""

import queue
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any, NamedTuple

import gradio as gr
from absl import logging

from avmae_jax.demo import sections
from avmae_jax.demo.answers import Answer, Answerer
from avmae_jax.demo.examples import Example
from avmae_jax.demo.html import escape
from avmae_jax.demo.limits import Media, clock, look_at, sentence
from avmae_jax.demo.match_section import match_along_time
from avmae_jax.demo.visitors import Replaced, Visitors
from avmae_jax.errors import AvmaeError, ClipError

AT_ONCE = 2  # files that are worked on at the same time; others wait
_TITLE = "What does it hear and see?"
_OLDEST = 1800  # seconds after which an upload is deleted in any case; nobody waits or watches for longer
_WAITING = 24  # that wait, at most
_SAID = (AvmaeError, ValueError, OSError)  # errors of a file, which are shown; others are faults of the program
_FAULT = "The program failed at this file; its log says why."
_INVITED = {  # by what the model needs of a file
    None: "Drop a video, a sound or a picture here",
    "both": "Drop a video with sound here",
    "audio": "Drop a sound, or a video with sound, here",
    "image": "Drop a picture or a video here",
}


class Shown(NamedTuple):
    """Holds the parts of the page below the inputs, as HTML; a part that isn't given stays as it is."""

    player: Any = gr.skip()  # written once for each file, so that it goes on playing and keeps the focus
    beside: Any = gr.skip()  # the classes, or what is being done
    error: Any = gr.skip()
    along: Any = gr.skip()
    ways: Any = gr.skip()
    more: Any = gr.skip()


_EMPTY = Shown("", "", "", "", "", "")


def build(answerer: Answerer, examples: list[Example], visitors: Visitors, about: str) -> gr.Blocks:
    """Builds the page.

    Args:
      answerer: of the model.
      examples: files that are offered.
      visitors: of the page.
      about: a sentence or two about the model.
    """
    limits = answerer.limits

    def hold(path: str | None, request: gr.Request) -> None:
        if path:
            visitors.hold(request.session_hash or "", path)

    def show(path: str | None, request: gr.Request) -> Iterator[Any]:
        yield from answered(answerer, visitors, request.session_hash or "", path)

    def clear(request: gr.Request) -> Shown:
        visitors.leave(request.session_hash or "")
        return _EMPTY

    def leave(request: gr.Request) -> None:
        visitors.leave(request.session_hash or "")

    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(60, _OLDEST)) as page:
        _html(f"<header><h1>{_TITLE}</h1><p>{escape(about)}</p></header>")
        with gr.Row(elem_classes="av-inputs"):
            file = gr.File(label=_INVITED[answerer.needs], file_count="single", type="filepath", height=150)
            voice = gr.Audio(
                label="Or record with the microphone",
                sources=["microphone"],
                type="filepath",
                editable=False,
                buttons=[],
                elem_classes="av-voice",
                visible=answerer.needs in (None, "audio"),
            )
        with gr.Row(elem_classes="av-examples"):
            chosen = [(gr.Button(f"Example: {example.name}", size="sm"), gr.State(str(example.path))) for example in examples]
        most = f"At most {limits.megabytes} MB; the first {clock(limits.media_seconds)} are handled."
        _html(f'<p class="av-note">{escape(most)} Files are deleted when you leave the page.</p>')
        with gr.Row(elem_classes="av-top"):
            beside = [_html("", "av-page") for _ in range(2)]
        parts = [*beside, *(_html("", "av-page") for _ in range(4))]
        private: Any = {"trigger_mode": "multiple", "show_progress": "hidden", "api_visibility": "private"}
        queued: Any = {"concurrency_limit": AT_ONCE, "concurrency_id": "model", **private}
        given = [(file.upload, file), (voice.stop_recording, voice), *((button.click, path) for button, path in chosen)]
        for event, path in given:  # a file is held before its turn comes
            event(hold, path, None, queue=False, **private).success(show, path, parts, **queued)
        file.clear(clear, None, parts, api_visibility="private", queue=False)
        page.unload(leave)
    return page.queue(max_size=_WAITING)


def _html(content: str, classes: str = "") -> gr.HTML:
    return gr.HTML(content, elem_classes=classes or None, apply_default_css=False, container=False)


def static(name: str) -> str:
    """Reads a file of the folder static."""
    return resources.files("avmae_jax.demo").joinpath("static", name).read_text(encoding="utf-8")


def answered(answerer: Answerer, visitors: Visitors, visitor: str, path: str | None) -> Iterator[Shown]:
    """Yields the parts of the answer as they become known; an error takes their place."""
    if not path:
        yield _EMPTY
        return
    try:
        request = visitors.begin(visitor, path)

        def go_on() -> None:
            visitors.require_latest(visitor, request)

        for parts in _of_media(answerer, path, go_on):
            go_on()
            yield parts
    except Replaced:
        return
    except _SAID as error:
        yield _EMPTY._replace(error=sections.error(sentence(error, path)))
    except Exception:
        logging.exception("the page couldn't answer for a file")
        yield _EMPTY._replace(error=sections.error(_FAULT))


def _of_media(answerer: Answerer, path: str, go_on: Callable[[], None]) -> Iterator[Shown]:
    media = look_at(path, answerer.limits)
    yield _EMPTY._replace(player=sections.player(media), beside=sections.waiting("Listening and looking ..."))
    for told in _told(lambda tell: answerer.answer(media, tell), go_on):
        if isinstance(told, Answer):
            yield from _explained(answerer, told, go_on)
        else:
            yield Shown(beside=sections.waiting(f"{clock(told)} of {clock(_expected(answerer, media))} are done"))


def _explained(answerer: Answerer, answer: Answer, go_on: Callable[[], None]) -> Iterator[Shown]:
    """Yields the answer, and then what else is known; a step that fails leaves a note, and the rest stays."""
    first = Shown(beside=sections.classes(answer), along=sections.along_time(answer), ways=sections.three_ways(answer, answerer.ways))
    yield first._replace(more=sections.waiting("Looking at it more closely ..."))
    written, notes = dict.fromkeys((_pictures, _matched, _nearest, _filled), ""), dict[str, None]()  # in the order of the page
    for step in (_pictures, _nearest, _filled, _matched):  # the last one takes what time is left
        try:
            written[step] = step(answerer, answer, go_on)
        except _SAID as error:
            notes[sentence(error, answer.media.path)] = None
        go_on()
    yield Shown(more="".join([*written.values(), *map(sections.note, notes)]))


def _pictures(answerer: Answerer, answer: Answer, go_on: Callable[[], None]) -> str:
    found = answerer.pictures(answer, go_on)
    return sections.pictures(found) if found else ""


def _matched(answerer: Answerer, answer: Answer, go_on: Callable[[], None]) -> str:
    try:
        found = answerer.match_along(answer, go_on)
    except ClipError:  # a film that shows one image alone, or is short; everything else is said of it
        return ""
    return match_along_time(found, answer.media.seconds) if found else ""


def _nearest(answerer: Answerer, answer: Answer, go_on: Callable[[], None]) -> str:
    return sections.neighbours(answerer.nearest(answer))


def _filled(answerer: Answerer, answer: Answer, go_on: Callable[[], None]) -> str:
    found = answerer.reconstruction(answer)
    return sections.reconstruction(found) if found else ""


def _expected(answerer: Answerer, media: Media) -> float:
    return min(media.seconds or answerer.limits.media_seconds, answerer.limits.media_seconds)


def _told(work: Callable[[Callable[[float], None]], Any], go_on: Callable[[], None]) -> Iterator[Any]:
    """Runs `work` in a thread, and yields what it tells on the way and then what it returns; raises what it raises.

    `go_on` raises Replaced in the thread, too, so that it ends soon.
    """
    said: queue.Queue[Any] = queue.Queue()
    result: list[Any] = []

    def tell(second: float) -> None:
        go_on()
        said.put(float(second))

    def run() -> None:
        try:
            result.append(work(tell))
        except BaseException as error:
            result.append(error)
        said.put(None)

    threading.Thread(target=run, daemon=True).start()
    while (second := said.get()) is not None:
        yield second
    if isinstance(result[0], BaseException):
        raise result[0]
    yield result[0]
