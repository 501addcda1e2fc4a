"""Places audio and frames of a file on one clock.

Second 0 is the earlier of the first audio sample and the first frame that the used streams show, by the time stamps that FFmpeg reports:
edit lists and the delay of codecs are taken into account. Streams whose beginnings lie closer together than JITTER, or than a frame of
audio and a tenth of a second, begin together: that little is a container's rounding or a codec's priming.

Transport and program streams, and joined files of them, may restart their stamps half-way: a jump back by more than a second, or ahead by
more than ten, continues the clock where it was, for both streams by the same amount.
"""

from fractions import Fraction

JITTER = Fraction(40, 1000)  # seconds; containers round stamps to 1 ms, some to a packet; differences below it are no gap
_TOGETHER = Fraction(1, 10)  # seconds; beginnings further apart are never one
_BACK, _AHEAD = 1, 10  # seconds of a jump that is a restart
_ROUNDING = Fraction(2, 1000)  # seconds between two stamps of whole milliseconds
_LONGEST_GAP = 3600  # seconds without any audio and frames; a longer gap is damage


class Clock:
    """Turns the time stamps of both streams into seconds of the clip."""

    def __init__(self, *, restarts: bool) -> None:
        """Starts with stamps unknown; `restarts` says whether the container's stamps may restart."""
        self._restarts = restarts
        self._origins: dict[str, Fraction] = {}
        self._shifts = [Fraction(0)]
        self._epochs: dict[str, int] = {}
        self._offsets: dict[str, tuple[Fraction, float]] = {}
        self._last: dict[str, tuple[Fraction | float, Fraction | float]] = {}  # of each stream: begin and length of its last piece
        self.ends: dict[str, float] = {}  # of each stream: seconds up to which it is known

    def start(self, firsts: dict[str, Fraction], audio_frame: Fraction) -> None:
        """Takes the stamps of the first audio sample and of the first frame, and the seconds of a frame of audio.

        A stream that begins later has no stamp here.
        """
        self.origin = min(firsts.values(), default=Fraction(0))
        priming = min(_TOGETHER, max(JITTER, audio_frame + _ROUNDING))
        self._origins = {stage: first if first - self.origin < priming else self.origin for stage, first in firsts.items()}

    def place(self, stage: str, stamp: Fraction | float | None, lasts: Fraction | float) -> Fraction | float:
        """Returns the second at which a piece of a stream begins: its end so far where it has no stamp.

        Args:
          stage: "audio" or "video".
          stamp: of its beginning; exact, or a float, which is faster.
          lasts: seconds.

        Raises:
          ValueError: if the stamps jump further than any gap.
        """
        end = self.ends.get(stage, 0.0)
        if stamp is None:
            time = sum(self._last.get(stage, ()))
            self._last[stage] = time, lasts
            self.ends[stage] = max(end, float(time + lasts))
            return time
        if stage not in self._offsets:
            self._move(stage)
        exact = stamp + self._offsets[stage][isinstance(stamp, float)]
        time = float(exact)
        if time > end + _BACK or time < end - _BACK:
            latest = max(self.ends.values(), default=0.0)
            if self._restarts and stage in self.ends and (time < end - _BACK or time > latest + _AHEAD):
                self._restart(stage, Fraction(latest - time))
                exact = stamp + self._offsets[stage][isinstance(stamp, float)]
                time = float(exact)
            if time > latest + _LONGEST_GAP:
                raise ValueError(f"has time stamps that jump from {latest:.1f} s to {time:.1f} s")
        self.ends[stage] = max(end, time + float(lasts))
        self._last[stage] = exact, lasts
        return exact

    def _restart(self, stage: str, back: Fraction) -> None:
        """Moves the stamps of a stream from now on: by as much as those of the other one if that restarted first."""
        epoch = self._epochs.get(stage, 0) + 1
        if epoch == len(self._shifts):
            self._shifts.append(self._shifts[-1] + back)
        self._epochs[stage] = epoch
        self._move(stage)

    def _move(self, stage: str) -> None:
        """Computes what is added to the stamps of a stream, exactly and as a float."""
        offset = self._shifts[self._epochs.get(stage, 0)] - self._origins.get(stage, self.origin)
        self._offsets[stage] = offset, float(offset)
