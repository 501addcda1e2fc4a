"""Opens the sources of clips: the built-in set, a data set written by launch.prepare, or an official JSON manifest.

A source is opened cheaply, gives clips by index, can be pickled for reader processes, and leaves frames encoded. Those of a manifest
are decoded once, to know that they are whole.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging

from avmae_jax.config import Channels, DataConfig
from avmae_jax.data.catalog.labels import label_indices, read_labels
from avmae_jax.data.clip import SAMPLE_RATE, Clip, ClipSource, even_times
from avmae_jax.data.decode.images import decode_image
from avmae_jax.data.decode.one_clip import decode_audio
from avmae_jax.data.drawing import Drawn
from avmae_jax.data.store.plan import is_complete
from avmae_jax.data.store.reader import PreparedSource, Split
from avmae_jax.data.store.records import Needs
from avmae_jax.data.store.tolerant import Tolerant, number_of
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.data.text_files import read_json, shown
from avmae_jax.errors import ClipError, DatasetError
from avmae_jax.files import OnProgress

_USUAL_FRAMES = 10  # of a clip in the official layout, frame_0 ... frame_9, where there are none at all; CAV-MAE Sync has 16
_MANIFEST_SECONDS = 10.0  # that these frames divide evenly
_NAMED_AT_ONCE = 10  # missing files listed in one error
_JPEG_BEGIN, _JPEG_END, _TAIL = b"\xff\xd8\xff", b"\xff\xd9", 1024  # some cameras put bytes behind the end
_SMALLEST = 8  # pixels a side
_LOGGED = 100  # entries that lack files and are named in the log
_FRAME = re.compile(r"frame_([0-9]{1,3})")  # a folder of frames
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # no name of a file has these, and most can't be written


def open_source(
    config: DataConfig, split: Split, needs: Needs = "both", *, on_progress: OnProgress | None = None, workers: int | None = None
) -> ClipSource:
    """Opens the clips of one split.

    Args:
      config: its fields `source` and `path` choose the source.
      split: "train" or "test".
      needs: what each clip must have; the others are left out.
      on_progress: called after every clip of the built-in set, where it has to be generated first.
      workers: processes that generate the built-in set; one a processor if None, none if 0.

    Raises:
      DatasetError: if there is no such source or no such split, or something is wrong with its files.

    Returns:
      The clips; up to config.max_damaged damaged ones are skipped. With config.labelled_per_class, those of "train" are the drawn ones.
    """
    if config.source == "builtin":
        source: ClipSource = PreparedSource(_builtin_folder(config, on_progress, workers), split, needs)
    elif config.source == "prepared":
        if not config.path:
            raise DatasetError("data.path is empty; give the folder that launch.prepare wrote")
        source = PreparedSource(config.path, split, needs)
    elif config.source == "manifest":
        field, path = ("path", config.path) if split == "train" else ("eval_path", config.eval_path)
        if not path:
            raise DatasetError(f"data.{field} is empty; give the JSON manifest of the {split} clips")
        if not config.labels_csv:
            raise DatasetError("data.labels_csv is empty; give the CSV with the columns index,mid,display_name")
        source = ManifestSource(path, config.labels_csv, config.root, config.max_damaged, config.audio_channels)
    else:
        raise DatasetError(f"data.source is {config.source!r}; choose builtin, prepared or manifest")
    if config.labelled_per_class and split == "train":  # a drawn clip that is damaged is replaced by another drawn one
        source = Drawn(source, config.labelled_per_class, config.labelled_seed)
    return Tolerant(source, config.max_damaged)


class _Entry(NamedTuple):
    id: str
    wav: str
    folder: str  # frames are folder/frame_{0, 1, ...}/id.jpg
    labels: tuple[int, ...]
    number: int  # its place in the manifest

    def frame_files(self, count: int) -> list[str]:
        """Returns the paths of its frames."""
        return [f"{self.folder}/frame_{number}/{self.id}.jpg" for number in range(count)]


class ManifestSource:
    """Reads clips that an official manifest lists, `{"data": [{"video_id", "wav", "video_path", "labels"}]}`.

    Opening the source checks that every file exists and lies inside `root`; entries of which a file is missing are left out, and named in
    the log, up to a limit. A clip has as many frames as there are folders frame_0, frame_1, ... in `video_path`. Audio is decoded at
    access, at 16 kHz; frames are checked when they are first read. An entry with an empty `labels` has none.
    """

    def __init__(
        self, path: str | Path, labels_csv: str | Path, root: str | Path = "", max_missing: float = 0, channels: Channels = "first"
    ) -> None:
        """Reads and checks the manifest.

        Args:
          path: the JSON file.
          labels_csv: CSV with the columns index,mid,display_name.
          root: folder that relative paths start from and all paths must lie in; empty: the manifest's own folder.
          max_missing: entries, or below 1 the share of them, of which files may be missing.
          channels: of the audio that are used.

        Raises:
          DatasetError: naming the manifest, the entry, and the field.
        """
        self._path = Path(path).expanduser()
        self._channels: Channels = channels
        self.label_names: Sequence[str]
        mids, self.label_names = read_labels(Path(labels_csv).expanduser())
        root = Path(root).expanduser() if root else self._path.parent
        entries = list(_read_entries(self._path, root.resolve(), mids))
        if not entries:
            raise DatasetError(f"{self._path}: its list of clips is empty")
        self.frames = _count_frames(entries)  # of each clip
        self._entries = _with_files(self._path, root.resolve(), entries, self.frames, max_missing)
        self._whole: set[int] = set()  # checksums of the frames of clips that are known to be whole

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Clip:
        entry = self._entries[index]
        files = entry.frame_files(self.frames)
        try:
            frames = tuple(Path(file).read_bytes() for file in files)
        except OSError as error:
            raise ClipError(str(error.filename), "open", f"can't be read ({error.strerror})") from error
        checksum = zlib.crc32(b"".join(frames), index)
        if checksum not in self._whole:
            if damaged := [file for file, frame in zip(files, frames, strict=True) if not _is_whole(frame)]:
                raise ClipError(damaged[0], "open", f"is no image, or is damaged or cut off (clip {entry.id!r})")
            self._whole.add(checksum)
        waveform = decode_audio(entry.wav, channels=self._channels)
        times = even_times(self.frames, min(_MANIFEST_SECONDS, len(waveform) / SAMPLE_RATE))
        return Clip(entry.id, waveform, frames, entry.labels, frame_times=times)

    @property
    def ids(self) -> list[str]:
        """Returns the ids of all clips; no file is read for them."""
        return [entry.id for entry in self._entries]

    def labels_of(self, index: int) -> tuple[int, ...]:
        """Returns the labels of the clip at an index; its files aren't read."""
        return self._entries[index].labels

    def __repr__(self) -> str:
        return f"ManifestSource({str(self._path)!r}, {len(self)} clips)"


