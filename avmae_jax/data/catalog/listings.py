"""Lists the clips of a data set: from public lists of ids and labels, or from the folders that media lie in.

A list says which clips there should be, the folder of downloaded media which of them there are: listed = found + missing. media_folder
defines how files are recognised.

Lines that can't be used don't stop the others: a training clip of a video that is in the test split too, and an id that a spreadsheet
damaged, are among the missing, with the reason.
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from avmae_jax.data.catalog import instrument_labels
from avmae_jax.data.catalog.holding_out import held_out
from avmae_jax.data.catalog.labels import label_indices, read_labels
from avmae_jax.data.catalog.media_folder import TIME, Entry, Listed, Listing, look_up, walk
from avmae_jax.data.catalog.own_labels import own_labels
from avmae_jax.data.catalog.pieces import first_pieces
from avmae_jax.data.decode.media import RANK
from avmae_jax.data.store.job import Failure
from avmae_jax.data.text_files import damage, read_json, read_rows, read_text, shown
from avmae_jax.errors import DatasetError
from avmae_jax.files import as_text, printable

_VGG_SECONDS = 10.0  # length of every clip of VGGSound
_VGG_LINE = re.compile(r"(?P<video>[0-9A-Za-z_-]+)_(?P<start>[0-9]{1,9}),(?P<instrument>.+)")
_DAMAGED_VGG_LINE = re.compile(r"(?P<video>[^,]+)(?P<start>),(?P<instrument>.+)")
_VIDEO = re.compile(r"[0-9A-Za-z_-]+")


def av_folder(
    root: str | Path, *, labels: str | Path = "", is_test: Callable[[str], bool] | None = None, test_percent: int = 10
) -> Listing:
    """Lists every media file under a folder: root/<class>/<any depth>/<file>, or flat and without labels, or labelled by a CSV file.

    A file's id is its path under root, and so is its video's; the pieces of one video have the id of the first, see pieces.py. A link to a
    folder is listed as if it were a video, since whoever made it meant its content; it isn't followed, and reading it fails. A folder that
    can't be read is listed as missing.

    Args:
      root: the folder.
      labels: CSV with rows file,label[;label...], which then define the classes instead of the folders; see own_labels.
      is_test: id of a file -> whether it is held out; if None, by a hash of its video's id.
      test_percent: share held out by hash, at least one video of each class that has two; see holding_out.

    Raises:
      DatasetError: if there is no media, or some lies in class folders and some doesn't, or something is wrong with the labels.
    """
    root = Path(root).expanduser()
    media, ignored, missing = {}, [], []
    for path, is_link in walk(root, lambda folder, reason: missing.append(Failure(as_text(folder), "open", reason))):
        name = as_text(path)
        if not is_link and os.path.splitext(path)[1].lower() not in RANK:  # noqa: PTH122 - a Path for each is slow
            ignored.append(name)
        elif name in media:
            raise DatasetError(f"{root}: two files would have the id {name!r}: {media[name][0]!r} and {path!r}; rename one")
        else:
            media[name] = path, is_link
    if not media:
        raise DatasetError(f"{root}: none of its {len(ignored)} files has one of the suffixes {' '.join(RANK)}")
    if labels:
        label_names, labels_of, unmatched = own_labels(labels, root, media)
    else:
        label_names, labels_of, unmatched = *_folder_labels(root, media), []
    first_of = first_pieces(labels_of)
    if is_test is None:
        together: dict[str, tuple[int, ...]] = {}
        for name, found in labels_of.items():
            video = first_of.get(name, name)
            together[video] = tuple(dict.fromkeys((*together.get(video, ()), *found)))
        chosen = held_out(together, test_percent)
        is_test = {name for name in labels_of if first_of.get(name, name) in chosen}.__contains__
    splits: dict[str, list[Entry]] = {"train": [], "test": []}
    for name, found in sorted(labels_of.items(), key=lambda item: media[item[0]][0]):
        splits["test" if is_test(name) else "train"].append(Entry(name, media[name][0], found, first_of.get(name, name), 0.0))
    missing += unmatched
    return Listing("av_folder", label_names, splits, missing, [()] * len(missing), sorted(ignored))


def _folder_labels(root: Path, media: Mapping[str, tuple[str, bool]]) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Labels files by the folder below root that they are in; `media` is id -> path and whether it is a link to a folder."""
    loose = [name for name, (path, is_link) in media.items() if "/" not in path and not is_link]
    classes = {folder: number for number, folder in enumerate(sorted({path.split("/")[0] for path, _ in media.values() if "/" in path}))}
    if classes and loose:
        example = as_text(min(classes)), min(loose)
        raise DatasetError(f"{root} has class folders ({example[0]}, ...) and loose media ({example[1]}, ...); move the latter away")
    labels = {name: (classes[path.split("/")[0]],) if "/" in path else () for name, (path, _) in media.items()}
    return tuple(map(as_text, classes)), labels


