"""Remembers, for each visitor, the latest request and the file that it was about, and deletes files that nobody looks at any more."""

import threading
from pathlib import Path


class Replaced(Exception):  # noqa: N818 - no error, but the end of work that nobody waits for
    """Says that a visitor has asked for something else meanwhile."""


class Visitors:
    """Holds a visitor's file until another one takes its place or the visitor leaves. Several threads may use it.

    Gradio stores files by their content, so two visitors may look at the same one: it is held for each of them, also while they wait in the
    queue.
    """

    def __init__(self, folder: Path):
        """Keeps the folder of uploads; no file outside of it is ever deleted, and none of the folder `examples` in it."""
        self._folder, self._lock = folder.resolve(), threading.Lock()
        self._held: dict[str, Path] = {}
        self._latest: dict[str, int] = {}
        self._count = 0

    def hold(self, visitor: str, path: str | Path) -> None:
        """Keeps a file for a visitor as soon as it is there, in place of the one before, whose request ends."""
        with self._lock:
            before = self._held.pop(visitor, None)
            self._held[visitor] = Path(path).resolve()
            self._latest.pop(visitor, None)
            self._drop(before)

    def begin(self, visitor: str, path: str | Path) -> int:
        """Returns the number of a request about the file that is held for a visitor, and ends the one before.

        Raises:
          Replaced: if the visitor has another file by now, or has left.
        """
        with self._lock:
            if self._held.get(visitor) != Path(path).resolve():
                raise Replaced
            self._count += 1
            self._latest[visitor] = self._count
            return self._count

    def require_latest(self, visitor: str, request: int) -> None:
        """Raises Replaced if the visitor has asked for something else since, or has left."""
        if self._latest.get(visitor) != request:
            raise Replaced

    def leave(self, visitor: str) -> None:
        """Forgets a visitor, or what one has asked for."""
        with self._lock:
            self._latest.pop(visitor, None)
            self._drop(self._held.pop(visitor, None))

    def _drop(self, path: Path | None) -> None:
        if path is None or path in self._held.values() or not path.is_relative_to(self._folder):
            return
        if not path.is_relative_to(self._folder / "examples"):
            path.unlink(missing_ok=True)
