"""Opens the sources of clips: the built-in set, a data set written by launch.prepare, or an official JSON manifest.

A source is opened cheaply, gives clips by index, can be pickled for reader processes, and never decodes images: frames stay JPEGs.
"""

import functools
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avmae_jax.config import DataConfig
from avmae_jax.data.catalog.labels import label_indices, read_labels
from avmae_jax.data.clip import SAMPLE_RATE, Clip, ClipSource, even_times
from avmae_jax.data.decode.one_clip import decode_audio
from avmae_jax.data.store.plan import is_complete
from avmae_jax.data.store.reader import PreparedSource, Split, Tolerant
from avmae_jax.data.store.records import Needs
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import DatasetError
from avmae_jax.files import OnProgress

MANIFEST_FRAMES = 10  # frames of a clip in the official layout: frame_0 ... frame_9

_MANIFEST_SECONDS = 10.0  # that these frames divide evenly
_NAMED_AT_ONCE = 10  # missing files listed in one error


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
      The clips; up to config.max_damaged damaged ones are skipped.
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
        source = ManifestSource(path, config.labels_csv, config.root)
    else:
        raise DatasetError(f"data.source is {config.source!r}; choose builtin, prepared or manifest")
    return Tolerant(source, config.max_damaged)


class _Entry(NamedTuple):
    id: str
    wav: str
    folder: str  # frames are folder/frame_{0..9}/id.jpg
    labels: tuple[int, ...]


class ManifestSource:
    """Reads clips that an official manifest lists, `{"data": [{"video_id", "wav", "video_path", "labels"}]}`.

    Opening the source checks that every file exists and lies inside `root`. Audio is decoded at access: the first channel at 16 kHz. An
    entry with an empty `labels` has none.
    """

    def __init__(self, path: str | Path, labels_csv: str | Path, root: str | Path = "") -> None:
        """Reads and checks the manifest.

        Args:
          path: the JSON file.
          labels_csv: CSV with the columns index,mid,display_name.
          root: folder that relative paths start from and all paths must lie in; empty: the manifest's own folder.

        Raises:
          DatasetError: naming the manifest, the entry, and the field.
        """
        self._path = Path(path).expanduser()
        self.label_names: Sequence[str]
        mids, self.label_names = read_labels(Path(labels_csv).expanduser())
        root = Path(root).expanduser() if root else self._path.parent
        self._entries = list(_read_entries(self._path, root.resolve(), mids))
        if not self._entries:
            raise DatasetError(f"{self._path}: its list of clips is empty")
        _check_files(self._path, root.resolve(), self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Clip:
        entry = self._entries[index]
        frames, waveform = tuple(Path(file).read_bytes() for file in _frame_files(entry)), decode_audio(entry.wav)
        times = even_times(MANIFEST_FRAMES, min(_MANIFEST_SECONDS, len(waveform) / SAMPLE_RATE))
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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path}: the manifest can't be read ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise DatasetError(f'{path}: a manifest is an object with a list under "data"')
    first_of: dict[str, int] = {}
    for number, entry in enumerate(content["data"]):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise DatasetError(f"{where} is {entry!r}; it must be an object")
        for key in ("video_id", "wav", "video_path", "labels"):
            if not isinstance(entry.get(key), str):
                raise DatasetError(f"{where} (video_id {entry.get('video_id')!r}): {key} is {entry.get(key)!r}; it must be given as text")
        clip_id = entry["video_id"]
        if clip_id in first_of:
            raise DatasetError(f"{where}: video_id {clip_id!r} is also that of entry {first_of[clip_id]}; ids must be unique")
        first_of[clip_id] = number
        labels = label_indices(entry["labels"], mids, f"{where} (video_id {clip_id!r}): labels") if entry["labels"] else ()
        yield _Entry(clip_id, str(root / entry["wav"]), str(root / entry["video_path"]), labels)


def _frame_files(entry: _Entry) -> list[str]:
    return [f"{entry.folder}/frame_{number}/{entry.id}.jpg" for number in range(MANIFEST_FRAMES)]


def _check_files(manifest: Path, root: Path, entries: Sequence[_Entry]) -> None:
    """Raises DatasetError unless every path of the manifest is a file inside root; all missing ones are reported together."""
    resolve_folder = functools.lru_cache(maxsize=4096)(os.path.realpath)
    missing = []
    for number, entry in enumerate(entries):
        for field, file in [("wav", entry.wav), *(("video_path", frame) for frame in _frame_files(entry))]:
            folder, name = os.path.split(file)
            resolved = Path(resolve_folder(folder)) / name
            try:
                if stat.S_ISLNK(os.lstat(resolved).st_mode):
                    resolved = resolved.resolve()
                found = stat.S_ISREG(os.stat(resolved).st_mode)  # noqa: PTH116
            except OSError:
                found = False
            if not resolved.is_relative_to(root):
                where = f"{manifest}: entry {number} (video_id {entry.id!r})"
                raise DatasetError(
                    f"{where}: {field} leads to {resolved}, outside {root}; set data.root to the folder that holds all files"
                )
            if not found:
                missing.append(f"entry {number} (video_id {entry.id!r}), {field}: {file}")
    if missing:
        named = "\n  ".join(missing[:_NAMED_AT_ONCE])
        raise DatasetError(f"{manifest}: {len(missing)} files don't exist; the first {min(len(missing), _NAMED_AT_ONCE)}:\n  {named}")


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
