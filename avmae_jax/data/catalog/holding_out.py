"""Chooses the videos that are held out for testing, by a hash of their ids, so that a data set is split the same everywhere."""

import hashlib
from collections.abc import Mapping, Sequence


def held_out(labels_of: Mapping[str, Sequence[int]], percent: int) -> frozenset[str]:
    """Returns the videos that are held out: those whose hash is below the share, with at least one of each class on either side.

    A class, or all videos without a class, that has two videos or more and would lack one on a side gives the one whose hash is nearest to
    the share. So a video that is added leaves the others where they are, with one exception: the video that a class gave for want of
    another goes back once the class has one that is below the share, or nearer to it.

    Args:
      labels_of: the classes of each video; the clips of a video are never divided.
      percent: share held out; 0 and 100 leave one side empty.
    """
    if percent in (0, 100):
        return frozenset(labels_of) if percent else frozenset()
    members: dict[int, list[str]] = {}
    for video, labels in labels_of.items():
        for label in labels or (-1,):
            members.setdefault(label, []).append(video)
    chosen = {video for video in labels_of if _hash(video) % 100 < percent}
    divisible = [sorted(videos, key=_nearness) for _, videos in sorted(members.items()) if len(videos) > 1]
    for videos in divisible:
        if chosen.issuperset(videos):
            chosen.remove(videos[-1])
    for videos in divisible:  # last, so that every class can be tested, even where a video has several classes
        if chosen.isdisjoint(videos):
            chosen.add(videos[0])
    return frozenset(chosen)


def _hash(video: str) -> int:
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8])


def _nearness(video: str) -> tuple[int, int]:
    """Orders videos by where they lie on the scale of percents."""
    return _hash(video) % 100, _hash(video)
