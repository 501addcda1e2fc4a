# pyright: strict
"""Ends a program on Ctrl-C or SIGTERM with one line, from its first import on.

Python's own handler of Ctrl-C raises KeyboardInterrupt, whose traceback is printed until a program can catch it, and which crashes
libraries written in C when it comes while they are imported. SIGTERM ends a process without a word. This module imports
next to nothing, so that it can be the first of a program.
"""

import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 128 + signal.SIGINT  # exit status of a program that Ctrl-C stopped


def install() -> None:
    """Makes Ctrl-C and SIGTERM end this process at once."""

    def stop(number: int, _: FrameType | None) -> None:
        end(number)

    for number in SIGNALS:
        signal.signal(number, stop)


def end(number: int, more: str = "") -> None:
    """Ends this process with a line on standard error; nothing else of it runs, so what it must clean up has to be done before.

    Args:
      number: of the signal that stopped it.
      more: what a user should know besides.
    """
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, RuntimeError):  # closed, without a reader, or just being written to
            continue
    os.write(2, f"stopped by {name}{more and '; '}{more}\n".encode(errors="replace"))
    os._exit(128 + number)


def is_importing(frame: FrameType | None) -> bool:
    """Returns whether the code that runs in a frame is part of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
