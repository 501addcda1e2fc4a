"""Builds the page: what is dropped, recorded or chosen at the top, what the model says of it below."""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

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
_EMPTY = ("", "", "")
Shown = tuple[str, str, str]  # the three parts of the answer, as HTML


def build(answerer: Answerer, examples: list[Example], visitors: Visitors, about: str) -> gr.Blocks:
    """Builds the page.

    Args:
      answerer: of the model.
      examples: files that are offered.
      visitors: of the page.
      about: a sentence or two about the model.
    """
    limits = answerer.limits

    def show(path: str | None, request: gr.Request) -> Iterator[Any]:
        yield from _shown(answerer, visitors, request.session_hash or "", path)

    def show_example(path: Path) -> Callable[[gr.Request], Iterator[Any]]:
        def shown(request: gr.Request) -> Iterator[Any]:
            yield from _shown(answerer, visitors, request.session_hash or "", str(path))

        return shown

    def clear(request: gr.Request) -> Shown:
        visitors.leave(request.session_hash or "")
        return _EMPTY

    def leave(request: gr.Request) -> None:
        visitors.leave(request.session_hash or "")

    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(60, _OLDEST)) as page:
        _text(f"<header><h1>{_TITLE}</h1><p>{escape(about)}</p></header>")
        with gr.Row(elem_classes="av-inputs"):
            file = gr.File(label="Drop a video, a sound or a picture here", file_count="single", type="filepath", height=150)
            voice = gr.Audio(
                label="Or record with the microphone",
                sources=["microphone"],
                type="filepath",
                editable=False,
                buttons=[],
                elem_classes="av-voice",
            )
        with gr.Row(elem_classes="av-examples"):
            buttons = [gr.Button(f"Example: {example.name}", size="sm") for example in examples]
        most = f"At most {limits.megabytes} MB; the first {clock(limits.media_seconds)} are handled."
        _text(f'<p class="av-note">{escape(most)} Files are deleted when you leave the page.</p>')
        parts = [gr.HTML("", elem_classes="av-page", apply_default_css=False, container=False) for _ in range(3)]
        options: Any = {"outputs": parts, "concurrency_limit": AT_ONCE, "concurrency_id": "model", "show_progress": "hidden"}
        options |= {"trigger_mode": "multiple", "api_visibility": "private"}
        file.upload(show, file, **options)
        file.clear(clear, None, parts, api_visibility="private", queue=False)
        voice.stop_recording(show, voice, **options)
        for button, example in zip(buttons, examples, strict=True):
            button.click(show_example(example.path), None, **options)
        page.unload(leave)
    return page.queue(max_size=_WAITING)


def _text(content: str) -> None:
    gr.HTML(content, apply_default_css=False, container=False)


def static(name: str) -> str:
    """Reads a file of the folder static."""
    return resources.files("avmae_jax.demo").joinpath("static", name).read_text(encoding="utf-8")


def _shown(answerer: Answerer, visitors: Visitors, visitor: str, path: str | None) -> Iterator[Any]:
    """Yields the parts of the answer as they become known; an error takes the place of the first part."""
    if not path:
        yield _EMPTY
        return
    request = visitors.begin(visitor, path)

    def go_on() -> None:
        visitors.require_latest(visitor, request)

    try:
        for parts in _answered(answerer, path, go_on):
            go_on()
            yield parts
    except Replaced:
        return
    except _SAID as error:
        yield sections.error(sentence(error, path)), "", ""
    except Exception:
        logging.exception("the page couldn't answer for a file")
        yield sections.error(_FAULT), "", ""


def _answered(answerer: Answerer, path: str, go_on: Callable[[], None]) -> Iterator[Any]:
    media = look_at(path, answerer.limits)
    shown = sections.player(media)
    yield shown, sections.waiting("Listening and looking ..."), ""
    for told in _told(lambda tell: answerer.answer(media, tell), go_on):
        if isinstance(told, Answer):
            yield from _explained(answerer, told, go_on)
        else:
            yield gr.skip(), sections.waiting(f"{clock(told)} of {clock(_expected(answerer, media))} are done"), gr.skip()


def _explained(answerer: Answerer, answer: Answer, go_on: Callable[[], None]) -> Iterator[Any]:
    yield sections.overview(answer), sections.three_ways(answer, answerer.ways), sections.waiting("Looking at it more closely ...")
    shown = ""
    for step in (_pictures, partial(_matched, go_on), _nearest, _filled):
        shown += step(answerer, answer)
        go_on()
    yield gr.skip(), gr.skip(), shown


def _pictures(answerer: Answerer, answer: Answer) -> str:
    found = answerer.pictures(answer)
    return sections.pictures(found) if found else ""


def _matched(go_on: Callable[[], None], answerer: Answerer, answer: Answer) -> str:
    try:
        found = answerer.match_along(answer.media, go_on)
    except ClipError:  # a film that shows one image alone, or is short; everything else is said of it
        return ""
    return match_along_time(found, answer.media.seconds) if found else ""


def _nearest(answerer: Answerer, answer: Answer) -> str:
    return sections.neighbours(answerer.nearest(answer.media))


def _filled(answerer: Answerer, answer: Answer) -> str:
    found = answerer.reconstruction(answer.media)
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
