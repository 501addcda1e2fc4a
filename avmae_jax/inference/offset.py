"""Finds by how many seconds the audio and the images of a medium are apart, from the products of all images with all windows of audio.

If the audio comes later than the image, the products are greatest off the diagonal, where the window lies later than the image. What all
moments of the medium have in common adds the same to every lag, so the mean of the vectors around each moment is removed first; in a short
medium this removes the means of the rows and columns of the matrix. What lasts, or comes again with every beat, makes neighbouring lags and
those a beat away alike. So the products are summed by lag with all frequencies of the change weighted equally, as in the generalized
cross-correlation with phase transform (Knapp and Carter 1976), which leaves the true lag the sharpest. The score of a lag is this sum over
its root mean square: about by how many standard deviations it would be off 0 if there were nothing.

A calibration, fitted to clips whose answer is known (evals/offset_fitting.py), says how certain a score is. Where nothing changes along
time, or audio and images have nothing to do with each other, no lag stands out, and the answer is that one can't tell.

Axis letters: n moments, D width, K lags, T times of a grid.
"""

import dataclasses
import math

import numpy as np

from avmae_jax.inference.moments import RATE

LONGEST = 3.5  # seconds that audio and image may be apart, unless asked for
NEAR = 0.5  # seconds to which an answer must be right for the certainty
_CONTEXT = 10.0  # seconds before and after a moment whose mean is removed; short enough to remove a slow crescendo
_STILL = 0.01  # root mean square of how far vectors of length 1 move along time; below it nothing changes
_LEAST_MOMENTS = 16  # of a medium; half of them are compared at the longest lag
_QUIET = 1e-3  # of the strongest frequency; weaker ones aren't raised any more, since they hold nothing but rounding and noise
_BLOCK = 1 << 22  # values in memory at once
_LEAST_LAGS = 3  # one with a neighbour on each side
_IN_STEP = 0.05  # seconds, which nobody notices


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Says how certain a score is; as it stands, by what was fitted to a model of the built-in set."""

    weights: tuple[float, float, float] = (-6.5, 1.4, 1.0)  # of 1, of the greatest score, and of its lead, in the logit of the certainty
    threshold: float = 0.5  # probability below which one can't tell
    rate: float = RATE  # images a second of the clips that it was fitted to; with fewer, scores are lower

    def certainty(self, score: float, lead: float) -> float:
        """Returns the estimated probability that the lag with the greatest score is right to NEAR.

        Args:
          score: the greatest one.
          lead: by how much it is greater than those of all lags that are farther away than NEAR: what repeats itself has several.
        """
        constant, of_score, of_lead = self.weights
        return 1 / (1 + math.exp(min(700.0, -(constant + of_score * score + of_lead * lead))))


UNCALIBRATED = Calibration()


@dataclasses.dataclass(frozen=True, eq=False)
class Offset:
    """Says by how many seconds audio and image are apart. Positive: the audio comes later than the image."""

    seconds: float | None  # None: can't tell
    certainty: float  # estimated probability that `likeliest` is right to NEAR
    likeliest: float | None  # seconds, however uncertain; None: nothing changes along time, or the medium is too short
    lags: np.ndarray  # float64[K], s
    scores: np.ndarray  # float64[K]

    @property
    def evidence(self) -> tuple[float, float]:
        """Returns the greatest score, and by how much it leads those of lags farther away than NEAR."""
        if not len(self.scores):
            return 0.0, 0.0
        best = int(np.argmax(self.scores))
        others = self.scores[np.abs(self.lags - self.lags[best]) > NEAR]
        return float(self.scores[best]), float(self.scores[best] - others.max(initial=-np.inf)) if len(others) else 0.0

    def words(self, audio: str = "audio", image: str = "image") -> str:
        """Says it in a sentence, which calls the two as the reader does."""
        if self.seconds is None:
            return f"can't tell by how much {audio} and {image} are apart"
        if abs(self.seconds) < _IN_STEP:
            return f"{audio} and {image} are in step (certainty {self.certainty:.0%})"
        later, earlier = (audio, image) if self.seconds > 0 else (image, audio)
        return f"the {later} comes {abs(self.seconds):.2f} s later than the {earlier} (certainty {self.certainty:.0%})"


NOTHING = Offset(None, 0.0, None, np.zeros(0), np.zeros(0))


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """Holds the vectors of a medium's images, or of its windows of audio, in order of time."""

    times: np.ndarray  # float64[n], s
    vectors: np.ndarray  # float32[n, D]

    @classmethod
    def moving(cls, times: np.ndarray, vectors: np.ndarray) -> "Track":
        """Takes what differs from the mean around each time; of windows that are the same, because they were moved inside, one."""
        times, first = np.unique(times, return_index=True)
        vectors = vectors[first]
        sums = np.concatenate([np.zeros((1, vectors.shape[1])), np.cumsum(vectors, axis=0, dtype=np.float64)])
        begin, end = np.searchsorted(times, times - _CONTEXT, "left"), np.searchsorted(times, times + _CONTEXT, "right")
        return cls(times, (vectors - (sums[end] - sums[begin]) / (end - begin)[:, None]).astype(np.float32))

    def on(self, grid: np.ndarray, components: slice) -> np.ndarray:
        """Interpolates some components, of the D, at other times, with zeros before the first and after the last moment: float64[D, T]."""
        rows = self.vectors[:, components].T
        return np.stack([np.interp(grid, self.times, row, left=0.0, right=0.0) for row in rows])

    @property
    def spread(self) -> float:
        """Computes the root mean square of the vectors' lengths."""
        return float(np.sqrt(np.square(self.vectors).sum(axis=1).mean()))


