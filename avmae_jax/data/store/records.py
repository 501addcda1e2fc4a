"""Defines a clip as it is stored, and the index: what is known of stored clips without reading them.

A record is a serialised tf.train.Example of FEATURES; TensorFlow is needed neither to write nor to read it. The index of a split,
`index-<split>.npz`, has a row for each record, in their order: classes, lengths and loudness of two million clips are known without their
audio and images being read.
"""

import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from avmae_jax.config import Modality
from avmae_jax.data.clip import SAMPLE_RATE, Clip, even_times
from avmae_jax.files import replacing

Needs = Modality | Literal["any"]  # what each clip must have

_SECONDS = 10.0  # length of a clip of which nothing else is known

SILENCE = -120.0  # dB; the loudness of digital silence, and of a clip without audio

FEATURES = tfds.features.FeaturesDict(
    {
        "id": tfds.features.Text(),
        "video": tfds.features.Text(),
        "start": np.float32,
        "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
        "frames": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")),
        "labels": tfds.features.Sequence(np.int64),
        "frame_times": tfds.features.Sequence(np.float32),  # since version 2.1.0
    }
)


class Facts(NamedTuple):
    """Holds one row of the index."""

    id: str
    video: str
    start: float  # seconds into the video
    labels: Sequence[int]
    seconds: float  # of audio
    frames: int
    loudness: float  # root mean square of the waveform in dB, full scale 0; SILENCE at least


class Index(NamedTuple):
    """Holds the rows of a split, by column."""

    id: np.ndarray  # bytes[N], UTF-8
    video: np.ndarray  # bytes[N], UTF-8
    start: np.ndarray  # float32[N]
    seconds: np.ndarray  # float32[N]
    frames: np.ndarray  # int32[N]
    loudness: np.ndarray  # float32[N]
    labels: np.ndarray  # int32[sum of label counts]
    label_ends: np.ndarray  # int64[N]: the labels of row i end here, and begin where those of row i - 1 end

    def having(self, needs: Needs) -> np.ndarray:
        """Returns int64[K], the rows whose clips have what is needed."""
        audio, image = self.seconds > 0, self.frames > 0
        wanted = {"both": audio & image, "audio": audio, "image": image, "any": audio | image}
        return np.flatnonzero(wanted[needs])

    @property
    def silent(self) -> list[str]:
        """Returns the ids of the clips that have audio, but digital silence alone."""
        return [name.decode() for name in self.id[(self.seconds > 0) & (self.loudness <= SILENCE)]]

    def labels_of(self, row: int) -> np.ndarray:
        """Returns int32[K], the labels of a row."""
        return self.labels[self.label_ends[row - 1] if row else 0 : self.label_ends[row]]

    def class_counts(self, classes: int) -> np.ndarray:
        """Returns int64[C], the number of clips of each class."""
        return np.bincount(self.labels, minlength=classes)


def index_file(split: str) -> str:
    """Returns the name of a split's index."""
    return f"index-{split}.npz"


def weights_file(split: str) -> str:
    """Returns the name of the file with float64[N], how often each row of the index is to be drawn."""
    return f"weights-{split}.npy"


def serialise(clip: Clip) -> bytes:
    """Serialises a clip to a record, always the same bytes.

    Raises:
      ValueError: if its frame times are known, but not one for each frame.
    """
    if clip.frame_times and len(clip.frame_times) != len(clip.frames):
        raise ValueError(f"the clip {clip.id} has {len(clip.frames)} frames, but {len(clip.frame_times)} frame_times; give each its time")
    lists = {"frames": list(clip.frames), "labels": list(clip.labels), "frame_times": list(clip.frame_times)}
    example = FEATURES.serialize_example({name: value for name, value in (clip._asdict() | lists).items() if name in FEATURES})
    # TFDS writes the fields in an order that differs from process to process.
    message = tf_example_pb2.Example.FromString(example)  # pyright: ignore[reportAttributeAccessIssue] - made when protobuf is loaded
    return message.SerializeToString(deterministic=True)


