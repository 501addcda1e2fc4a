"""Offers what tests of the report share: a parser that refuses open tags and outside sources, and the folder of a run."""

import base64
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from avmae_jax.config import Config

HOSTILE = "<script>alert(1)</script>"


VOID = {"meta", "img", "source"}


class Page(HTMLParser):
    """Reads a page; fails where a tag isn't closed, or something lies elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words, self.open, self.ids = list[str](), list[str](), list[str](), set[str]()
        self.targets, self.alts, self.sounds = list[str](), list[str](), list[tuple[str, bytes]]()
        self.feed(text)
        self.close()
        assert not self.open
        assert set(self.targets) <= self.ids
        assert "script" not in self.tags

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "img":
            self.alts.append(found["alt"] or "")
            assert int(found["width"] or 0) > 0
        if tag == "audio":
            self.sounds.append((found["aria-label"] or "", base64.b64decode((found["src"] or "").split(",")[1])))
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "srcset"):
                assert (value or "").startswith("data:audio/wav;base64," if tag == "audio" else "data:image/")
            if name == "href":
                assert (value or "").startswith("#")
                self.targets.append((value or "")[1:])
            if name == "id":
                self.ids.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def levels(self) -> list[int]:
        """Returns the levels of the headings, in their order."""
        return [int(tag[1]) for tag in self.tags if tag in ("h1", "h2", "h3", "h4", "h5", "h6")]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def start(folder: Path, metrics: str = "", summary: dict[str, Any] | None = None, **config: Any) -> Path:
    """Makes the folder of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(Config(**config))))
    (folder / "metrics.jsonl").write_text(metrics)
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder
