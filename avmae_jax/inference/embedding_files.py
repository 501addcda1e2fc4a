"""Writes vectors to files while they are computed, and reads these files.

An .npz has a row for each clip in every array: id (UTF-8), position (of the clip in its source), labels with label_ends (those of row i
end at label_ends[i] and begin where those of row i - 1 end), and for each kind of vector float32[N, D] with has_<kind>, bool[N]. A clip
without audio has zeros in its row of "audio", and False in has_audio. Its `note`, JSON text, holds the model, its fingerprint, the data,
and the names of the labels. An .array_record has the note in its first record, and then a record for each clip: an .npz in itself, with
id, position, labels, and those vectors that the clip has.

Axis letters: N clips, D width.
"""

import dataclasses
import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from avmae_jax.errors import WeightsError
from avmae_jax.inference.embed import KINDS, Part
from avmae_jax.weights.tensor_files import write_new

NPZ, ARRAY_RECORD = ".npz", ".array_record"


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Holds the vectors of a set of clips."""

    ids: list[str]
    positions: np.ndarray  # int64[N], of each clip in its source
    labels: list[tuple[int, ...]]  # indices into label_names
    vectors: dict[str, np.ndarray]  # by kind, float32[N, D], of length 1; zeros where the clip has none
    has: dict[str, np.ndarray]  # by kind, bool[N]: whether the clip has it
    note: dict[str, Any]  # see embed.note_of


def collect(parts: Iterable[Part], note: Mapping[str, Any]) -> Embeddings:
    """Collects all vectors in memory.

    Raises:
      ValueError: if there are none, or their width isn't the noted one.
    """
    parts = list(parts)
    ids = [name for part in parts for name in part.ids]
    if not ids:
        raise ValueError(f"no clip has {' or '.join(note['what'])}; choose other clips")
    width = int(note["width"])
    has = {kind: np.concatenate([np.full(len(part.ids), kind in part.vectors) for part in parts]) for kind in note["what"]}
    rows = {kind: np.concatenate([_rows(part, kind, width) for part in parts]) for kind in note["what"]}
    positions = np.array([position for part in parts for position in part.positions], np.int64)
    return Embeddings(ids, positions, [labels for part in parts for labels in part.labels], rows, has, dict(note))


def _rows(part: Part, kind: str, width: int) -> np.ndarray:
    """Returns float32[B, D], zeros where the clips have no such vector; raises ValueError for another width."""
    rows = part.vectors.get(kind)
    if rows is None:
        return np.zeros((len(part.ids), width), np.float32)
    if rows.shape != (len(part.ids), width):
        raise ValueError(f"{kind} of {len(part.ids)} clips is {list(rows.shape)}, and the noted width is {width}")
    return rows


def write_embeddings(path: str | Path, parts: Iterable[Part], note: Mapping[str, Any]) -> int:
    """Writes vectors while they are computed; only one part of them is in memory at a time.

    Args:
      path: a new .npz or .array_record file.
      parts: of DatasetEmbedder.
      note: of note_of.

    Returns:
      The number of clips that were written.

    Raises:
      WeightsError: if the path exists, has another suffix or can't be written; nothing is left there then.
      ValueError: if there are no clips.
    """
    path = Path(path).expanduser()
    writers = {NPZ: _write_npz, ARRAY_RECORD: _write_records}
    if path.suffix.lower() not in writers:
        raise WeightsError(f"{path}: vectors are written to files that end in {' or '.join(writers)}")
    counts: list[int] = []

    def write(unfinished: Path) -> None:
        counts.append(writers[path.suffix.lower()](unfinished, parts, note))
        if not counts[0]:
            raise ValueError(f"no clip has {' or '.join(note['what'])}; nothing was written to {path}")

    write_new(path, write)
    return counts[0]


def _write_npz(path: Path, parts: Iterable[Part], note: Mapping[str, Any]) -> int:
    """Writes the .npz. Vectors go to a raw file for each kind first, since an array's shape precedes its values."""
    width, kinds = int(note["width"]), note["what"]
    ids, positions, labels, has = [], [], [], {kind: [] for kind in kinds}
    with ExitStack() as stack:
        raw = {kind: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for kind in kinds}
        for part in parts:
            ids += [name.encode() for name in part.ids]
            positions += part.positions
            labels += part.labels
            for kind in kinds:
                has[kind] += [kind in part.vectors] * len(part.ids)
                _rows(part, kind, width).astype("<f4").tofile(raw[kind])
        if not ids:
            return 0
        arrays = {
            "id": np.array(ids),
            "position": np.array(positions, np.int64),
            "labels": np.array([label for own in labels for label in own], np.int32),
            "label_ends": np.cumsum([len(own) for own in labels], dtype=np.int64),
            "note": np.array(json.dumps(dict(note))),
            **{f"has_{kind}": np.array(has[kind], bool) for kind in kinds},
            **{kind: np.memmap(raw[kind], "<f4", "r", shape=(len(ids), width)) for kind in kinds},
        }
        with path.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - arrays, whatever their names
    return len(ids)


