"""Finds out which file of a folder of downloaded media is which listed clip. Nothing is decoded here.

Files are looked up among the names that lie under the folder, so no text of a list becomes a path. They may lie at any depth and be called,
for a clip of the video ID that starts at 30 s and ends at 40 s, ID, ID_30 or ID_30_40, with any media suffix; Y may stand before ID, and
times may be in seconds, padded (000030) or with decimals (30.000), or in milliseconds (30000). Of several such files a video is taken
before audio before an image, then the one whose name says most. A file that could be one of several clips is none of them.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from avmae_jax.data.decode.media import RANK
from avmae_jax.data.store.job import Failure
from avmae_jax.errors import DatasetError
from avmae_jax.files import as_text

TIME = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")  # a time as lists and names of files have it


class Entry(NamedTuple):
    """Describes a clip for which a file was found."""

    id: str  # unique in the listing
    path: str  # POSIX, relative to the folder of media; may hold surrogates where a name isn't UTF-8
    labels: tuple[int, ...]  # indices into label_names; empty where there are none
    video: str  # what the clip was cut from; splits never divide a video
    start: float  # seconds into the original video, 0 if unknown; the file usually is the clip already cut out


class Listing(NamedTuple):
    """Holds the clips of a data set."""

    name: str  # TFDS name: lower case, digits, underscores
    label_names: tuple[str, ...]
    splits: dict[str, list[Entry]]  # "train" and "test", in the order of the list
    missing: list[Failure]  # clips without a file, stage "missing"; lines of lists that can't be used, "list"; unreadable folders, "open"
    missing_labels: list[tuple[int, ...]]  # of each clip in `missing`
    ignored: list[str]  # files under the folder that are no media, and links to folders, which aren't followed
    unused: Sequence[str] = ()  # media under the folder that became no entry, as no usable line of a list means them
    unwanted: int = 0  # clips that were left out as they have none of the wanted labels


class Listed(NamedTuple):
    """Describes a clip that a list names."""

    id: str
    split: str
    video: str
    start: float | None  # s; None: the list doesn't say
    end: float | None
    labels: tuple[int, ...]
    file: str | Path
    place: str  # in that file, for errors
    fault: str = ""  # why it can't be used, as the end of a sentence about it

    @property
    def where(self) -> str:
        """Returns where the clip is listed: file and place."""
        return f"{self.file}: {self.place}"


class _File(NamedTuple):
    rank: int  # video 0, audio 1, image 2
    times: tuple[float, ...]  # start and end as its name has them
    path: str


def look_up(name: str, label_names: tuple[str, ...], listed: Sequence[Listed], root: str | Path) -> Listing:
    """Finds the file of every listed clip.

    Args:
      name: TFDS name of the data set.
      label_names: what the clips' labels index.
      listed: the clips.
      root: folder of media.

    Raises:
      DatasetError: if the list is empty, a clip is listed twice, or the folder can't be read.
    """
    if not listed:
        raise DatasetError(f"{name}: the lists hold no clips")
    listed, starts_of = _check_list(listed)
    listing, root = Listing(name, label_names, {"train": [], "test": []}, [], [], []), Path(root).expanduser()
    files_of: dict[str, list[_File]] = {}
    unreadable: list[Failure] = []
    paths = list(walk(root, lambda folder, reason: unreadable.append(Failure(as_text(folder), "open", reason))))
    for path, is_link in paths:
        for video, file in () if is_link else _readings(path):
            if video in starts_of:
                files_of.setdefault(video, []).append(file)
    chosen = [clip.fault or _choose(clip, files_of.get(clip.video, ()), len(starts_of[clip.video]) == 1) for clip in listed]
    uses = Counter(file.path for file in chosen if isinstance(file, _File))
    for clip, file in zip(listed, chosen, strict=True):
        if isinstance(file, _File) and uses[file.path] == 1:
            listing.splits[clip.split].append(Entry(clip.id, file.path, clip.labels, clip.video, clip.start or 0.0))
            continue
        reason = file if isinstance(file, str) else f"{as_text(file.path)} could be this clip or another; name it after video and start"
        listing.missing.append(Failure(clip.id, "list", f"({clip.where}) {reason}") if clip.fault else Failure(clip.id, "missing", reason))
        listing.missing_labels.append(clip.labels)
    listing.missing.extend(unreadable)
    listing.missing_labels.extend([tuple(range(len(label_names)))] * len(unreadable))  # whichever labels are wanted, clips may be in there
    rest = sorted((as_text(path), is_link) for path, is_link in paths if uses[path] != 1)
    listing.ignored.extend(name for name, is_link in rest if is_link or not _is_media(name))
    return listing._replace(unused=[name for name, is_link in rest if not is_link and _is_media(name)])


def _check_list(listed: Iterable[Listed]) -> tuple[list[Listed], dict[str, set[float | None]]]:
    """Returns the clips, with a fault where a training clip's video is in the test split too, and the starts listed of each video.

    Raises:
      DatasetError: if a clip is listed twice in a split.
    """
    clips_of: dict[tuple[str, str], dict[float | None, Listed]] = {}
    starts_of: dict[str, set[float | None]] = {}
    for clip in listed:
        if clip.fault:
            continue
        others = clips_of.setdefault((clip.video, clip.split), {})
        twin = others.get(clip.start) or others.get(None) or (next(iter(others.values()), None) if clip.start is None else None)
        if twin:
            raise DatasetError(f"{clip.where}: the clip {clip.id!r} is already listed at {twin.where}; remove one")
        others[clip.start] = clip
        starts_of.setdefault(clip.video, set()).add(clip.start)

    def checked(clip: Listed) -> Listed:
        tests = clips_of.get((clip.video, "test"))
        if clip.fault or clip.split == "test" or not tests:
            return clip
        fault = f"is for training, but its video is for testing too ({next(iter(tests.values())).where}), so that it is left out"
        return clip._replace(fault=fault)

    return [checked(clip) for clip in listed], starts_of


def walk(root: Path, on_error: Callable[[str, str], object] | None = None) -> Iterator[tuple[str, bool]]:
    """Yields every file under root and every link to a folder as a POSIX path under root, and whether it is the latter.

    Args:
      root: the folder.
      on_error: called with each folder below root that can't be read, and the reason; without it, and for root itself, DatasetError is
        raised.
    """

    def failed(error: OSError) -> None:
        folder = os.fspath(error.filename)
        if on_error is None or Path(folder) == root:
            raise DatasetError(f"{root}: {as_text(folder)} can't be listed ({error.strerror})") from error
        on_error(Path(folder).relative_to(root).as_posix(), f"can't be listed ({error.strerror})")

    for folder, subfolders, files in os.walk(root, onerror=failed):
        inside = Path(folder).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        yield from ((prefix + name, False) for name in files)
        yield from ((prefix + name, True) for name in subfolders if Path(folder, name).is_symlink())


def media_files(paths: Iterable[str | Path]) -> list[Path]:
    """Lists the files among paths, each once, and the media files in the folders among them, sorted.

    Whether a file that is given by its name is media shows when it is read.

    Raises:
      DatasetError: if a folder has no media files.
    """
    found: dict[Path, None] = {}
    for path in (Path(path).expanduser() for path in paths):
        if not path.is_dir():
            found[path] = None
            continue
        inside = sorted(name for name, is_link in walk(path) if not is_link and Path(name).suffix.lower() in RANK)
        if not inside:
            raise DatasetError(f"{path} has no media files, which end in {', '.join(RANK)}")
        found |= dict.fromkeys(path / name for name in inside)
    return list(found)


def _is_media(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in RANK  # noqa: PTH122 - a Path for each is slow


def _readings(path: str) -> Iterator[tuple[str, _File]]:
    """Yields each way to read a file's name: as of which video, from when to when."""
    stem, suffix = os.path.splitext(path.rsplit("/", 1)[-1])  # noqa: PTH122 - a Path for each is slow
    rank = RANK.get(suffix.lower())
    for count in range(3 if rank is not None else 0):
        video, *times = stem.rsplit("_", count)
        if len(times) == count and all(map(TIME.fullmatch, times)):
            file = _File(rank or 0, tuple(map(float, times)), path)
            yield video, file
            if video.startswith("Y"):
                yield video[1:], file


def _choose(clip: Listed, files: Iterable[_File], alone: bool) -> _File | str:
    """Returns the file of a clip, or why there is none; alone: no other clip of its video is listed."""
    fits = [file for file in files if all(map(_is_time, file.times, (clip.start, clip.end)))]
    if not fits:
        return "no media file is named after it"
    if not alone:
        fits = [file for file in fits if file.times]
    elif clip.start is None and len({file.times[0] for file in fits if file.times}) > 1:
        fits = [file for file in fits if not file.times]
    return min(fits, key=lambda file: (file.rank, -len(file.times), file.path), default="no file of its video is named after its start")


def _is_time(named: float, time: float | None) -> bool:
    """Returns whether a number in a file's name is that time in s or in ms."""
    return time is None or abs(named - time) < 1e-3 or abs(named - 1000 * time) < 0.5
