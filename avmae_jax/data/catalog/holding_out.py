"""Chooses the videos that are held out for testing, by a hash of their ids, so that a data set is split the same everywhere."""

import hashlib
from collections.abc import Mapping, Sequence

_LEAST = 1  # videos of a class that are left to train on


def held_out(labels_of: Mapping[str, Sequence[int]], percent: int) -> frozenset[str]:
    """Returns the videos that are held out: those whose hash is below the share, as far as each class keeps a video to train on.

    A class, or all videos without a class, of which none would be held out gives the video whose hash is nearest to the share, if it has
    another one. The only video of a class is never held out, whatever other classes it has. So a video that is added leaves the others
    where they are, with one exception: the video that a class gave for want of another goes back once the class has one that is below the
    share, or nearer to it.

    Args:
      labels_of: the classes of each video; the clips of a video are never divided.
      percent: share held out; 0 and 100 leave one side empty.
    """
    if percent in (0, 100):
        return frozenset(labels_of) if percent else frozenset()
    classes_of = {video: {*labels} or {-1} for video, labels in sorted(labels_of.items(), key=lambda item: _nearness(item[0]))}
    members: dict[int, list[str]] = {}
    for video, classes in classes_of.items():
        for label in classes:
            members.setdefault(label, []).append(video)
    left = {label: len(videos) for label, videos in members.items()}  # to train on
    chosen: set[str] = set()

    def hold_out(video: str) -> bool:
        if min(left[label] for label in classes_of[video]) < _LEAST + 1:
            return False
        chosen.add(video)
        for label in classes_of[video]:
            left[label] -= 1
        return True

    for video in classes_of:
        if _hash(video) % 100 < percent:
            hold_out(video)
    for _, videos in sorted(members.items()):
        if chosen.isdisjoint(videos):
            any(map(hold_out, videos))
    return frozenset(chosen)


def _hash(video: str) -> int:
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8])


def _nearness(video: str) -> tuple[int, int]:
    """Orders videos by where they lie on the scale of percents."""
    return _hash(video) % 100, _hash(video)
