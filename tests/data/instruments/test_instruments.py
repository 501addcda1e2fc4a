"""The built-in set: the same bytes every time, and a picture that tells what one hears."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.data.instruments import INSTRUMENTS, make_clip
from avmae_jax.data.instruments.phrase import RANGES, REACH, Note, Phrase, Traits, plan
from avmae_jax.data.instruments.picture import FRAMES, film
from avmae_jax.data.instruments.sound import frequency, synthesize

SMALL = {"seconds": 0.6, "image_size": 48}
MIDDLE = Traits(register=0.5, loudness=0.5, tempo=0.3, brightness=0.5, hall=0.0, rain=0.0)
PITCHED = sorted(set(INSTRUMENTS) - {"cymbal"})


def digest(clip: Clip) -> str:
    return hashlib.sha256(b"|".join([clip.id.encode(), clip.waveform.tobytes(), *clip.frames, repr(clip.labels).encode()])).hexdigest()


def one_note(instrument: str, pitch: float, loudness: float = 0.5, gap: float = 0.8, traits: Traits = MIDDLE) -> Phrase:
    return Phrase(instrument, 0.8, traits, (Note(0.0, gap, gap, pitch, loudness),))


def pixels(phrase: Phrase, frame: int = 3) -> np.ndarray:
    """float[96, 96, 3]: one frame, its colours and pose always the same."""
    jpeg = film(phrase, 96, np.random.default_rng(5))[frame]
    return np.asarray(Image.open(io.BytesIO(jpeg)), float)


def changed(a: Phrase, b: Phrase) -> float:
    """Share of pixels that differ by more than what JPEG does to them."""
    return float((np.abs(pixels(a) - pixels(b)).max(axis=-1) > 40).mean())


@settings(deadline=None, max_examples=15)
@given(
    index=st.integers(0, 10_000),
    seed=st.integers(0, 2**40),
    seconds=st.floats(0.1, 1.5),
    image_size=st.integers(16, 80),
    split=st.sampled_from(["train", "test"]),
)
def test_any_clip_is_well_formed_and_repeatable(index: int, seed: int, seconds: float, image_size: int, split: str) -> None:
    clip = make_clip(split, index, seed=seed, seconds=seconds, image_size=image_size)
    assert clip.waveform.dtype == np.int16
    assert clip.waveform.shape == (round(seconds * SAMPLE_RATE),)
    loudest = np.abs(clip.waveform.astype(int)).max()
    assert 300 < loudest < 30_000  # neither silent nor clipped
    assert [Image.open(io.BytesIO(frame)).size for frame in clip.frames] == [(image_size, image_size)] * FRAMES
    assert clip.frame_times == pytest.approx([number * seconds / FRAMES for number in range(FRAMES)])
    assert clip.labels == (index % len(INSTRUMENTS),)
    assert clip.id == f"builtin/{split}/{index:05d}-{INSTRUMENTS[clip.labels[0]]}"
    again = make_clip(split, index, seed=seed, seconds=seconds, image_size=image_size)
    assert digest(again) == digest(clip)


@pytest.mark.process
def test_another_process_makes_the_same_bytes() -> None:
    code = (
        "import hashlib; from avmae_jax.data.instruments import make_clip\n"
        "for i in range(14):\n"
        "    c = make_clip('test', i, seed=3, seconds=0.6, image_size=48)\n"
        "    print(hashlib.sha256(b'|'.join([c.id.encode(), c.waveform.tobytes(), *c.frames, repr(c.labels).encode()])).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert there == [digest(make_clip("test", index, seed=3, **SMALL)) for index in range(14)]


def test_a_frame_follows_from_its_moment_however_many_there_are() -> None:
    ten = make_clip("train", 5, seed=1, **SMALL)
    known = "6fea138e945c698e"  # sets that were generated before there was a choice are the same
    assert hashlib.sha256(b"|".join(ten.frames)).hexdigest()[:16] == known
    twenty, two = (make_clip("train", 5, seed=1, frames=frames, **SMALL) for frames in (20, 2))
    assert twenty.frames[::2] == ten.frames
    assert two.frames == (ten.frames[0], ten.frames[5])
    assert len(set(twenty.frames)) == 20
    assert twenty.frame_times == pytest.approx([number * 0.03 for number in range(20)])
    assert (twenty.waveform == ten.waveform).all()


def test_no_two_clips_are_alike() -> None:
    clips = [make_clip(split, 14 * k, seed=seed, **SMALL) for split in ("train", "test") for seed in (0, 1) for k in range(6)]
    assert len({clip.waveform.tobytes() for clip in clips}) == len(clips)
    assert len({clip.frames for clip in clips}) == len(clips)


def test_classes_are_balanced_and_at_least_twelve() -> None:
    assert len(set(INSTRUMENTS)) == len(INSTRUMENTS) >= 12
    assert [index % len(INSTRUMENTS) for index in range(28)] == [
        make_clip("test", i, seconds=0.1, image_size=16).labels[0] for i in range(28)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "split.*valid.*train.*test"),
        ({"index": -1}, "index.*-1"),
        ({"seed": -1}, "seed.*-1"),
        ({"seconds": 0.0}, r"seconds.*0\.0"),
        ({"seconds": float("nan")}, "seconds.*nan"),
        ({"image_size": 8}, "image_size.* 8"),
        ({"frames": 0}, "frames.* 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_clip(**({"split": "train", "index": 0} | arguments))


@settings(deadline=None, max_examples=25)
@given(instrument=st.sampled_from(INSTRUMENTS), seconds=st.floats(0.1, 12), seed=st.integers(0, 999))
def test_phrases_stay_near_their_register(instrument: str, seconds: float, seed: int) -> None:
    phrase = plan(instrument, seconds, np.random.default_rng(seed))
    low, high = RANGES[instrument]
    centre = low + REACH + phrase.traits.register * (high - low - 2 * REACH)
    assert 0 <= phrase.notes[0].start <= 0.1 * seconds
    assert all(abs(note.pitch - centre) <= REACH + 1e-9 and note.start < seconds and note.length <= note.gap for note in phrase.notes)
    for time in np.linspace(0, seconds, 7):
        moment = phrase.at(float(time))
        assert all(0 <= x <= 1 for x in (moment.place, moment.loudness, moment.rate, moment.phase))


@pytest.mark.parametrize("instrument", PITCHED)
def test_sound_has_the_pitch_that_was_asked_for(instrument: str) -> None:
    low, high = RANGES[instrument]
    for pitch in np.linspace(low, high, 5):
        phrase = one_note(instrument, float(pitch), traits=MIDDLE._replace(brightness=0.3))
        wave = synthesize(phrase, np.random.default_rng(0))[800:].astype(float)
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 17))
        hertz = np.fft.rfftfreq(1 << 17, 1 / SAMPLE_RATE)
        partials = 2.0 if instrument == "chimes" else 1.0  # a chime's strike note is an octave below the mode that one finds there
        near = [
            spectrum[np.abs(hertz / (frequency(float(pitch)) * partials * 2 ** (step / 12)) - 1) < 0.012].max() for step in range(-4, 5)
        ]
        assert np.argmax(near) == 4, f"{instrument} at {pitch}: strongest {np.argmax(near) - 4} semitones off"


def test_a_cymbal_rings_higher_when_asked_to() -> None:
    def centre(pitch: float) -> float:
        power = np.abs(np.fft.rfft(synthesize(one_note("cymbal", pitch), np.random.default_rng(0)).astype(float))) ** 2
        return float((power * np.arange(len(power))).sum() / power.sum())

    assert centre(78) > 1.5 * centre(50)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_level_follows_loudness(instrument: str) -> None:
    quiet, loud = (
        np.abs(synthesize(one_note(instrument, 60, loudness=x), np.random.default_rng(0)).astype(float)).max() for x in (0.0, 1.0)
    )
    assert 28 < 20 * np.log10(loud / quiet) < 34


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_each_trait_shows_in_a_frame(instrument: str) -> None:
    low, high = RANGES[instrument]
    middle = one_note(instrument, (low + high) / 2)
    assert changed(middle, middle) == 0
    assert changed(one_note(instrument, low + 4), one_note(instrument, high - 4)) > 0.01
    assert changed(one_note(instrument, low + 16, loudness=0.0), one_note(instrument, low + 16, loudness=1.0)) > 0.03
    assert changed(middle, one_note(instrument, (low + high) / 2, gap=0.13)) > 0.01
    for trait, least in (("register", 0.05), ("brightness", 0.005), ("hall", 0.1), ("rain", 0.02)):
        ends = [one_note(instrument, low + 16, traits=MIDDLE._replace(**{trait: x})) for x in (0.0, 1.0)]
        assert changed(*ends) > least, trait


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_traits_are_heard(instrument: str) -> None:
    def spectrum(traits: Traits) -> np.ndarray:
        phrase = Phrase(instrument, 0.8, traits, (Note(0.0, 0.4, 0.15, 60, 0.5),))
        return np.abs(np.fft.rfft(synthesize(phrase, np.random.default_rng(0)).reshape(4, -1).astype(float))) ** 2  # [4 quarters, F]

    def brightness(power: np.ndarray) -> float:
        return float((power.sum(0) * np.arange(power.shape[1])).sum() / power.sum())

    assert brightness(spectrum(MIDDLE._replace(brightness=1.0))) > 1.1 * brightness(spectrum(MIDDLE._replace(brightness=0.0)))
    dry, wet = (spectrum(MIDDLE._replace(hall=x)) for x in (0.0, 1.0))
    assert wet[3].sum() / wet[0].sum() > 1.5 * dry[3].sum() / dry[0].sum()
    fair, wet = (spectrum(MIDDLE._replace(rain=x))[3, -200:].sum() for x in (0.0, 1.0))
    assert wet > 10 * fair
