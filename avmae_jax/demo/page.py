"""Builds the page: what is dropped, recorded or chosen at the top, what the model says of it below."""

import queue
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import gradio as gr
from absl import logging

from avmae_jax.demo import sections
from avmae_jax.demo.answers import Answerer
from avmae_jax.demo.examples import Example
from avmae_jax.demo.html import escape
from avmae_jax.demo.limits import Media, clock, look_at, sentence
from avmae_jax.errors import AvmaeError

AT_ONCE = 2  # files that are worked on at the same time; others wait
_WAITING = 24  # that wait, at most
_SAID = (AvmaeError, ValueError, OSError)  # errors of a file, which are shown; others are faults of the program
_FAULT = "The program failed at this file; its log says why."
_EMPTY = ("", "", "")
Shown = tuple[str, str, str]  # the three parts of the answer, as HTML


def build(answerer: Answerer, examples: list[Example], title: str, about: str) -> gr.Blocks:
    """Builds the page.

    Args:
      answerer: of the model.
      examples: files that are offered.
      title: the model's name.
      about: one sentence about it.
    """
    limits = answerer.limits

    def show(path: str | None) -> Iterator[Any]:
        yield from _shown(answerer, path)

    with gr.Blocks(title=f"Try {title}", analytics_enabled=False, delete_cache=(60, 3600)) as page:
        gr.HTML(f"<header><h1>What does it hear and see?</h1><p>{escape(about)}</p></header>", apply_default_css=False)
        with gr.Row(elem_classes="av-inputs"):
            file = gr.File(label="Drop a video, a sound or a picture here", file_count="single", type="filepath", height=150)
            voice = gr.Audio(label="Or record with the microphone", sources=["microphone"], type="filepath", editable=False, buttons=[])
        with gr.Row(elem_classes="av-examples"):
            buttons = [gr.Button(f"Example: {example.name}", size="sm") for example in examples]
        words = (
            f"At most {limits.megabytes} MB, of which the first {clock(limits.media_seconds)} are handled. Files are deleted afterwards."
        )
        gr.HTML(f'<p class="av-note">{escape(words)}</p>', apply_default_css=False)
        parts = [gr.HTML("", elem_classes="av-page", apply_default_css=False, container=False) for _ in range(3)]
        options: Any = {"outputs": parts, "concurrency_limit": AT_ONCE, "concurrency_id": "model", "show_progress": "hidden"}
        file.upload(show, file, api_visibility="private", **options)
        file.clear(lambda: _EMPTY, None, parts, api_visibility="private")
        voice.stop_recording(show, voice, api_visibility="private", **options)
        for button, example in zip(buttons, examples, strict=True):
            button.click(lambda path=str(example.path): (yield from _shown(answerer, path)), None, api_visibility="private", **options)
    return page.queue(max_size=_WAITING)


def static(name: str) -> str:
    """Reads a file of the folder static."""
    return resources.files("avmae_jax.demo").joinpath("static", name).read_text(encoding="utf-8")


def _shown(answerer: Answerer, path: str | None) -> Iterator[Any]:
    """Yields the parts of the answer as they become known; an error takes the place of the first part."""
    if not path:
        yield _EMPTY
        return
    try:
        yield from _answered(answerer, path)
    except _SAID as error:
        yield sections.error(sentence(error, path)), "", ""
    except Exception:
        logging.exception("the page couldn't answer for a file")
        yield sections.error(_FAULT), "", ""


def _answered(answerer: Answerer, path: str) -> Iterator[Any]:
    media = look_at(path, answerer.limits)
    yield sections.player(media) + sections.waiting("Listening and looking ..."), "", ""
    answer = None
    for told in _told(lambda tell: answerer.answer(media, tell)):
        if isinstance(told, float):
            yield gr.skip(), sections.waiting(f"{clock(told)} of {clock(_expected(answerer, media))} are done"), gr.skip()
        else:
            answer = told
    if answer is None:
        return
    first = sections.overview(answer)
    yield first, sections.three_ways(answer, answerer.ways), sections.waiting("Looking for what speaks for it ...")
    found = answerer.pictures(answer)
    shown = sections.pictures(found) if found else ""
    yield gr.skip(), gr.skip(), shown
    filled = answerer.reconstruction(media)
    if filled:
        yield gr.skip(), gr.skip(), shown + sections.reconstruction(filled)


def _expected(answerer: Answerer, media: Media) -> float:
    return min(media.seconds or answerer.limits.media_seconds, answerer.limits.media_seconds)


def _told(work: Callable[[Callable[[float], None]], Any]) -> Iterator[Any]:
    """Runs `work` in a thread, and yields what it tells on the way and then what it returns; raises what it raises."""
    said: queue.Queue[Any] = queue.Queue()
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work(lambda second: said.put(float(second))))
        except BaseException as error:
            result.append(error)
        said.put(None)

    threading.Thread(target=run, daemon=True).start()
    while (second := said.get()) is not None:
        yield second
    if isinstance(result[0], BaseException):
        raise result[0]
    yield result[0]