def audioset(segments: Mapping[str, Sequence[str | Path]], labels_csv: str | Path, root: str | Path) -> Listing:
    """Lists the clips of AudioSet.

    Args:
      segments: for "train" and "test", lists of segments: CSV files with the fields YTID, start_seconds, end_seconds, "mid,mid", or
        official manifests (.json), of which ids and labels are used; they name no start, so a file of any start fits if there is but one.
      labels_csv: CSV with the columns index,mid,display_name.
      root: folder of media.

    Returns:
      The listing. An id is the video's, with _<start in s> where several segments of the video are listed.

    Raises:
      DatasetError: naming file, line and field; if a segment is listed twice.
    """
    mids, label_names = read_labels(Path(labels_csv).expanduser())
    listed: list[Listed] = []
    for split, files in _by_split(segments):
        for file in files:
            listed += (_read_manifest if str(file).lower().endswith(".json") else _read_segments)(file, split, mids)
    count = Counter(clip.video for clip in listed if not clip.fault)
    listed = [clip._replace(id=f"{clip.video}_{clip.start or 0:.15g}") if count[clip.video] > 1 else clip for clip in listed]
    return look_up("audioset", label_names, listed, root)


def vggsound(csv_file: str | Path, labels_csv: str | Path, root: str | Path) -> Listing:
    """Lists the clips of VGGSound; a clip's id is <video>_<start in s, six digits>.

    Args:
      csv_file: the public list, without a header: youtube_id,start_seconds,label,train|test.
      labels_csv: CSV with the columns index,mid,display_name; where a label has a comma its name may have "_".
      root: folder of media.

    Raises:
      DatasetError: naming file, line and field; if a clip is listed twice, or two labels have one name.
    """
    _, label_names = read_labels(Path(labels_csv).expanduser())
    number_of = {_plain(name): number for number, name in enumerate(label_names)}
    if len(number_of) < len(label_names):
        twice, _ = Counter(map(_plain, label_names)).most_common(1)[0]
        raise DatasetError(f"{labels_csv}: two labels are called {twice!r}; a clip's label must be one of them")
    listed = []
    for place, row in _read_list(csv_file, 4, "youtube_id,start_seconds,label,split"):
        where = f"{csv_file}: {place}"
        video, label, split = _video(row[0], where), _plain(row[2]), row[3]
        if label not in number_of:
            close = difflib.get_close_matches(label, number_of, 1)
            hint = f"; the closest is {close[0]!r}" if close else ""
            raise DatasetError(f"{where} ({video}): the label {shown(row[2])} isn't in {labels_csv}{hint}")
        if split not in ("train", "test"):
            raise DatasetError(f"{where} ({video}): the split is {shown(split)}; it must be train or test")
        listed.append(_vgg_clip(split, video, _seconds(row[1], "start_seconds", where), (number_of[label],), csv_file, place))
    return look_up("vggsound", label_names, listed, root)


