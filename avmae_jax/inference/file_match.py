"""Finds all that a model says of how audio and image of one file match along time: second by second, and by how much they are apart."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from avmae_jax.errors import ClipError
from avmae_jax.inference.match_over_time import MatchTimeline, MomentEmbedder, MomentVectors, References, match_timeline
from avmae_jax.inference.moments import Moment, moments_of_file
from avmae_jax.inference.offset import LONGEST, UNCALIBRATED, Calibration, Offset, find_offset
from avmae_jax.inference.offset_files import calibration_of

SHOWN = 6  # images of a film that are kept to be shown, at least if there are so many; at most twice as many


@dataclasses.dataclass(frozen=True, eq=False)
class FileMatch:
    """Says how audio and image of a file match along time."""

    timeline: MatchTimeline
    offset: Offset
    calibrated: bool  # whether the certainty of the offset is what launch.sync_check fitted to the model
    vectors: MomentVectors
    shown: tuple[tuple[int, np.ndarray], ...]  # numbers of moments spread over the file, with their images uint8[H, W, 3]

    def __repr__(self) -> str:
        """Says it in a line."""
        return f"FileMatch({self.offset.words()}; mean cosine {self.timeline.match.mean():.3f} in {len(self.timeline.seconds)} seconds)"


class Kept:
    """Keeps evenly spread moments of a medium of unknown length while they pass, at least so many if there are, at most twice as many."""

    def __init__(self, count: int):
        """Keeps nothing yet."""
        self.moments: list[tuple[int, Moment]] = []
        self._count, self._stride = count, 1

    def passing(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        """Passes moments on, and keeps some with their numbers."""
        for number, moment in enumerate(moments):
            if number % self._stride == 0:
                self.moments.append((number, moment))
                if len(self.moments) > 2 * self._count:
                    self._stride *= 2
                    self.moments = self.moments[::2]
            yield moment


class FileMatcher:
    """Finds the match of files along time with one model."""

    def __init__(self, embed: MomentEmbedder, references: References | None = None):
        """Reads the calibration that lies beside the model.

        Args:
          embed: of the model.
          references: other clips, among which the match is ranked, too.

        Raises:
          DatasetError: if the calibration can't be read, or belongs to other weights.
        """
        self._embed, self._references = embed, references
        self.calibration: Calibration = calibration_of(embed.trained) or UNCALIBRATED

    @property
    def calibrated(self) -> bool:
        """Returns whether launch.sync_check has fitted the certainty of offsets to the model."""
        return self.calibration is not UNCALIBRATED

    def __call__(
        self, path: str | Path, *, rate: float | None = None, longest: float = LONGEST, wanted: Callable[[float], bool] = lambda time: True
    ) -> FileMatch:
        """Finds the match of a video file.

        Args:
          path: of the file.
          rate: moments a second; None: as many as the certainty of the offset was fitted to.
          longest: seconds by which audio and image may be apart.
          wanted: is asked for the time of each moment, s, before it is computed; the first False ends the file there.

        Raises:
          ClipError: if the file can't be read, lacks audio or images, shows one image alone, or is shorter than a window, or fewer than
            two moments are wanted.
          ValueError: if the rate isn't a positive number, or at most 100, or the model's weights are damaged.
        """
        rate = self.calibration.rate if rate is None else rate
        moments = itertools.takewhile(lambda moment: wanted(moment.time), moments_of_file(path, self._embed.trained.config, rate))
        first, kept = list(itertools.islice(moments, 2)), Kept(SHOWN)
        if len(first) < 2:
            raise ClipError(str(path), "video", "shows fewer than two images in the part that is compared")
        vectors = self._embed(kept.passing(itertools.chain(first, moments)))
        offset = find_offset(*vectors.tracks, calibration=self.calibration, longest=longest)
        shown = tuple((number, _image(moment)) for number, moment in kept.moments)
        return FileMatch(match_timeline(vectors, self._references), offset, self.calibrated, vectors, shown)


def _image(moment: Moment) -> np.ndarray:
    image = moment.arrays["image"]
    return image.reshape(image.shape[-3:])
