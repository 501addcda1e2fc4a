"""Writes vectors to files while they are computed, and reads these files.

An .npz has a row for each clip in every array: id (UTF-8), position (of the clip in its source), labels with label_ends (those of row i
end at label_ends[i] and begin where those of row i - 1 end), and for each kind of vector float32[N, D] with has_<kind>, bool[N]; where each
frame of a clip has a vector, it is float32[N, F, D]. A clip without audio has zeros in its row of "audio", and False in has_audio. Its
`note`, JSON text, holds the model, its fingerprint, the data, the names of the labels, and F, or 0. An .array_record has the note in its
first record, and then a record for each clip: an .npz in itself, with id, position, labels, and those vectors that the clip has.

Axis letters: N clips, F frames of a clip, D width.
"""

import dataclasses
import io
import json
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from avmae_jax.errors import WeightsError, first_line
from avmae_jax.files import require_local
from avmae_jax.inference.embed import KINDS, Part
from avmae_jax.weights.tensor_files import write_new

NPZ, ARRAY_RECORD = ".npz", ".array_record"
_INFLATED = 4  # how many times its own size a file may hold; vectors hardly compress
# What NumPy, zipfile and ArrayRecord raise for a damaged file.
_DAMAGES = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, OverflowError, MemoryError, RuntimeError, SyntaxError,
    NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Holds the vectors of a set of clips."""

    ids: list[str]
    positions: np.ndarray  # int64[N], of each clip in its source
    labels: list[tuple[int, ...]]  # indices into label_names
    vectors: dict[str, np.ndarray]  # by kind, float32[N, D] or [N, F, D], of length 1; zeros where the clip has none
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
    has = {kind: np.concatenate([np.full(len(part.ids), kind in part.vectors) for part in parts]) for kind in note["what"]}
    rows = {kind: np.concatenate([_rows(part, kind, _shape_of(note)) for part in parts]) for kind in note["what"]}
    positions = np.array([position for part in parts for position in part.positions], np.int64)
    return Embeddings(ids, positions, [labels for part in parts for labels in part.labels], rows, has, dict(note))


def _shape_of(note: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the shape of a clip's vectors of a kind: (D,), or (F, D) where each frame has one."""
    frames = int(note.get("frames", 0))  # files of before there were pairs don't say it
    return (frames, int(note["width"])) if frames else (int(note["width"]),)