def vgginstruments(files: Mapping[str, str | Path], root: str | Path) -> Listing:
    """Lists the clips of VGG-Instruments: each of "train" and "test" is a text file with a line <video>_<start in s>,<instrument> a clip.

    Labels are the names of instruments that the files have, sorted.

    Raises:
      DatasetError: naming file and line; if a clip is listed twice or a video in both splits.
    """
    lines: list[tuple[str, str | Path, int, re.Match[str]]] = []
    for split, file in _by_split(files):
        for number, line in enumerate(read_text(file).split("\n"), 1):
            match = _VGG_LINE.fullmatch(line.strip()) or _DAMAGED_VGG_LINE.fullmatch(line.strip())
            if match and (match["start"] or damage(match["video"])):
                lines.append((split, file, number, match))
            elif line.strip():
                raise DatasetError(f"{file}: line {number} is {shown(line)}; it must be <video>_<start second>,<instrument>")
    names = sorted({match["instrument"] for _, _, _, match in lines})
    number_of = {name: number for number, name in enumerate(names)}
    listed = [
        _vgg_clip(split, match["video"], float(match["start"] or 0), (number_of[match["instrument"]],), file, f"line {number}")
        for split, file, number, match in lines
    ]
    return look_up("vgginstruments", tuple(names), listed, root)


def music21(
    json_files: Mapping[str, str | Path] | str | Path,
    root: str | Path,
    *,
    is_test: Callable[[str], bool] | None = None,
    test_percent: int = 10,
) -> Listing:
    """Lists MUSIC-21: whole videos by instrument, `{"videos": {instrument: [video]}}`. Labels are the instruments, sorted.

    Args:
      json_files: a file for each of "train" and "test", or one file whose videos are split here.
      root: folder of media.
      is_test: video -> whether it is held out, where there is one file; if None, by hash.
      test_percent: share held out by hash, at least one video of each class that has two; see holding_out.

    Raises:
      DatasetError: naming file and entry; if a video is listed twice.
    """
    by_split = _by_split(json_files) if isinstance(json_files, Mapping) else [("", json_files)]
    videos = [(split, file, _read_videos(file)) for split, file in by_split]
    names = sorted({name for _, _, content in videos for name in content})
    labels_of = {video: (names.index(name),) for _, _, content in videos for name, ids in content.items() for video in ids}
    is_test = is_test or held_out(labels_of, test_percent).__contains__
    listed = [
        Listed(video, split or ("test" if is_test(video) else "train"), video, None, None, (names.index(name),), file, f"{name} {number}")
        for split, file, content in videos
        for name, ids in content.items()
        for number, video in enumerate(ids)
    ]
    return look_up("music21", tuple(names), listed, root)


