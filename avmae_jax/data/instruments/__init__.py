"""Generates the built-in audio-visual instrument set, so that a machine without data can run the whole job.

A clip is a phrase that somebody plays on one of fourteen instruments in a room: by default ten seconds of audio and ten frames. Audio and
images are made from the same notes and show the same traits, so that even one frame identifies its clip among many of one class:

| trait      | heard as                                        | seen as                                                           |
|------------|-------------------------------------------------|-------------------------------------------------------------------|
| register   | the pitch around which the phrase moves         | size of the instrument against the hands, and where the hand is   |
| loudness   | -35 to -3 dB                                    | strokes, bow, bellows, puffed cheeks, waves, a level meter        |
| tempo      | 1.5 to 8 notes a second                         | a metronome; pale copies of what moves, as in a long exposure     |
| brightness | slope of the spectrum                           | mallet, mute, bow place, plucked place, lid, shutters, tilt       |
| hall       | reverberation of 0.08 to 1.8 s                   | depth of the room, its walls bare of absorbers                    |
| rain       | noise of -80 to -48 dB                          | the weather behind the window                                     |

The traits are independent of each other and of the class; a note's own pitch and loudness show in the frame of that moment. Colours, light,
pose, furniture and the kind of phrase mean nothing.
"""

import numpy as np

from avmae_jax.data.clip import Clip, even_times
from avmae_jax.data.instruments.phrase import RANGES, Phrase, plan
from avmae_jax.data.instruments.picture import FRAMES, film, outlines
from avmae_jax.data.instruments.sound import synthesize

INSTRUMENTS: tuple[str, ...] = tuple(RANGES)
SPLITS = ("train", "test")


def make_clip(split: str, index: int, *, seed: int = 0, seconds: float = 10.0, image_size: int = 224, frames: int = FRAMES) -> Clip:
    """Generates one clip; the same arguments always give the same bytes.

    Args:
      split: "train" or "test"; their random streams have nothing in common.
      index: number of the clip, 0 or more; its class is `index % len(INSTRUMENTS)`.
      seed: another seed is another collection.
      seconds: length of the audio, at least 0.1.
      image_size: pixels a side of a frame, at least 16.
      frames: F, at least 1; the audio is the same for any.

    Returns:
      A Clip with waveform int16[round(seconds * 16000)], F JPEGs of RGB [image_size, image_size] that show the moments
      0, 1/F, ... (F - 1)/F of its length, and the class as its only label.

    Raises:
      ValueError: naming the argument that is out of range.
    """
    label = index % len(INSTRUMENTS)
    phrase, player, painter = _planned(split, index, seed=seed, seconds=seconds, image_size=image_size, frames=frames)
    return Clip(
        id=f"builtin/{split}/{index:05d}-{INSTRUMENTS[label]}",
        waveform=synthesize(phrase, player),
        frames=film(phrase, image_size, painter, frames),
        labels=(label,),
        frame_times=even_times(frames, seconds),
    )


def instrument_outlines(
    split: str, index: int, *, seed: int = 0, seconds: float = 10.0, image_size: int = 224, frames: int = FRAMES
) -> tuple[np.ndarray, np.ndarray]:
    """Computes where the audio is to be seen in the frames of make_clip with the same arguments: bool[F, image_size, image_size] twice.

    The first is the instrument, without its player's hands and head, sticks, blur and acoustic waves. The second are the other signs of the
    audio: the window with its weather, the metronome, and the level meter.

    Raises:
      ValueError: as make_clip.
    """
    phrase, _, painter = _planned(split, index, seed=seed, seconds=seconds, image_size=image_size, frames=frames)
    return outlines(phrase, image_size, painter, frames)


def _planned(
    split: str, index: int, *, seed: int, seconds: float, image_size: int, frames: int
) -> tuple[Phrase, np.random.Generator, np.random.Generator]:
    """Plans a clip's phrase, and returns the random streams of its audio and of its images; raises ValueError as make_clip."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    limits = {"index": (index, 0), "seed": (seed, 0), "seconds": (seconds, 0.1), "image_size": (image_size, 16), "frames": (frames, 1)}
    for name, (value, least) in limits.items():
        if not value >= least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    streams = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index)).spawn(3)
    planner, player, painter = (np.random.default_rng(stream) for stream in streams)
    return plan(INSTRUMENTS[index % len(INSTRUMENTS)], seconds, planner), player, painter
