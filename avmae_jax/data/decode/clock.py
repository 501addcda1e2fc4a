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
        self.ends: dict[str, Fraction] = {}  # of each stream: seconds up to which it is known

    def start(self, firsts: dict[str, Fraction], audio_frame: Fraction) -> None:
        """Takes the stamps of the first audio sample and of the first frame, and the seconds of a frame of audio.

        A stream that begins later has no stamp here.
        """
        self.origin = min(firsts.values(), default=Fraction(0))
        priming = min(_TOGETHER, max(JITTER, audio_frame + _ROUNDING))
        self._origins = {stage: first if first - self.origin < priming else self.origin for stage, first in firsts.items()}

    def place(self, stage: str, stamp: Fraction | None, lasts: Fraction) -> Fraction:
        """Returns the second at which a piece of a stream begins: its end so far where it has no stamp.

        Args:
          stage: "audio" or "video".
          stamp: of its beginning.
          lasts: seconds.

        Raises:
          ValueError: if the stamps jump further than any gap.
        """
        end = self.ends.get(stage, Fraction(0))
        time = end
        if stamp is not None:
            since = stamp - self._origins.get(stage, self.origin)
            time = since + self._shifts[self._epochs.get(stage, 0)]
            latest = max(self.ends.values(), default=Fraction(0))
            if self._restarts and stage in self.ends and (time < end - _BACK or time > latest + _AHEAD):
                time = since + self._restart(stage, latest - since)
            if time > latest + _LONGEST_GAP:
                raise ValueError(f"has time stamps that jump from {float(latest):.1f} s to {float(time):.1f} s")
        self.ends[stage] = max(end, time + lasts)
        return time

    def _restart(self, stage: str, shift: Fraction) -> Fraction:
        """Returns by how much the stamps of a stream are moved from now on: as those of the other one if that restarted first."""
        epoch = self._epochs.get(stage, 0) + 1
        if epoch == len(self._shifts):
            self._shifts.append(shift)
        self._epochs[stage] = epoch
        return self._shifts[epoch]
