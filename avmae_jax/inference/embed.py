"""Computes one vector per clip for its audio, its image, and both together.

    audio --separate--> --joint, norms of audio--> mean, length 1: "audio"
    image --separate--> --joint, norms of image--> mean, length 1: "image"
    [audio; image] ------joint, norms of both----> mean, length 1: "joint"

Or one vector for each of several images of a clip: a model of pairs sees with each the window of audio around it; another one pairs each
with all of the clip's audio.

Axis letters: B batch, F images of a clip, T spectrogram frames, M mel bins, H W image, D width.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import grain
import numpy as np
from absl import logging
from flax import nnx

from avmae_jax.config import Fill, Frames, Modality, ModelConfig
from avmae_jax.data.batches import frames_there
from avmae_jax.data.clip import Clip, ClipSource
from avmae_jax.data.example import example
from avmae_jax.data.fbank import num_samples
from avmae_jax.data.frontend import model_inputs
from avmae_jax.data.pairs import all_images
from avmae_jax.data.rows import centre, covering, paired_row
from avmae_jax.data.store.records import Needs
from avmae_jax.files import OnProgress
from avmae_jax.inference.forward import BATCH, Forward
from avmae_jax.inference.predict import mean_direction
from avmae_jax.inference.stream import Ahead, Shared
from avmae_jax.inference.windows import FILL, WHOLE, Medium, rows_of
from avmae_jax.models.encoder import VECTORS
from avmae_jax.trees import flatten
from avmae_jax.weights.trained import Trained

KINDS = VECTORS
Shown = Literal["one", "all"]

_AHEAD = 2  # batches of clips read ahead
_BATCH, _THREADS = 8, 2  # windows of media computed at once, and threads that decode them


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """Holds the vectors of one medium, float32[D] of length 1; None for those it can't have."""

    audio: np.ndarray | None  # of the audio alone: what the contrastive loss compares ...
    image: np.ndarray | None  # ... with that of the image
    joint: np.ndarray | None  # of both together
    windows: int

    def __repr__(self) -> str:
        there = [f"{kind} [{len(vector)}]" for kind in VECTORS if (vector := getattr(self, kind)) is not None]
        return f"<Embedding: {', '.join(there)}>"


class Embedder:
    """Computes the vectors of media of any length."""

    def __init__(self, trained: Trained):
        """Raises ValueError if the model computes no such vectors."""
        require_vectors(trained)
        config = trained.config
        self.trained = trained

        def outputs(module: Any, batch: Any) -> dict[str, Any]:
            found = module.embed(model_inputs(batch, config))
            return {kind: vector.mean(axis=1) for kind, vector in found.items()} if trained.spec.pairs else found

        self._shared = Shared(dict.fromkeys(get_args(Modality), outputs), _BATCH)

    def __call__(self, media: Iterable[Medium], frames: Frames = "middle") -> Iterator[tuple[int, Embedding | Exception]]:
        """Yields each medium's number with its vectors, or with the error that prevents them.

        They are the means over the windows that have them and, of a model of pairs, over all pairs of these.
        """
        make = functools.partial(rows_of, config=self.trained.config, frames=frames)
        for number, series in self._shared(self.trained.module, Ahead(media, make, _THREADS)):
            if isinstance(series, Exception):
                yield number, series
                continue
            values = {name: mean_direction(rows) for name, rows in series[WHOLE].values.items()}
            yield number, Embedding(values.get("audio"), values.get("image"), values.get("joint"), len(series[WHOLE].starts))


class Part(NamedTuple):
    """Holds some clips with the same modalities, and their vectors."""

    ids: list[str]
    positions: list[int]  # in the source
    labels: list[tuple[int, ...]]
    vectors: dict[str, np.ndarray]  # by kind, float32[B, D] or of pairs [B, F, D], without those that these clips can't have


def kinds_of(what: Sequence[str]) -> tuple[str, ...]:
    """Returns the requested kinds of vector, each once, in the order given.

    Raises:
      ValueError: for an unknown kind, or none.
    """
    if not what or not set(what) <= set(KINDS):
        raise ValueError(f"what is {', '.join(what)!r}; choose one or more of {', '.join(KINDS)}")
    return tuple(dict.fromkeys(what))


def needs_of(what: Sequence[str]) -> Needs:
    """Returns what a clip must have at least to have one of these kinds of vector; raises ValueError as kinds_of does."""
    first, *others = kinds_of(what)
    return "any" if others else "both" if first == "joint" else "audio" if first == "audio" else "image"


def require_vectors(trained: Trained) -> None:
    """Raises ValueError unless the model computes vectors of audio and image that can be compared."""
    if not trained.spec.vectors:
        raise ValueError(f"{trained.path} is a {trained.spec.title}; vectors of audio and image that can be compared need a CAV-MAE")


