"""Finds out what a model says of one file: all that the page shows of it, as plain data.

    file --limits.look_at--> Media --Answerer--> Answer, then Pictures, Neighbours and Reconstruction

The steps come one by one, so that the page can show the first while the next are computed. One lock lets one thread at a time use the
model: flax reads and writes its module while it calls a compiled function.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.fbank import SHIFT, log_mel
from avmae_jax.data.store.reader import Split
from avmae_jax.demo.limits import Limits, Media, clock, look_at
from avmae_jax.demo.neighbours import Index, Neighbours
from avmae_jax.errors import ClipError
from avmae_jax.files import OnProgress
from avmae_jax.inference.along_time import MATCH, AlongTime, Course
from avmae_jax.inference.explain import Explainer
from avmae_jax.inference.file_match import FileMatch, FileMatcher
from avmae_jax.inference.inpaint import Inpainter, Waveforms
from avmae_jax.inference.match_over_time import MomentEmbedder
from avmae_jax.inference.panels import Panels
from avmae_jax.inference.windows import decode_beginning, of_file, window_seconds
from avmae_jax.models.modes import Mode
from avmae_jax.weights.trained import Trained

TOP = 5  # classes that are listed
MATCHED = 60.0  # seconds of a film whose match is computed along time, which takes a pass of the model for each image
GIVEN = ("audio", "image", "both")  # in the order of the page
_SEED = 0  # of the patches that are hidden for a reconstruction


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Holds what a model says of a file along time."""

    media: Media
    course: Course | None  # None: the model has neither classes nor a match
    label_names: tuple[str, ...]
    notes: tuple[str, ...]  # sentences about what isn't handled

    @property
    def probabilities(self) -> np.ndarray | None:
        """Returns float32[C], the answer of `predict`; None for a model without classes."""
        values = self.course.given_all() if self.course else None
        if self.course is None or values is None:
            return None
        there = self.course.answers & np.isfinite(values).all(axis=1)
        return values[there].mean(axis=0) if there.any() else None

    @property
    def match(self) -> float | None:
        """Returns the cosine of audio and image, the mean over the windows that have both; None if there is none."""
        mean = self.course.mean(MATCH) if self.course else None
        return None if mean is None else float(mean)

    def top(self, given: str = "") -> list[tuple[str, float]]:
        """Returns the likeliest classes of the answer, or of what the classifier says where it is `given` one modality or both."""
        values = self.probabilities if not given else self.course.mean(given) if self.course else None
        if values is None:
            return []
        return [(self.label_names[label], float(values[label])) for label in np.argsort(-values, kind="stable")[:TOP]]

    @property
    def end(self) -> float:
        """Returns the length in seconds of what was handled, 0 of an image."""
        return max(self.course.end if self.course else 0.0, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Holds what the model was given in one window, and which patches its answer comes from."""

    start: float  # seconds into the file
    seconds: float
    image: np.ndarray | None  # uint8[H, W, 3]
    spectrogram: np.ndarray | None  # float32[M, T], log-mel, low mel first
    heat: dict[str, np.ndarray]  # as of explain.Explanation; {}: the model can't be explained
    constant: float | None
    subject: str  # what the heat map is about: a class, or "" for the match


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    """Holds what a pretraining model fills in at the beginning of a file."""

    panels: dict[str, Panels]
    seconds: float
    norm_pix: bool
    sounds: Waveforms | None  # of a model of audio


class Answerer:
    """Applies one model to files; several threads may call it."""

    def __init__(self, trained: Trained, limits: Limits):
        """Compiles nothing yet."""
        spec = trained.spec
        self.trained, self.limits, self.device = trained, limits, threading.Lock()
        self._along = AlongTime(trained, self.device) if spec.modes or spec.vectors else None
        self._explainer = Explainer(trained, self._along.spans) if self._along and "explained" not in spec.lacks else None
        self._inpainter = Inpainter(trained) if spec.task == "pretraining" else None
        comparable = spec.pairs and trained.has_match
        self._matcher = FileMatcher(MomentEmbedder(trained, heat=True, device=self.device)) if comparable else None
        self._index: Index | None = None

    def search_in(self, path: str, split: Split, on_progress: OnProgress) -> None:
        """Opens an index to be searched for the clips nearest to a file; raises what Index raises."""
        self._index = Index(path, split, self.trained, self.device, on_progress)

    def warm_up(self, path: Path) -> None:
        """Compiles what the page needs by answering for a file, so that the first visitor needn't wait for it."""
        media = look_at(path, self.limits)
        self.pictures(self.answer(media))
        with contextlib.suppress(ClipError):  # a film that can't be compared with itself along time
            self.match_along(media)
        self.reconstruction(media)

    @property
    def ways(self) -> tuple[str, ...]:
        """Returns what the classifier can be given: "audio", "image", "both", or some of these."""
        return tuple(given for given in GIVEN if self._along and given in self._along.modes)

    def answer(self, media: Media, on_progress: Callable[[float], None] = lambda seconds: None) -> Answer:
        """Computes the classes and the match along time; raises ClipError if the file can't be used."""
        notes = [media.note] if media.note else []
        course = None
        if self._along:
            course = self._along(of_file(media.path), media.seconds, self.limits.budget, on_progress)
            if course is None:
                words = f"takes more than {self.limits.computing_seconds:g} s to decode and compute; give a shorter or smaller file"
                raise ClipError(str(media.path), "length", words)
            expected = min(media.seconds, self.limits.media_seconds)
            if not course.complete and course.end < expected - window_seconds(self.trained.config):
                notes.append(f"Computing stopped after {self.limits.computing_seconds:g} s, at {clock(course.end)}.")
        return Answer(media, course, self.trained.label_names, tuple(notes))

    def pictures(self, answer: Answer) -> Pictures | None:
        """Computes what the window that contributes most holds, and why; None if there is neither class nor match."""
        found = self._strongest(answer)
        if found is None or self._along is None:
            return None
        start, label, mode = found
        row = next((row for row in self._along.rows(of_file(answer.media.path), 0) if row.start >= start), None)
        if row is None:
            raise ClipError(str(answer.media.path), "length", "has become shorter since it was decoded first")
        heat, constant = {}, None
        if self._explainer:
            with self.device:
                heat, constant, _ = self._explainer.of_row(row, label, mode)
        waveform = row.arrays.get("waveform")
        mel = None
        if waveform is not None:
            mel = log_mel(waveform.astype(np.float32) / 32_768, self.trained.config.model.mel_bins).T
        subject = "" if label is None else answer.label_names[label]
        image = row.arrays.get("image")
        image = image[len(image) // 2] if image is not None and self.trained.spec.pairs else image  # the middle one of a window's
        return Pictures(row.start, row.seconds, image, mel, heat, constant, subject)

    def nearest(self, media: Media) -> list[Neighbours]:
        """Finds the clips of the index that are nearest to the beginning of a file; raises ClipError."""
        return self._index.nearest(media) if self._index else []

    def match_along(self, media: Media, go_on: Callable[[], None] = lambda: None) -> FileMatch | None:
        """Finds the match along time of the beginning of a film; None for other files, and for models of whole clips.

        Args:
          media: of which MATCHED seconds are handled at most, and fewer where computing takes too long.
          go_on: is called before each moment; what it raises ends the computation.

        Raises:
          ClipError: if the film can't be compared with itself along time.
        """
        if self._matcher is None or media.kind != "video":
            return None
        end = time.monotonic() + self.limits.computing_seconds

        def wanted(second: float) -> bool:
            go_on()
            return second < MATCHED and time.monotonic() < end

        return self._matcher(media.path, wanted=wanted)

    def reconstruction(self, media: Media) -> Reconstruction | None:
        """Hides parts of the file's beginning and fills them in; None for a classifier.

        Raises:
          ClipError: if the file lacks what the model needs.
        """
        if self._inpainter is None:
            return None
        clip: Clip = decode_beginning(media.path, self.trained.config, self._inpainter.needs)
        with self.device:
            found = self._inpainter(clip, _SEED)
        return Reconstruction(
            found.panels,
            self.trained.config.model.audio_frames * SHIFT / SAMPLE_RATE,
            self._inpainter.config.loss.norm_pix,
            self._inpainter.waveforms(found),
        )

    def _strongest(self, answer: Answer) -> tuple[float, int | None, Mode | None] | None:
        """Finds the window that contributes most to the first class, or else to the match.

        Returns:
          Its beginning, the class, and how the classifier is applied to it; None if there is neither class nor match.
        """
        course, values = answer.course, answer.probabilities
        if self._along is None or course is None or (values is None and answer.match is None):
            return None
        scores, label = course.given_all(), None if values is None else int(np.argmax(values))
        column = course.values[MATCH] if scores is None or label is None else scores[:, label]
        strongest = int(np.nanargmax(np.where(course.answers, column, np.nan)))
        return float(course.starts[strongest]), label, self._along.mode_of(course.has[strongest])