def _read_entries(path: Path, root: Path, mids: Mapping[str, int]) -> Iterator[_Entry]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise DatasetError(f'{path}: a manifest is an object with a list under "data"')
    first_of: dict[str, int] = {}
    for number, entry in enumerate(content["data"]):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise DatasetError(f"{where} is {shown(entry)}; it must be an object")
        for key in ("video_id", "wav", "video_path", "labels"):
            value = entry.get(key)
            if not isinstance(value, str) or _UNUSABLE.search(value) or (not value and key != "labels"):
                found = f"(video_id {shown(entry.get('video_id'))}): {key} is {shown(value)}"
                raise DatasetError(f"{where} {found}; it must be given as text, of characters that names of files may have")
        clip_id = entry["video_id"]
        if clip_id in first_of:
            raise DatasetError(f"{where}: video_id {clip_id!r} is also that of entry {first_of[clip_id]}; ids must be unique")
        first_of[clip_id] = number
        labels = label_indices(entry["labels"], mids, f"{where} (video_id {clip_id!r}): labels")
        yield _Entry(clip_id, str(root / entry["wav"]), str(root / entry["video_path"]), labels, number)


def _count_frames(entries: Sequence[_Entry]) -> int:
    """Returns how many frames each clip must have: one more than the greatest N of all folders frame_N."""

    def numbers(folder: str) -> Iterator[int]:
        with contextlib.suppress(OSError):  # files that are missing are named later
            yield from (int(found[1]) for path in Path(folder).iterdir() if (found := _FRAME.fullmatch(path.name)))

    return max((number + 1 for folder in {entry.folder for entry in entries} for number in numbers(folder)), default=_USUAL_FRAMES)