def _write_records(path: Path, parts: Iterable[Part], note: Mapping[str, Any]) -> int:
    writer, count = ArrayRecordWriter(str(path), "group_size:1"), 0
    try:
        writer.write(_packed({"note": np.array(json.dumps(dict(note)))}))
        for part in parts:
            for row, (name, position, labels) in enumerate(zip(part.ids, part.positions, part.labels, strict=True)):
                own = {kind: values[row] for kind, values in part.vectors.items()}
                fields = {"id": np.array(name.encode()), "position": np.array(position), "labels": np.array(labels, np.int32)}
                writer.write(_packed(fields | own))
                count += 1
    finally:
        writer.close()
    return count


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - arrays, whatever their names
    return file.getvalue()


def read_embeddings(path: str | Path) -> Embeddings:
    """Reads what write_embeddings wrote.

    Raises:
      WeightsError: if it can't be read or isn't such a file.
    """
    path = Path(path).expanduser()
    readers = {NPZ: _read_npz, ARRAY_RECORD: _read_records}
    if path.suffix.lower() not in readers:
        raise WeightsError(f"{path}: vectors are in files that end in {' or '.join(readers)}; write one with launch.embed")
    try:
        found = readers[path.suffix.lower()](path)
        _check(found)
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} isn't a file of launch.embed, or is damaged: {error}; write it again") from error
    return found


def _read_npz(path: Path) -> Embeddings:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        note, ends = json.loads(str(arrays["note"])), arrays["label_ends"]
        labels = [tuple(own.tolist()) for own in np.split(arrays["labels"], ends[:-1])]
        rows = {kind: arrays[kind] for kind in note["what"]}
        has = {kind: arrays[f"has_{kind}"] for kind in note["what"]}
        return Embeddings([name.decode() for name in arrays["id"]], arrays["position"], labels, rows, has, note)


def _read_records(path: Path) -> Embeddings:
    if not path.is_file():
        raise OSError("it doesn't exist")
    reader = ArrayRecordReader(str(path))
    try:
        number = reader.num_records()
        if number < 2:
            raise ValueError("it has no records")
        note = json.loads(str(_unpacked(reader.read())["note"]))
        return collect((_part_of(_unpacked(reader.read()), note["what"]) for _ in range(number - 1)), note)
    finally:
        reader.close()


def _unpacked(record: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(record), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _part_of(fields: Mapping[str, np.ndarray], kinds: Sequence[str]) -> Part:
    own = {kind: fields[kind][None] for kind in kinds if kind in fields}
    return Part([fields["id"].item().decode()], [int(fields["position"])], [tuple(fields["labels"].tolist())], own)


def _check(found: Embeddings) -> None:
    """Raises ValueError or KeyError if the arrays don't fit each other or the note."""
    shape = (len(found.ids), int(found.note["width"]))
    for kind, rows in found.vectors.items():
        if kind not in KINDS or rows.shape != shape or rows.dtype != np.float32 or found.has[kind].shape != shape[:1]:
            raise ValueError(f"{kind} is {rows.dtype}{list(rows.shape)}, and float32{list(shape)} was expected")
        if not np.isfinite(rows).all():
            raise ValueError(f"{kind} has values that aren't finite")
    names = found.note["label_names"]
    bad = [label for own in found.labels for label in own if not 0 <= label < len(names)]
    if bad or len(found.labels) != shape[0] or found.positions.shape != shape[:1] or not isinstance(found.note["fingerprint"], str):
        raise ValueError(f"its labels, positions or note don't fit its {shape[0]} clips")
