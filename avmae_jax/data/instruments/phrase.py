"""Plans what is played: the traits of a clip, its notes, and the state of the instrument at each moment.

Audio and images are both made from one `Phrase`, independently of each other, so all they share is in this file.
"""

from typing import NamedTuple

import numpy as np

# Lowest and highest note of each instrument as MIDI numbers (69 is A4 = 440 Hz). The whole range spans the whole reach of the hand.
# A cymbal and a drum have no definite note: there the number means how small they are and where they are hit.
RANGES = {
    "accordion": (50, 82),
    "cello": (36, 67),
    "chimes": (55, 82),
    "clarinet": (50, 82),
    "cymbal": (48, 80),
    "drum": (36, 64),
    "flute": (60, 91),
    "guitar": (40, 74),
    "harp": (43, 81),
    "piano": (38, 82),
    "trombone": (38, 67),
    "trumpet": (54, 84),
    "violin": (55, 90),
    "xylophone": (62, 93),
}
REACH = 4  # semitones that a phrase goes from its centre, so that any moment tells the clip's register
SLOWEST, FASTEST = 1.5, 8.0  # notes a second
QUIETEST_DB, LOUDEST_DB = -35.0, -3.0  # peak level at loudness 0 and 1, relative to full scale
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 4, 7), (0, 3, 7))


class Traits(NamedTuple):
    """Distinguishes a clip from others of its class; each uniform in [0, 1] and independent of the others."""

    register: float  # 0: a big instrument played low; 1: a small one played high
    loudness: float  # 0: pianissimo; 1: fortissimo
    tempo: float  # 0: SLOWEST; 1: FASTEST, on a logarithmic scale
    brightness: float  # 0: soft mallet, bow over the fingerboard, mute in the bell; 1: the contrary
    hall: float  # 0: a small dry room; 1: a deep hall that echoes
    rain: float  # 0: blue sky and silence behind the window; 1: a downpour


class Note(NamedTuple):
    """Holds one note; times in seconds."""

    start: float
    gap: float  # time until the next note starts
    length: float  # time until it is let go, at most `gap`
    pitch: float  # MIDI number, may be fractional
    loudness: float  # in [0, 1], as in Traits


class Moment(NamedTuple):
    """Holds what is visible of a note at one instant."""

    place: float  # 0 at the lowest note of the instrument, 1 at the highest
    loudness: float  # of the current note
    rate: float  # of the current note, as Traits.tempo
    phase: float  # 0 where the note starts, 1 where the next one does
    stroke: int  # +1 and -1 in turn: down-bow and up-bow, right hand and left hand
    fingering: int  # semitones below the next open note of a valve or key instrument, 0..6


class Phrase(NamedTuple):
    """Holds all that audio and images of a clip have in common."""

    instrument: str
    seconds: float
    traits: Traits
    notes: tuple[Note, ...]

    def at(self, time: float) -> Moment:
        """Returns the moment `time` seconds into the clip; the first note counts as begun from 0 on."""
        number = max(0, sum(note.start <= time for note in self.notes) - 1)
        note = self.notes[number]
        low, high = RANGES[self.instrument]
        return Moment(
            place=float(np.clip((note.pitch - low) / (high - low), 0, 1)),
            loudness=note.loudness,
            rate=float(np.clip(np.log(1 / note.gap / SLOWEST) / np.log(FASTEST / SLOWEST), 0, 1)),
            phase=float(np.clip((time - note.start) / note.gap, 0, 1)),
            stroke=1 if number % 2 == 0 else -1,
            fingering=round(high - note.pitch) % 7,
        )


def plan(instrument: str, seconds: float, rng: np.random.Generator) -> Phrase:
    """Draws the traits of a clip and a phrase that shows them.

    Args:
      instrument: a key of RANGES.
      seconds: length of the clip, above 0.
      rng: where all randomness comes from.

    Returns:
      A Phrase with at least one note, the first within a tenth of the clip, all within the instrument's range.
    """
    traits = Traits(*(float(x) for x in rng.uniform(0, 1, len(Traits._fields))))
    low, high = RANGES[instrument]
    centre = low + REACH + traits.register * (high - low - 2 * REACH)
    beat = 1 / (SLOWEST * (FASTEST / SLOWEST) ** traits.tempo)
    legato = rng.uniform(0.4, 0.9)
    swing = rng.choice([0.0, 0.0, 0.2])
    swell = rng.uniform(-0.12, 0.12)  # crescendo or diminuendo over the whole clip
    steps = _steps(int(seconds / beat) + 3, rng)
    notes = []
    start = float(rng.uniform(0, min(0.1 * seconds, 0.5 * beat)))
    for number, step in enumerate(steps):
        gap = beat * (1 + (swing if number % 2 == 0 else -swing)) * rng.uniform(0.95, 1.05)
        loudness = traits.loudness + swell * (start / seconds - 0.5) + rng.uniform(-0.04, 0.04)
        notes.append(Note(start, gap, gap * legato, centre + step, float(np.clip(loudness, 0, 1))))
        start += gap
        if start >= seconds:
            break
    return Phrase(instrument, seconds, traits, tuple(notes))


def _steps(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws float[count], semitones from the centre of the phrase, in [-REACH, REACH]."""
    kind = rng.choice(["scale", "arpeggio", "repeated", "walk"])
    scale = SCALES[rng.integers(3)] if kind == "scale" else SCALES[3 + rng.integers(2)]
    ladder = np.array([s - REACH for s in range(2 * REACH + 1) if s % 12 in scale], float)
    if kind in ("scale", "arpeggio"):  # up and down the ladder
        places = (np.arange(count) + rng.integers(2 * len(ladder))) % (2 * len(ladder) - 2)
        return ladder[np.minimum(places, 2 * len(ladder) - 2 - places)]
    if kind == "repeated":  # each note two to four times
        return np.repeat(rng.integers(-REACH, REACH + 1, count), rng.integers(2, 5))[:count].astype(float)
    walk = np.cumsum(rng.integers(-2, 3, count))
    return np.abs((walk - REACH) % (4 * REACH) - 2 * REACH) - float(REACH)  # reflected at both ends