def only_instruments(listing: Listing, kind: Literal["audioset", "vggsound"]) -> Listing:
    """Keeps the clips with at least one label that is an instrument, and of their labels those: 80 of AudioSet, 55 of VGGSound.

    VGGSound's timpani and tympani become one label. Labels keep their order; `missing` is filtered as the clips are.

    Raises:
      DatasetError: if the listing's labels lack an instrument of that data set.
    """
    wanted = {_plain(name) for name in (instrument_labels.AUDIOSET if kind == "audioset" else instrument_labels.VGGSOUND)}
    old = {_plain(name): number for number, name in enumerate(listing.label_names)}
    if not wanted <= set(old):
        raise DatasetError(f"{listing.name}: its labels lack {min(wanted - set(old))!r}; give {kind}'s own CSV of labels")
    kept = [name for name in old if name in wanted and name not in instrument_labels.SAME]
    new_of = {old[name]: kept.index(instrument_labels.SAME.get(name, name)) for name in wanted}

    def new(labels: Iterable[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(new_of[label] for label in labels if label in new_of))

    splits = listing.splits.items()
    missing = [(failure, new(labels)) for failure, labels in zip(listing.missing, listing.missing_labels, strict=True) if new(labels)]
    kept_clips = {split: [clip._replace(labels=new(clip.labels)) for clip in clips if new(clip.labels)] for split, clips in splits}
    return listing._replace(
        name=f"{listing.name}_instruments",
        label_names=tuple(listing.label_names[old[name]] for name in kept),
        splits=kept_clips,
        unwanted=sum(map(len, listing.splits.values())) + len(listing.missing) - sum(map(len, kept_clips.values())) - len(missing),
        missing=[failure for failure, _ in missing],
        missing_labels=[labels for _, labels in missing],
    )


def _read_segments(file: str | Path, split: str, mids: Mapping[str, int]) -> Iterator[Listed]:
    for place, row in _read_list(file, 4, 'YTID, start_seconds, end_seconds, "mid,mid"'):
        where = f"{file}: {place}"
        video, start, end = _video(row[0], where), _seconds(row[1], "start_seconds", where), _seconds(row[2], "end_seconds", where)
        labels = label_indices(row[3], mids, f"{where} ({video}): positive_labels")
        if not labels:
            raise DatasetError(f"{where} ({video}): positive_labels is empty; give the mid of a label")
        yield Listed(video, split, video, start, end, labels, file, place, damage(video))


def _read_manifest(file: str | Path, split: str, mids: Mapping[str, int]) -> Iterator[Listed]:
    for number, entry in enumerate(_read_json(file, "data", list)):
        place = f"entry {number}"
        video, labels = (entry.get(key) if isinstance(entry, dict) else None for key in ("video_id", "labels"))
        if not isinstance(video, str) or not isinstance(labels, str):
            raise DatasetError(f"{file}: {place} is {shown(entry)}; it must be an object with video_id and labels as text")
        numbers = label_indices(labels, mids, f"{file}: {place} ({video!r}): labels")
        yield Listed(video, split, _video(video, f"{file}: {place}"), None, None, numbers, file, place, damage(video))


def _read_videos(file: str | Path) -> dict[str, list[str]]:
    """Reads the ids of videos by instrument."""
    content = _read_json(file, "videos", dict)
    for name, videos in content.items():
        if not name or name != printable(name):
            raise DatasetError(f"{file}: {shown(name)} can't be the name of an instrument")
        if not isinstance(videos, list) or not all(isinstance(video, str) and _VIDEO.fullmatch(video) for video in videos):
            raise DatasetError(f"{file}: videos of {shown(name)} must be a list of YouTube ids")
    return content


def _read_list(file: str | Path, count: int, fields: str) -> Iterator[tuple[str, list[str]]]:
    """Yields the rows of a CSV file with their places; empty fields at the end of a row, which spreadsheets add, don't count."""
    for line, row in read_rows(file):
        if len(row) < count or any(row[count:]):
            raise DatasetError(f"{file}: line {line} has {len(row)} fields; it must have {fields}")
        yield f"line {line}", row


def _read_json(file: str | Path, key: str, kind: type[list] | type[dict]) -> Any:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get(key), kind):
        raise DatasetError(f'{file}: it must be an object with {"a list" if kind is list else "an object"} under "{key}"')
    return content[key]


def _by_split(files: Mapping[str, Any]) -> list[tuple[str, Any]]:
    unknown = set(files) - {"train", "test"}
    if unknown:
        raise DatasetError(f"there is no split {min(unknown)!r}; give lists for train and test")
    return list(files.items())


def _vgg_clip(split: str, video: str, start: float, labels: tuple[int, ...], file: str | Path, place: str) -> Listed:
    fault = damage(video)
    clip_id = video if fault else f"{video}_{start:06.15g}"
    return Listed(clip_id, split, video, start, start + _VGG_SECONDS, labels, file, place, fault)


def _seconds(text: str, field: str, where: str) -> float:
    if not TIME.fullmatch(text):
        raise DatasetError(f"{where}: {field} is {shown(text)}; it must be a number of seconds")
    return float(text)


def _video(text: str, where: str) -> str:
    if not _VIDEO.fullmatch(text) and not damage(text):
        raise DatasetError(f"{where}: {shown(text)} is no YouTube id, which has letters, digits, '-' and '_'")
    return text


def _plain(name: str) -> str:
    """Returns a label as VGGSound's label file writes it."""
    return name.replace(",", "_")