def fingerprint(trained: Trained) -> str:
    """Identifies an encoder: SHA-256 of its parameters and of the settings that its vectors depend on."""
    require_vectors(trained)
    config, module = trained.config, cast(Any, trained.module)
    scale = config.data.normalisation if config.data.normalise == "dataset" else ("clip",)
    pairs = (config.model.window_rate, config.model.spectrogram_frames) if trained.spec.pairs else ()
    settings = (config.model.patch, config.model.shape.heads, config.model.norm_eps, *scale, *pairs)
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, leaf in sorted(flatten(nnx.state(module.encoder, nnx.Param)).items()):
        values = np.ascontiguousarray(leaf)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def note_of(
    trained: Trained, source: ClipSource, what: Sequence[str], *, frames: int = 0, data: str = "", split: str = ""
) -> dict[str, Any]:
    """Describes a file of vectors; `data` and `split` name the source of the clips, of which each has `frames` vectors, or with 0 one."""
    return {
        "model": trained.path,
        "fingerprint": fingerprint(trained),
        "width": trained.config.model.shape.width,
        "frames": frames,
        "what": list(kinds_of(what)),
        "data": data,
        "split": split,
        "needs": needs_of(what),
        "label_names": list(source.label_names),
    }


def counted(parts: Iterable[Part], total: int, on_progress: OnProgress) -> Iterator[Part]:
    """Passes parts on and reports how many of `total` clips they hold so far."""
    done = 0
    on_progress(0, 0, total)
    for part in parts:
        done += len(part.ids)
        on_progress(done, 0, total)
        yield part


