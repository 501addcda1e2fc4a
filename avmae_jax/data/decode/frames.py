"""Chooses frames by their time.

Frame i of n is the last one that is over after i n-ths of the clip. Where none is, it is the first one: the one that comes within the first
n-th of the clip, or else the one that is on display when the clip begins.
"""

import bisect
import math
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from av.video.frame import VideoFrame

from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.pixels import encode_jpeg, shrink
from avmae_jax.data.decode.streams import frame_stamp

_MOMENT = Fraction(1, 10**6)  # seconds; no window opens at the very end


def chosen(times: Sequence[Fraction], end: Fraction, start: Fraction, part: Fraction, count: int) -> list[int]:
    """Returns the indices of the frames of a clip, fewer where the video ends before the clip.

    Args:
      times: of all frames from one that is shown at the start of the clip on, in seconds.
      end: of the last one.
      start: of the clip.
      part: seconds from frame to frame of the clip.
      count: most frames.
    """
    if not times or start >= end or start + part * count <= times[0]:
        return []
    first = bisect.bisect_left(times, start)
    if first and (first == len(times) or times[first] >= start + part):
        first -= 1
    bounds = [*times, end]
    due = [start + index * part for index in range(1, count)]
    over = [bisect.bisect_right(bounds, moment) - 2 for moment in due if moment <= end]
    return [first, *(index if index >= 0 and times[index] >= start else first for index in over)]


class Frame(NamedTuple):
    """Holds a frame that a window keeps."""

    time: Fraction  # seconds on the clock
    jpeg: bytes


class Shown(NamedTuple):
    """Says when a frame was shown."""

    time: Fraction
    number: int  # counted from 0
    stamp: Fraction | None  # of the file


class FrameLine:
    """Holds the frames of the windows that have begun and aren't complete."""

    def __init__(self, step: Fraction, form: ClipForm, aspect: Fraction | None, *, remembers: bool) -> None:
        """Starts with nothing.

        Args:
          step: seconds from window to window.
          form: what a clip holds.
          aspect: of a pixel.
          remembers: whether `recent` and `kept` are wanted.
        """
        self._remembers = remembers
        self._step, self._size, self._count, self._aspect = step, form.frame_size, form.frames, aspect
        self._length = Fraction(form.seconds)
        self._part = self._length / form.frames  # seconds from frame to frame of a clip
        self._windows: dict[int, list[Frame]] = {}
        self._next, self._opens = 0, Fraction(0)  # the first window that hasn't begun, and when it does
        self._due: Fraction | float = math.inf  # when the first of the open windows needs its next frame
        self._before: list[tuple[Fraction, VideoFrame]] = []  # the last two frames; the earlier one is known to be over
        self._encoded: Frame | None = None  # the last one that was encoded; windows that overlap share it
        self._number = 0
        self.recent: deque[Shown] = deque()  # the frames that are shown from `forget`'s moment on
        self.kept: deque[Frame] = deque()  # those of them that some window holds
        self.first: Fraction | None = None  # time of the first frame
        self.end = Fraction(0)  # seconds so far
        self.ended = False
        self._closed = False

    @property
    def still(self) -> bool:
        """Returns whether the video, which has ended, is a single image: its frames all lie at one time."""
        return self.ended and bool(self._before) and self.first == self._before[-1][0]

    def complete(self, window: int) -> bool:
        """Returns whether a window has all of its frames."""
        return self.ended or (window < self._next and len(self._windows.get(window, ())) in (0, self._count))

    def window(self, window: int) -> list[Frame]:
        """Returns a window's frames so far and forgets them."""
        frames = self._windows.pop(window, [])
        return [self._encode(Fraction(0), self._before[-1][1])] * self._count if self.still else frames

    def close(self) -> None:
        """Keeps no more frames: no more windows are wanted."""
        self._closed = True
        self._windows.clear()

    def add(self, frame: VideoFrame, time: Fraction) -> None:
        """Takes the next frame."""
        self.first = time if self.first is None else self.first
        self.end = max(self.end, time)
        if self._closed:
            self._before = [(self.end, frame)]
            return
        self._settle(self.end)
        self._open(self.end, frame)
        self._before = [*self._before[-1:], (self.end, frame)]
        if self._remembers:
            self._remember(frame)

    def _remember(self, frame: VideoFrame) -> None:
        """Notes the frame that was just taken."""
        self.recent.append(Shown(self.end, self._number, frame_stamp(frame)))
        self._number += 1

    def forget(self, until: Fraction) -> None:
        """Drops the frames that are over before a moment, from which no more windows begin."""
        while len(self.recent) > 2 and self.recent[2].time < until:
            self.recent.popleft()
        while self.kept and self.kept[0].time < self.recent[0].time:
            self.kept.popleft()

    def finish(self, last_shown: Fraction) -> None:
        """Ends the video; the last frame is shown for so many seconds."""
        if self._before and self._closed:
            self.end += last_shown
        elif self._before:
            self._open(self.end + last_shown - _MOMENT)
            self.end += last_shown
            self._settle(self.end)
            self._before = self._before[-1:]
            self._settle(self.end + last_shown, until=self.end)
        self.ended = True

    def _open(self, until: Fraction, current: VideoFrame | None = None) -> None:
        """Opens every window that has begun, with the frame shown then: the current one if it comes within the first n-th of the clip."""
        while self._opens <= until:
            start = self._opens
            if not self._before and current is not None and start + self._length <= self.end:
                self._windows[self._next] = []  # it was over before the first frame came
            else:
                comes_now = current is not None and (not self._before or self.end < start + self._part)
                self._windows[self._next] = [self._encode(*((self.end, current) if current and comes_now else self._before[-1]))]
            self._due = min(self._due, start + self._part)
            self._next += 1
            self._opens = self._next * self._step

    def _settle(self, now: Fraction, until: Fraction | None = None) -> None:
        """Gives each open window the frames that were due before `now`, none of them later than `until`."""
        if now <= self._due:
            return
        self._due = math.inf
        for window, frames in self._windows.items():
            while 0 < len(frames) < self._count:
                due = window * self._step + len(frames) * self._part
                if due >= now or (until is not None and due > until):
                    self._due = min(self._due, due)
                    break
                over = self._before[0]
                frames.append(self._encode(*over) if over[0] >= window * self._step else frames[0])

    def _encode(self, time: Fraction, frame: VideoFrame) -> Frame:
        if self._encoded is None or self._encoded.time != time:
            self._encoded = Frame(time, encode_jpeg(shrink(frame, self._size, self._aspect)))
            if self._remembers:
                self.kept.append(self._encoded)
        return self._encoded
