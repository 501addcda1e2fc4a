"""A clip as it is stored, and what is known of stored clips without reading them.

A record is a serialised tf.train.Example of FEATURES; TensorFlow is needed neither to write nor to read it. The index of a split,
`index-<split>.npz`, has a row for each record, in their order: a set of two million clips tells its classes, lengths and loudness without
its sounds and pictures being touched.
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
from avmae_jax.data.clip import SAMPLE_RATE, Clip

Needs = Modality | Literal["any"]  # what each clip must have

SILENCE = -120.0  # dB; what digital silence counts as, and what a clip without sound has

FEATURES = tfds.features.FeaturesDict(
    {
        "id": tfds.features.Text(),
        "video": tfds.features.Text(),
        "start": np.float32,
        "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
        "frames": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")),
        "labels": tfds.features.Sequence(np.int64),
    }
)


class Facts(NamedTuple):
    """A row of the index."""

    id: str
    video: str
    start: float  # seconds into the video
    labels: Sequence[int]
    seconds: float  # of sound
    frames: int
    loudness: float  # root mean square of the waveform in dB, full scale 0; SILENCE at least


class Index(NamedTuple):
    """The rows of a split, by column."""

    id: np.ndarray  # bytes[N], UTF-8
    video: np.ndarray  # bytes[N], UTF-8
    start: np.ndarray  # float32[N]
    seconds: np.ndarray  # float32[N]
    frames: np.ndarray  # int32[N]
    loudness: np.ndarray  # float32[N]
    labels: np.ndarray  # int32[sum of label counts]
    label_ends: np.ndarray  # int64[N]: the labels of row i end here, and begin where those of row i - 1 end

    def having(self, needs: Needs) -> np.ndarray:
        """int64[K], the rows whose clips have what is needed."""
        sound, pictures = self.seconds > 0, self.frames > 0
        wanted = {"both": sound & pictures, "audio": sound, "image": pictures, "any": sound | pictures}
        return np.flatnonzero(wanted[needs])

    def labels_of(self, row: int) -> np.ndarray:
        """int32[K], the labels of a row."""
        return self.labels[self.label_ends[row - 1] if row else 0 : self.label_ends[row]]

    def class_counts(self, classes: int) -> np.ndarray:
        """int64[C], the clips of each class."""
        return np.bincount(self.labels, minlength=classes)


def index_file(split: str) -> str:
    """Its name."""
    return f"index-{split}.npz"


def weights_file(split: str) -> str:
    """The name of float64[N], how often each row of the index is to be drawn."""
    return f"weights-{split}.npy"


def serialise(clip: Clip) -> bytes:
    """The record of a clip, the same bytes every time."""
    example = FEATURES.serialize_example({**clip._asdict(), "frames": list(clip.frames), "labels": list(clip.labels)})
    # TFDS writes the fields in an order that differs from process to process.
    message = tf_example_pb2.Example.FromString(example)  # pyright: ignore[reportAttributeAccessIssue] - made when protobuf is loaded
    return message.SerializeToString(deterministic=True)


def deserialise(record: bytes) -> Clip:
    """The clip of a record.

    Raises:
      ValueError: if it isn't one.
    """
    try:
        example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
    except DecodeError as error:
        raise ValueError(f"no tf.train.Example ({error})") from error
    field = example.features.feature
    return Clip(
        id=field["id"].bytes_list.value[0].decode(),
        waveform=np.frombuffer(field["waveform"].bytes_list.value[0], np.int16),
        frames=tuple(field["frames"].bytes_list.value),
        labels=tuple(field["labels"].int64_list.value),
        video=field["video"].bytes_list.value[0].decode(),
        start=field["start"].float_list.value[0],
    )


def facts_of(clip: Clip) -> Facts:
    """What the index says of a clip."""
    power = float(np.mean(np.square(clip.waveform / 32768))) if len(clip.waveform) else 0.0
    loudness = max(SILENCE, 10 * math.log10(power)) if power else SILENCE
    seconds = len(clip.waveform) / SAMPLE_RATE
    return Facts(clip.id, clip.video, clip.start, list(clip.labels), round(seconds, 4), len(clip.frames), round(loudness, 2))


def write_index(file: Path, rows: Iterable[Facts]) -> None:
    """Writes the index of a split."""
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
    with file.open("wb") as opened:
        np.savez(opened, **columns._asdict())


def read_index(file: Path) -> Index:
    """Reads it.

    Raises:
      OSError, ValueError: if it is missing or damaged.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return Index(**{name: arrays[name] for name in Index._fields})
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"it is damaged: {error}") from error