class DatasetEmbedder:
    """Computes the vectors of data sets of clips, with one compiled function."""

    def __init__(self, trained: Trained, what: Sequence[str] = KINDS, batch_size: int = BATCH, frames: Shown | None = None):
        """Compiles nothing yet.

        Args:
          trained: a CAV-MAE, a CAV-MAE Sync or its classifier.
          what: kinds of vector.
          batch_size: images computed at once, or pieces of audio.
          frames: "one": a vector of each clip, by its middle frame; "all": one of each of its frames; None: all for models of pairs.

        Raises:
          ValueError: for another kind of model or of vector, or joint vectors of all frames by a model that isn't one of pairs.
        """
        self.trained, self.what, self.needs, self._size = trained, kinds_of(what), needs_of(what), batch_size
        require_vectors(trained)
        config = trained.config
        self.frames: Shown = frames or ("all" if trained.spec.pairs else "one")
        if self.frames == "all" and "joint" in self.what and not trained.spec.pairs:
            raise ValueError(f"a {trained.spec.title} has no joint vectors of all frames; leave joint out of what, or take one frame")
        if not trained.has_match:
            logging.warning("%s was %s, so that its audio and images may no longer match", trained.path, trained.tuning)

        def vectors(module: Any, batch: Any) -> dict[str, Any]:
            return module.embed(model_inputs(batch, config), self.what)

        self._forward = functools.cache(functools.partial(Forward, vectors))  # by the number of rows

    def __call__(self, source: ClipSource) -> Iterator[Part]:
        """Yields the clips in their order, except that clips that lack a modality come in batches of their own, somewhat later.

        Audio that is longer than the model's is covered by windows, whose vectors are averaged; of models of pairs it is the centre. The
        image is the middle frame, or each frame. A clip that has none of the requested vectors is left out, and counted in the log; so is
        one that was read before, in place of a damaged one.
        """
        frames = self.pairs_of(source)
        seen: set[str] = set()
        groups: dict[Modality, list[tuple[int, Clip]]] = {name: [] for name in get_args(Modality)}
        left_out = 0
        for position, clip in enumerate(self._read(source)):
            modality = self._usable(clip)
            if modality is None or clip.id in seen:
                left_out += 1
                continue
            seen.add(clip.id)
            groups[modality].append((position, clip))
            if len(groups[modality]) == self._size:
                yield self._part(groups[modality], modality, frames)
                groups[modality] = []
        for modality, group in groups.items():
            if group:
                yield self._part(group, modality, frames)
        if left_out:
            logging.warning("%d of %d clips are left out: without %s, or read twice", left_out, len(source), " or ".join(self.what))

    def pairs_of(self, source: ClipSource) -> int:
        """Returns how many vectors of a kind each clip of a source gets, F; 0: one, without an axis of its own."""
        return frames_there(source, self.trained.config.data) if self.frames == "all" else 0

    def one(self, clip: Clip) -> dict[str, np.ndarray]:
        """Computes float32[D] by kind of a clip of a file, by its middle frame. Audio that is too short is filled up as by rows_of."""
        modality = self._usable(clip)
        return {} if modality is None else {kind: rows[0] for kind, rows in self._part([(0, clip)], modality, 0, FILL).vectors.items()}

    def _read(self, source: ClipSource) -> Iterable[Clip]:
        """Reads the clips ahead in threads."""
        options = grain.ReadOptions(num_threads=self.trained.config.data.threads, prefetch_buffer_size=_AHEAD * self._size)
        return grain.MapDataset.source(source).to_iter_dataset(read_options=options)

    def _usable(self, clip: Clip) -> Modality | None:
        """Returns the modalities of a clip that are used; None: it has none of the requested vectors."""
        if clip.modality == "both" and self.needs in ("any", "both"):
            return "both"
        if clip.modality != "both":
            return clip.modality if clip.modality in self.what else None
        return "audio" if self.needs == "audio" else "image"

    def _part(self, group: Sequence[tuple[int, Clip]], modality: Modality, frames: int, fill: Fill = "zeros") -> Part:
        positions, clips = zip(*group, strict=True)
        if self.trained.spec.pairs:
            vectors = self._pairs(clips, modality, frames, fill)
        elif frames:
            vectors = self._all_frames(clips, modality, frames)
        else:
            vectors = self._averaged([self._windows(clip, modality, fill) for clip in clips])
        return Part([clip.id for clip in clips], list(positions), [clip.labels for clip in clips], vectors)

    def _pairs(self, clips: Sequence[Clip], modality: Modality, frames: int, fill: Fill) -> dict[str, np.ndarray]:
        """Computes the vectors of each clip's pairs, [B, F, D], or with 0 frames of its middle one, [B, D]."""
        model = self.trained.config.model
        starts = [centre(clip, model) if modality != "image" else 0 for clip in clips]
        rows = [[paired_row(clip, model, modality, start, frames or 1, fill=fill)] for clip, start in zip(clips, starts, strict=True)]
        found = {kind: np.concatenate(values) for kind, values in self._by_clip(rows, frames or 1).items()}
        return found if frames else {kind: values[:, 0] for kind, values in found.items()}

    def _all_frames(self, clips: Sequence[Clip], modality: Modality, frames: int) -> dict[str, np.ndarray]:
        """Computes the vectors of `frames` images of each clip, and for each of them that of all its audio: [B, F, D]."""
        model, vectors = self.trained.config.model, dict[str, np.ndarray]()
        if modality != "image":
            whole = self._averaged([self._windows(clip, "audio", "zeros") for clip in clips])
            vectors = {kind: np.repeat(values[:, None], frames, axis=1) for kind, values in whole.items()}
        if modality != "audio":
            shown = [all_images(clip._replace(waveform=clip.waveform[:0]), model, 0, frames).frames.tolist() for clip in clips]
            rows = [[_row(clip, model, "image", 0, frame=one) for one in own] for clip, own in zip(clips, shown, strict=True)]
            vectors |= {kind: np.stack(values) for kind, values in self._by_clip(rows).items()}
        return vectors

    def _averaged(self, rows: Sequence[Sequence[dict[str, Any]]]) -> dict[str, np.ndarray]:
        """Computes the vectors of clips, [B, D]: the mean directions over the rows of each."""
        found = self._by_clip(rows)
        return {kind: np.stack([own[0] if len(own) == 1 else mean_direction(own) for own in values]) for kind, values in found.items()}

    def _by_clip(self, rows: Sequence[Sequence[dict[str, Any]]], images: int = 1) -> dict[str, list[np.ndarray]]:
        """Computes the vectors of the rows of each clip, by kind; a row has so many images."""
        flat, size = [row for own in rows for row in own], max(1, self._size // images)
        batches = (flat[first : first + size] for first in range(0, len(flat), size))
        arrays = ({name: np.stack([row[name] for row in some]) for name in some[0]} for some in batches)
        parts = [found for _, found in self._forward(size)(self.trained.module, arrays)]
        ends = np.cumsum([len(own) for own in rows])[:-1]
        return {kind: np.split(np.concatenate([part[kind] for part in parts]), ends) for kind in parts[0]}

    def _windows(self, clip: Clip, modality: Modality, fill: Fill) -> list[dict[str, Any]]:
        model = self.trained.config.model
        starts = covering(clip, model) if modality != "image" else [0]
        return [_row(clip, model, modality, start, fill) for start in starts]


def _row(clip: Clip, model: ModelConfig, needs: Modality, start: int, fill: Fill = "zeros", frame: int | None = None) -> dict[str, Any]:
    samples, frame = num_samples(model.audio_frames), clip.middle if frame is None else frame
    return example(clip, frame, samples=samples, image_size=model.image_size, needs=needs, start=start, fill=fill)
