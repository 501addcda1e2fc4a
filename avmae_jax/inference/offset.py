"""Finds by how many seconds the audio and the images of a medium are apart, from the cosines of all images with all windows of audio.

If the audio comes later than the image, the cosines are greatest off the diagonal, where the window lies later than the image. What all
moments of the medium have in common adds the same to every lag, so the mean of the vectors around each moment is removed first: in a medium
shorter than that, this removes the means of the rows and columns of the matrix. The score of a lag is the mean of the products at this lag
times the fourth root of their number: the mean alone prefers long lags, which have few pairs and much noise, and a sum short ones.

How certain the best lag is, is judged by how far its score stands out, and a logistic function of that, whose constants are fitted to clips
whose answer is known (evals/sync_check.py). Where the medium doesn't change, is silent, or has audio and images that have nothing to do
with each other, no lag stands out.

Axis letters: n moments, D width, K lags.
"""

import dataclasses
import math

import numpy as np

LONGEST = 3.5  # seconds that audio and image may be apart, unless asked for
_CONTEXT = 5  # a mean is taken over so many times `longest`
_STILL = 0.01  # root mean square of how far vectors of length 1 move along time; below it nothing changes
_LEAST_PAIRS = 8  # of a lag


@dataclasses.dataclass(frozen=True)
class Certainty:
    """Turns how far a lag stands out into the probability that it is right to half a second."""

    slope: float = 1.4
    middle: float = 3.0  # standard deviations at which the probability is .5
    threshold: float = 0.5  # probability below which the answer is that one can't tell

    def of(self, deviations: float) -> float:
        """Returns the probability."""
        return 1 / (1 + math.exp(min(700.0, -self.slope * (deviations - self.middle))))


DEFAULT = Certainty()


@dataclasses.dataclass(frozen=True, eq=False)
class Offset:
    """Says by how many seconds audio and image are apart. Positive: the audio comes later than the image."""

    seconds: float | None  # None: can't tell
    certainty: float  # estimated probability that `likeliest` is right to half a second
    likeliest: float | None  # seconds, however uncertain; None: nothing changes along time, or the medium is too short
    lags: np.ndarray  # float64[K], s
    scores: np.ndarray  # float64[K], of each lag, in standard deviations from their mean

    @property
    def words(self) -> str:
        """Says it in a sentence."""
        if self.seconds is None:
            return "can't tell by how much audio and image are apart"
        later = "audio" if self.seconds > 0 else "image"
        far = f"the {later} comes {abs(self.seconds):.2f} s later than the {'image' if later == 'audio' else 'audio'}"
        return f"{far} (certainty {self.certainty:.0%})"


def find_offset(
    times: np.ndarray,
    centres: np.ndarray,
    audio: np.ndarray,
    image: np.ndarray,
    *,
    longest: float = LONGEST,
    certainty: Certainty = Certainty(),
) -> Offset:
    """Finds the lag between images and windows of audio at which they match best.

    Args:
      times: float64[n], s, at which the images are shown.
      centres: float64[n], s, of the middles of the windows; where several windows are the same, one counts.
      audio: float32[n, D], of length 1.
      image: float32[n, D], of length 1.
      longest: s, the longest lag that is tried; at most half of the medium is.
      certainty: turns how far the best lag stands out into a probability.

    Raises:
      ValueError: if `longest` isn't positive.
    """
    if not longest > 0:
        raise ValueError(f"longest is {longest}; give the seconds that audio and image may be apart, above 0")
    unknown = Offset(None, 0.0, None, np.zeros(0), np.zeros(0))
    if len(times) < 2 * _LEAST_PAIRS:
        return unknown
    centres, first = np.unique(centres, return_index=True)  # a window that was moved inside the medium is that of several images
    audio, image = _moving(audio[first], centres, longest), _moving(image, times, longest)
    if min(_spread(audio), _spread(image)) < _STILL:
        return unknown
    lags, means, counts = _by_lag(times, centres, image, audio, longest)
    there = counts >= _LEAST_PAIRS
    lags, scores = lags[there], (means * counts**0.25)[there]
    if len(lags) < _LEAST_PAIRS or scores.std() == 0:
        return unknown
    scores = (scores - scores.mean()) / scores.std()
    best = int(np.argmax(scores))
    if best in (0, len(scores) - 1):  # the true lag may lie beyond those that are tried
        return Offset(None, 0.0, float(lags[best]), lags, scores)
    likeliest = float(lags[best] + _summit(scores[best - 1 : best + 2]) * (lags[best + 1] - lags[best - 1]) / 2)
    sure = certainty.of(float(scores[best]))
    return Offset(likeliest if sure >= certainty.threshold else None, sure, likeliest, lags, scores)


def _moving(vectors: np.ndarray, times: np.ndarray, longest: float) -> np.ndarray:
    """Removes from each vector the mean of those around its time: float32[n, D]."""
    half = _CONTEXT * longest / 2
    sums = np.concatenate([np.zeros((1, vectors.shape[1])), np.cumsum(vectors, axis=0, dtype=np.float64)])
    first, end = np.searchsorted(times, times - half, "left"), np.searchsorted(times, times + half, "right")
    return (vectors - (sums[end] - sums[first]) / (end - first)[:, None]).astype(np.float32)


def _spread(vectors: np.ndarray) -> float:
    """Computes the root mean square of the vectors' lengths."""
    return float(np.sqrt(np.square(vectors).sum(axis=1).mean()))


def _by_lag(
    times: np.ndarray, centres: np.ndarray, image: np.ndarray, audio: np.ndarray, longest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the lags in steps of the moments, float64[K], and the mean of the products and the number of pairs at each of them.

    Only products of pairs at these lags are computed, so that a long medium needs no more memory than its vectors.
    """
    step = float(np.median(np.diff(times)))
    reach = int(min(longest, (times[-1] - times[0]) / 2) / step + 0.5)
    sums, counts = np.zeros(2 * reach + 1), np.zeros(2 * reach + 1)
    first = np.searchsorted(centres, times - (reach + 0.5) * step)
    last = np.searchsorted(centres, times + (reach + 0.5) * step)
    for number in range(int((last - first).max(initial=0))):
        there = np.flatnonzero(first + number < last)
        window = first[there] + number
        lag = np.rint((centres[window] - times[there]) / step).astype(int) + reach
        there, window, lag = (values[(lag >= 0) & (lag <= 2 * reach)] for values in (there, window, lag))
        np.add.at(sums, lag, np.einsum("nd,nd->n", image[there], audio[window], dtype=np.float64))
        np.add.at(counts, lag, 1)
    return (np.arange(2 * reach + 1) - reach) * step, sums / np.maximum(counts, 1), counts


def _summit(three: np.ndarray) -> float:
    """Returns where a parabola through three equidistant values, of which the middle one is the greatest, has its summit: in [-.5, .5]."""
    before, middle, after = three
    bend = before - 2 * middle + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
