"""Stamps the frames of an AVI file, which numbers its packets in the order of decoding and gives no times."""

from collections import deque
from typing import Any

_REORDERED = 2  # frames by which encoders delay


class AviOrder:
    """Gives each frame the number of the packet that lies as far back as the decoder's delay."""

    def __init__(self) -> None:
        self._numbers = deque[int]()  # of packets whose frames aren't there yet
        self._seen = 0  # packets
        self._delay: int | None = None  # how many packets the decoder holds back
        self._late = 0  # by how much all packets but the first are numbered too high

    def add(self, number: int) -> None:
        """Notes the number of a packet. Encoders that may reorder leave numbers out behind the first frame, which is no pause."""
        if self._seen == 1 and number <= _REORDERED + 1:
            self._late = number - 1
        self._seen += 1
        self._numbers.append(number - self._late)

    def drop(self) -> None:
        """Forgets the last packet, which couldn't be decoded."""
        self._numbers.pop()

    def stamp(self, frames: list[Any]) -> None:
        """Stamps the frames that a packet gave. Packets that only repeat the frame before have none of their own."""
        if self._delay is None:
            self._delay = len(self._numbers) - len(frames)
        while len(self._numbers) > self._delay + len(frames):
            self._numbers.popleft()
        for frame in frames:
            frame.pts = self._numbers.popleft() if self._numbers else None

    def stamp_last(self, frames: list[Any]) -> None:
        """Stamps the frames that the decoder held back at the end."""
        self._delay = max(0, len(self._numbers) - len(frames))
        self.stamp(frames)