def _rows(part: Part, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32[B, *shape], zeros where the clips have no such vector; raises ValueError for another shape."""
    rows = part.vectors.get(kind)
    if rows is None:
        return np.zeros((len(part.ids), *shape), np.float32)
    if rows.shape != (len(part.ids), *shape):
        noted = f"frames and width are {shape[0]} and {shape[1]}" if shape[1:] else f"width is {shape[0]}"
        raise ValueError(f"{kind} of {len(part.ids)} clips is {list(rows.shape)}, and the noted {noted}")
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
    shape, kinds = _shape_of(note), note["what"]
    ids, positions, labels, has = [], [], [], {kind: [] for kind in kinds}
    with ExitStack() as stack:
        raw = {kind: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for kind in kinds}
        for part in parts:
            ids += [name.encode() for name in part.ids]
            positions += part.positions
            labels += part.labels
            for kind in kinds:
                has[kind] += [kind in part.vectors] * len(part.ids)
                raw[kind].write(_rows(part, kind, shape).astype("<f4").tobytes())  # tofile loses what a full disk has no room for
        if not ids:
            return 0
        arrays = {
            "id": np.array(ids),
            "position": np.array(positions, np.int64),
            "labels": np.array([label for own in labels for label in own], np.int32),
            "label_ends": np.cumsum([len(own) for own in labels], dtype=np.int64),
            "note": np.array(json.dumps(dict(note))),
            **{f"has_{kind}": np.array(has[kind], bool) for kind in kinds},
            **{kind: np.memmap(raw[kind], "<f4", "r", shape=(len(ids), *shape)) for kind in kinds},
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
    require_local(path)
    path = Path(path).expanduser()
    readers = {NPZ: _read_npz, ARRAY_RECORD: _read_records}
    if path.suffix.lower() not in readers:
        raise WeightsError(f"{path}: vectors are in files that end in {' or '.join(readers)}; write one with launch.embed")
    if not path.is_file():
        raise WeightsError(f"{path} is no file; write one with launch.embed")
    try:
        found = readers[path.suffix.lower()](path)
        _check(found)
    except _DAMAGES as error:
        raise WeightsError(f"{path} isn't a file of launch.embed, or is damaged: {first_line(error)}; write it again") from error
    return found


def _read_npz(path: Path) -> Embeddings:
    with path.open("rb") as file:
        arrays = _unpacked(file, path.stat().st_size)
    note = _note(arrays)
    count = len(_array(arrays, "position", "int64", 1))
    ends = _array(arrays, "label_ends", "int64", 1)
    ids = _array(arrays, "id", "S", 1)
    if len(ids) != count or len(ends) != count:
        raise ValueError(f"it has {len(ids)} ids, {count} positions and the labels of {len(ends)} clips")
    labels = [tuple(own.tolist()) for own in np.split(_array(arrays, "labels", "int32", 1), ends[:-1])]
    rows = {kind: _array(arrays, kind, "float32", 1 + len(_shape_of(note))) for kind in note["what"]}
    has = {kind: _array(arrays, f"has_{kind}", "bool", 1) for kind in note["what"]}
    return Embeddings([name.decode() for name in ids.tolist()], arrays["position"], labels, rows, has, note)


def _read_records(path: Path) -> Embeddings:
    reader = ArrayRecordReader(str(path))
    try:
        number = reader.num_records()
        if number < 2:
            raise ValueError("it has no records")
        records = (_unpacked(io.BytesIO(record), len(record)) for record in (reader.read() for _ in range(number)))
        note = _note(next(records))
        return collect((_part_of(fields, note) for fields in records), note)
    finally:
        reader.close()


def _unpacked(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz; raises ValueError if they claim more memory than such a file can fill."""
    with np.load(file, allow_pickle=False) as arrays:
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise TypeError("it is no .npz")
        claimed = sum(member.file_size for member in arrays.zip.infolist()) if arrays.zip else 0
        if claimed > _INFLATED * size:
            raise ValueError(f"its arrays claim {claimed} bytes, and it has {size}")
        return {name: arrays[name] for name in arrays.files}


def _array(arrays: Mapping[str, np.ndarray], name: str, dtype: str, axes: int) -> np.ndarray:
    """Returns an array; raises KeyError if it is missing, TypeError if it has another type or other axes."""
    array = arrays[name]
    if (array.dtype != dtype and array.dtype.kind != dtype) or array.ndim != axes or not array.dtype.itemsize:
        raise TypeError(f"{name} is {array.dtype}{list(array.shape)}")
    return array


def _note(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reads the note; raises ValueError unless it has what note_of writes."""
    note = json.loads(str(_array(arrays, "note", "U", 0)))
    texts = ("model", "fingerprint", "data", "split", "needs")
    if not isinstance(note, dict) or any(not isinstance(note.get(name), str) for name in texts) or type(note.get("width")) is not int:
        raise ValueError("its note doesn't describe vectors")
    if type(note.get("frames", 0)) is not int or note.get("frames", 0) < 0:
        raise ValueError("the note's frames is no number of frames")
    for name in ("what", "label_names"):
        if not isinstance(note.get(name), list) or not all(isinstance(item, str) for item in note[name]):
            raise ValueError(f"the note's {name} is no list of names")
    if not set(note["what"]) <= set(KINDS) or len(set(note["what"])) < len(note["what"]):
        raise ValueError("the note's what names other kinds of vector")
    return note


def _part_of(fields: Mapping[str, np.ndarray], note: Mapping[str, Any]) -> Part:
    axes = len(_shape_of(note))
    own = {kind: _array(fields, kind, "float32", axes)[None] for kind in note["what"] if kind in fields}
    position, labels = _array(fields, "position", "int64", 0), _array(fields, "labels", "int32", 1)
    return Part([_array(fields, "id", "S", 0).item().decode()], [int(position)], [tuple(labels.tolist())], own)


def _check(found: Embeddings) -> None:
    """Raises ValueError if the arrays don't fit each other or the note."""
    shape = (len(found.ids), *_shape_of(found.note))
    for kind, rows in found.vectors.items():
        if rows.shape != shape or found.has[kind].shape != shape[:1]:
            raise ValueError(f"{kind} is {list(rows.shape)}, and {list(shape)} was expected")
        if not np.isfinite(rows).all():
            raise ValueError(f"{kind} has values that aren't finite")
    names = found.note["label_names"]
    if any(not 0 <= label < len(names) for own in found.labels for label in own) or len(found.labels) != shape[0]:
        raise ValueError(f"its labels don't fit its {shape[0]} clips and {len(names)} names")
