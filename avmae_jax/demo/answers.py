"""Finds out what a model says of one file: all that the page shows of it, as plain data.

    file --limits.look_at--> Media --Answerer--> Answer, then Pictures, Neighbours and Reconstruction

The steps come one by one, so that the page can show the first while the next are computed. One lock lets one thread at a time use the
model: flax reads and writes its module while it calls a compiled function.
"""

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from avmae_jax.config import Modality
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.fbank import SHIFT, log_mel
from avmae_jax.data.store.reader import Split
from avmae_jax.demo.limits import Limits, Media, clock, look_at
from avmae_jax.demo.neighbours import Index, Neighbours
from avmae_jax.errors import AvmaeError, ClipError
from avmae_jax.files import OnProgress
from avmae_jax.inference.along_time import MATCH, AlongTime, Budget, Course
from avmae_jax.inference.explain import Explainer
from avmae_jax.inference.file_match import FileMatch, FileMatcher
from avmae_jax.inference.inpaint import Inpainter, Waveforms
from avmae_jax.inference.match_over_time import MomentEmbedder
from avmae_jax.inference.panels import Panels
from avmae_jax.inference.stream import Ahead, End
from avmae_jax.inference.windows import Row, decode_beginning, of_file, window_seconds
from avmae_jax.models.modes import Mode
from avmae_jax.weights.trained import Trained

TOP = 5  # classes that are listed
MATCHED = 60.0  # seconds of a film whose match is computed along time, which takes a pass of the model for each image
GIVEN = ("audio", "image", "both")  # in the order of the page
# Of the computing time, for what is said along time. The file is then decoded again up to one of its windows, which takes no longer.
_ALONG = 0.5
_REFUSED = {  # by what a model needs, what a visitor is told of a file that lacks it
    "both": "lacks sound or moving pictures; this model compares the two: drop a video that has both",
    "audio": "has no sound, and this model only listens: drop a sound, or a video with sound",
    "image": "has no picture, and this model only sees: drop a picture or a video",
}
_OVER = "The time for this file is over; what else could be said of it is left out."
_SEED = 0  # of the patches that are hidden for a reconstruction