def find_offset(image: Track, audio: Track, calibration: Calibration = UNCALIBRATED, longest: float = LONGEST) -> Offset:
    """Finds the lag between images and windows of audio at which they match best.

    Args:
      image: of Track.moving, with the times at which the images are shown.
      audio: of Track.moving, with the middles of the windows.
      calibration: of the model.
      longest: s, the longest lag that is tried; half of the medium is tried at most.

    Raises:
      ValueError: if `longest` isn't positive.
    """
    if not longest > 0:
        raise ValueError(f"the longest offset is {longest}; give the seconds that audio and image may be apart, above 0")
    if min(len(image.times), len(audio.times)) < _LEAST_MOMENTS or min(image.spread, audio.spread) < _STILL:
        return NOTHING
    lags, scores = _by_lag(image, audio, longest)
    if len(lags) < _LEAST_LAGS:
        return NOTHING
    best = int(np.argmax(scores))
    if best in (0, len(scores) - 1):  # the true lag may lie beyond those that are tried
        return Offset(None, 0.0, float(lags[best]), lags, scores)
    likeliest = float(lags[best] + _summit(scores[best - 1 : best + 2]) * (lags[best + 1] - lags[best - 1]) / 2)
    sure = calibration.certainty(*Offset(None, 0.0, likeliest, lags, scores).evidence)
    return Offset(likeliest if sure >= calibration.threshold else None, sure, likeliest, lags, scores)


def _by_lag(image: Track, audio: Track, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes the lags in steps of the moments, and their scores: float64[K] twice.

    Both tracks are put on one grid of times and transformed some components at a time, so that a long medium needs little more memory than
    its vectors.
    """
    step = float(np.median(np.diff(image.times)))
    begin, end = min(image.times[0], audio.times[0]), max(image.times[-1], audio.times[-1])
    grid = begin + np.arange(round((end - begin) / step) + 1) * step
    half = len(grid) // 2
    size = 1 << (len(grid) + half).bit_length()  # lags up to half of the medium don't wrap around
    products, powers = np.zeros(size // 2 + 1, np.complex128), np.zeros((2, size // 2 + 1))
    width = max(1, _BLOCK // size)
    for first in range(0, image.vectors.shape[1], width):
        spectra = [np.fft.rfft(track.on(grid, slice(first, first + width)), size, axis=1) for track in (image, audio)]
        products += (np.conj(spectra[0]) * spectra[1]).sum(axis=0)
        powers += [np.square(np.abs(spectrum)).sum(axis=0) for spectrum in spectra]
    strength = np.sqrt(powers[0] * powers[1])
    sums = np.fft.irfft(products / np.maximum(strength, _QUIET * strength.max()), size)
    steps = np.arange(-half, half + 1)
    values = sums[steps] / np.sqrt(len(grid) - np.abs(steps))  # of as many pairs
    values /= np.sqrt(np.square(values).mean())
    tried = np.abs(steps) * step <= longest + step / 2
    return steps[tried] * step, values[tried]


def _summit(three: np.ndarray) -> float:
    """Returns where a parabola through three equidistant values, of which the middle one is the greatest, has its summit: in [-.5, .5]."""
    before, middle, after = three
    bend = before - 2 * middle + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