def deserialise(record: bytes, seconds: float | None = None) -> Clip:
    """Reads the clip of a record.

    Args:
      record: as `serialise` made it, now or before version 2.1.0 of the store.
      seconds: length of the data set's clips, where it is known. A record without frame times gets times that divide the clip evenly: its
        audio, as far as it lies within these seconds, or these seconds (10 where unknown) of a clip without audio.

    Raises:
      ValueError: if the record isn't one of a clip.
    """
    try:
        example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
    except DecodeError as error:
        raise ValueError(f"no tf.train.Example ({error})") from error
    field = example.features.feature
    empty = [name for name in ("id", "video", "waveform") if len(field[name].bytes_list.value) != 1] + ["start"] * (
        len(field["start"].float_list.value) != 1
    )
    if empty:
        raise ValueError(f"it has no {empty[0]}")
    waveform, frames = np.frombuffer(field["waveform"].bytes_list.value[0], np.int16), tuple(field["frames"].bytes_list.value)
    times = tuple(field["frame_times"].float_list.value)
    if not np.isfinite([*times, field["start"].float_list.value[0]]).all():
        raise ValueError("its times aren't finite")
    if len(times) != len(frames):
        times = even_times(len(frames), _length(waveform, seconds))
    return Clip(
        id=field["id"].bytes_list.value[0].decode(),
        waveform=waveform,
        frames=frames,
        labels=tuple(field["labels"].int64_list.value),
        video=field["video"].bytes_list.value[0].decode(),
        start=field["start"].float_list.value[0],
        frame_times=times,
    )


def _length(waveform: np.ndarray, seconds: float | None) -> float:
    """Returns the seconds of a clip; its waveform may be longer than the clip, to fill the spectrogram."""
    if not len(waveform):
        return seconds or _SECONDS
    return min(len(waveform) / SAMPLE_RATE, seconds or math.inf)


def facts_of(clip: Clip) -> Facts:
    """Returns the row of the index for a clip."""
    power = float(np.mean(np.square(clip.waveform / 32768))) if len(clip.waveform) else 0.0
    loudness = max(SILENCE, 10 * math.log10(power)) if power else SILENCE
    seconds = len(clip.waveform) / SAMPLE_RATE
    return Facts(clip.id, clip.video, clip.start, list(clip.labels), round(seconds, 4), len(clip.frames), round(loudness, 2))


def write_index(file: Path, rows: Iterable[Facts]) -> None:
    """Writes the index of a split; raises WriteError."""
    rows = list(rows)
    columns = Index(
        id=np.array([row.id.encode() for row in rows]),
        video=np.array([row.video.encode() for row in rows]),
        start=np.array([row.start for row in rows], np.float32),
        seconds=np.array([row.seconds for row in rows], np.float32),
        frames=np.array([row.frames for row in rows], np.int32),
        loudness=np.array([row.loudness for row in rows], np.float32),
        labels=np.array([label for row in rows for label in row.labels], np.int32),
        label_ends=np.cumsum([len(row.labels) for row in rows], dtype=np.int64),
    )
    with replacing(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **columns._asdict())


def read_index(file: Path, classes: int) -> Index:
    """Reads the index of a split.

    Args:
      file: the index.
      classes: number of the data set's classes; 0: they have no names, and a label may be any number.

    Raises:
      OSError, ValueError: if it is missing, damaged, or contradicts itself.
    """
    try:
        with file.open("rb") as opened, zipfile.ZipFile(opened) as members:
            if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                raise ValueError("it is damaged: it is compressed, which no index is")
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            index = Index(**{name: arrays[name] for name in Index._fields})
    except OSError:
        raise
    except Exception as error:  # NumPy and zipfile let pass whatever a damaged header makes them raise
        raise ValueError(f"it is damaged: {error}") from error
    _check_index(index, classes)
    return index


def _check_index(index: Index, classes: int) -> None:
    kinds = {"id": "S", "video": "S", "start": "f", "seconds": "f", "frames": "i", "loudness": "f", "labels": "iu", "label_ends": "iu"}
    for name, array in index._asdict().items():
        if array.ndim != 1 or (len(array) and array.dtype.kind not in kinds[name]):
            raise ValueError(f"it is damaged: {name} is {array.dtype}{list(array.shape)}")
        if name != "labels" and len(array) != len(index.id):
            raise ValueError(f"it is damaged: {len(array)} values of {name} for {len(index.id)} clips")
    ends = index.label_ends
    if (np.diff(ends, prepend=0) < 0).any() or (int(ends[-1]) if len(ends) else 0) != len(index.labels):
        raise ValueError("it is damaged: its labels don't end where they should")
    if classes and len(index.labels) and not 0 <= index.labels.min() <= index.labels.max() < classes:
        raise ValueError(f"it is damaged: it has the label {index.labels.max()} of {classes} classes, or one below 0")
    if not (np.isfinite(index.seconds).all() and (index.seconds >= 0).all() and (index.frames >= 0).all()):
        raise ValueError("it is damaged: a length is negative or not finite")
    b"\n".join([*index.id.tolist(), *index.video.tolist()]).decode()