class OutOfTimeError(AvmaeError):
    """Says that the time for a file was over before something could be computed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Holds what a model says of a file along time."""

    media: Media
    course: Course | None  # None: the model has neither classes nor a match
    label_names: tuple[str, ...]
    notes: tuple[str, ...]  # sentences about what isn't handled
    until: float = math.inf  # on the clock time.monotonic, when all that is computed for the file must end

    @property
    def is_late(self) -> bool:
        """Returns whether the file's time is over."""
        return time.monotonic() >= self.until

    def require_time(self) -> None:
        """Raises OutOfTimeError if the file's time is over."""
        if self.is_late:
            raise OutOfTimeError(_OVER)

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
        self._warming = threading.RLock()  # held while everything is compiled; the time of visitors' files begins afterwards
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
        """Compiles what the page needs by answering for a file, however long it takes, so that the first visitor needn't wait for it."""
        with self._warming:
            answer = self.answer(look_at(path, self.limits), seconds=math.inf)
            self.pictures(answer)
            with contextlib.suppress(ClipError):  # a film that can't be compared with itself along time
                self.match_along(answer)
            self.reconstruction(answer)

    @property
    def needs(self) -> Modality | None:
        """Returns what a file must have for an answer: audio, an image or both; None where either will do."""
        if self._inpainter:
            return self._inpainter.needs
        tuned = self.trained.tuned
        return tuned.given if tuned and tuned.given != "both" else None

    @property
    def ways(self) -> tuple[str, ...]:
        """Returns what the classifier can be given: "audio", "image", "both", or some of these."""
        return tuple(given for given in GIVEN if self._along and given in self._along.modes)

    def answer(self, media: Media, on_progress: Callable[[float], None] = lambda seconds: None, seconds: float | None = None) -> Answer:
        """Computes the classes and the match along time.

        Args:
          media: the file.
          on_progress: is told up to which second of the file windows are computed.
          seconds: of the clock, for all that will be computed for the file; None: those of the limits.

        Raises:
          ClipError: if the file can't be used.
        """
        if self.needs and media.has not in (self.needs, "both"):
            raise ClipError(str(media.path), "open", _REFUSED[self.needs])
        seconds = self.limits.computing_seconds if seconds is None else seconds
        with self._warming:
            until, along = time.monotonic() + seconds, _ALONG * seconds
        notes = [media.note] if media.note else []
        course = None
        if self._along:
            course = self._along(of_file(media.path), media.seconds, Budget(self.limits.media_seconds, along), on_progress)
            if course is None:
                words = f"takes more than {along:g} s to decode and compute; give a shorter or smaller file"
                raise ClipError(str(media.path), "length", words)
            expected = min(media.seconds, self.limits.media_seconds)
            if not course.complete and course.end < expected - window_seconds(self.trained.config):
                notes.append(f"Computing stopped after {along:g} s, at {clock(course.end)}.")
        return Answer(media, course, self.trained.label_names, tuple(notes), until)

    def pictures(self, answer: Answer, go_on: Callable[[], None] = lambda: None) -> Pictures | None:
        """Computes what the window that contributes most holds, and why; None if there is neither class nor match.

        Args:
          answer: about the file, which is decoded again up to that window.
          go_on: is called before each window; what it raises ends the computation.

        Raises:
          OutOfTimeError: if the file's time is over before.
          ClipError: if the file has become shorter since.
        """
        found = self._strongest(answer)
        if found is None or self._along is None:
            return None
        start, label, mode = found
        row = self._row_at(start, self._along, answer, go_on)
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

    def nearest(self, answer: Answer) -> list[Neighbours]:
        """Finds the clips of the index that are nearest to the beginning of a file; raises OutOfTimeError or ClipError."""
        if self._index is None:
            return []
        answer.require_time()
        return self._index.nearest(answer.media)

    def match_along(self, answer: Answer, go_on: Callable[[], None] = lambda: None) -> FileMatch | None:
        """Finds the match along time of the beginning of a film; None for other files, and for models of whole clips.

        Args:
          answer: about the film, of which MATCHED seconds are handled at most, and fewer where its time is over before.
          go_on: is called before each moment; what it raises ends the computation.

        Raises:
          OutOfTimeError: if its time was over before.
          ClipError: if the film can't be compared with itself along time.
        """
        if self._matcher is None or answer.media.kind != "video":
            return None
        answer.require_time()

        def wanted(second: float) -> bool:
            go_on()
            return second < MATCHED and not answer.is_late

        return self._matcher(answer.media.path, wanted=wanted)

    def reconstruction(self, answer: Answer) -> Reconstruction | None:
        """Hides parts of the file's beginning and fills them in; None for a classifier.

        Raises:
          OutOfTimeError: if the file's time is over.
          ClipError: if the file lacks what the model needs.
        """
        if self._inpainter is None:
            return None
        answer.require_time()
        clip: Clip = decode_beginning(answer.media.path, self.trained.config, self._inpainter.needs)
        with self.device:
            found = self._inpainter(clip, _SEED)
        return Reconstruction(
            found.panels,
            self.trained.config.model.audio_frames * SHIFT / SAMPLE_RATE,
            self._inpainter.config.loss.norm_pix,
            self._inpainter.waveforms(found),
        )

    def _row_at(self, start: float, along: AlongTime, answer: Answer, go_on: Callable[[], None]) -> Row:
        """Decodes the file again up to the window that begins then; raises what `pictures` raises."""
        path = answer.media.path
        for item in Ahead([of_file(path)], along.rows, 1, answer.until):
            go_on()
            answer.require_time()
            if isinstance(item, End):
                raise item.error or ClipError(str(path), "length", "has become shorter since it was decoded first")
            if item.start >= start:
                return item
        raise OutOfTimeError(_OVER)

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