def _is_whole(encoded: bytes) -> bool:
    """Returns whether an image can be decoded, and a JPEG has its end; decodes it as small as it can be."""
    try:
        decode_image(encoded, _SMALLEST, reduced=True)
    except ValueError:
        return False
    return not encoded.startswith(_JPEG_BEGIN) or _JPEG_END in encoded[-_TAIL:]


def _with_files(manifest: Path, root: Path, entries: Sequence[_Entry], frames: int, limit: float) -> list[_Entry]:
    """Returns the entries of which every path is a file, and logs the others.

    Raises:
      DatasetError: if a path leads out of root, or more entries than the limit lack a file, or all do; the first ones are named.
    """
    resolve_folder = functools.lru_cache(maxsize=4096)(os.path.realpath)
    missing: list[list[str]] = []
    kept = []
    for entry in entries:
        where, lost = f"entry {entry.number} (video_id {entry.id!r})", []
        for field, file in [("wav", entry.wav), *(("video_path", frame) for frame in entry.frame_files(frames))]:
            folder, name = os.path.split(file)
            resolved, found = _resolved(Path(resolve_folder(folder)) / name)
            if not resolved.is_relative_to(root):
                raise DatasetError(
                    f"{manifest}: {where}: {field} leads to {resolved}, outside {root}; set data.root to the folder that holds all files"
                )
            if not found:
                lost.append(f"{where}, {field}: {file}")
        if lost:
            missing.append(lost)
        else:
            kept.append(entry)
    if len(missing) > number_of(limit, len(entries)) or not kept:
        files = [file for lost in missing for file in lost]
        named = "\n  ".join(files[:_NAMED_AT_ONCE])
        raise DatasetError(
            f"{manifest}: {len(files)} files of {len(missing)} entries don't exist, and data.max_damaged is {limit:g}; raise it or mend "
            f"the manifest; the first {min(len(files), _NAMED_AT_ONCE)} files:\n  {named}"
        )
    for lost in missing[:_LOGGED]:
        logging.warning("%s: %s is no file; the entry is left out", manifest, lost[0])
    if missing:
        logging.warning("%s: %d of %d entries are left out, as files of theirs don't exist", manifest, len(missing), len(entries))
    return kept


def _resolved(file: Path) -> tuple[Path, bool]:
    """Returns where a path in a resolved folder leads, and whether that is a regular file."""
    try:
        if stat.S_ISLNK(os.lstat(file).st_mode):
            file = Path(os.path.realpath(file))
        return file, stat.S_ISREG(os.stat(file).st_mode)  # noqa: PTH116
    except OSError:
        return file, False


def _builtin_folder(config: DataConfig, on_progress: OnProgress | None, workers: int | None) -> Path:
    """Returns the folder of the built-in set, generated if it isn't there; a second process waits for the first."""
    from avmae_jax.data.instruments.builtin_set import builtin_spec  # only here: sources of real clips don't need the generator

    spec = builtin_spec(config)
    digest = hashlib.sha256(json.dumps(spec.settings, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(config.cache_dir).expanduser() / f"instruments-{digest}"
    if not is_complete(folder):
        workers = len(os.sched_getaffinity(0)) if workers is None else workers
        write_dataset(folder, spec, workers=workers, on_progress=on_progress or (lambda *_: None), wait_for_lock=True)
    return folder
