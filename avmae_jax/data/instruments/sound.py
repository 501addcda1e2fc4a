"""Synthesizes a phrase: a small physical or spectral model for each instrument, in a room, with rain behind the window.

- plucked strings: Karplus and Strong's loop (Computer Music Journal 7(2), 1983) with a fractional delay and a comb for the plucked point;
- bowed strings, reeds, brass, flute: sums of harmonics under one phase, with vibrato, breath or bow noise and body resonances; a brass tone
  gains harmonics with loudness, a clarinet has odd ones, an accordion's two reeds beat;
- piano, bars, tubes, skins, cymbals: decaying modes with the frequency ratios of a stiff string, a free bar, a free tube, a round membrane
  and a plate (Fletcher and Rossing, The Physics of Musical Instruments), plus a burst of noise for the blow.

Axis letter: N samples.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import signal, special

from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.data.instruments.phrase import LOUDEST_DB, QUIETEST_DB, Note, Phrase

TOP = 7600.0  # Hz; no partial is made above, so nothing folds back
MEMBRANE = np.sort(np.concatenate([special.jn_zeros(m, 3) for m in range(4)])) / special.jn_zeros(0, 1)[0]  # modes of a round skin
TUBE = (np.arange(3, 15, 2) / 9.0) ** 2 * 2  # modes of a free tube over its strike note: the 4th is perceived as the octave
BAR = np.array([1.0, 3.0, 6.1, 10.2])  # a xylophone bar is undercut until its second mode is a twelfth above the first


def synthesize(phrase: Phrase, rng: np.random.Generator) -> np.ndarray:
    """Plays a phrase.

    Args:
      phrase: what to play.
      rng: source of noise, vibrato and such.

    Returns:
      int16[N], N = round(seconds * 16000). The peak follows the loudest note, from QUIETEST_DB to LOUDEST_DB.
    """
    size = round(phrase.seconds * SAMPLE_RATE)
    music = _in_hall(VOICES[phrase.instrument](phrase, size, rng), phrase.traits.hall, rng)
    music *= _gain(max(note.loudness for note in phrase.notes)) / max(float(np.abs(music).max()), 1e-9)
    return np.round((music + _rain(size, phrase.traits.rain, rng)) * 32767).astype(np.int16)


def frequency(pitch: float) -> float:
    """Returns the hertz of a MIDI number."""
    return 440.0 * 2 ** ((pitch - 69) / 12)


def _filter(b: ArrayLike, a: ArrayLike, x: np.ndarray) -> np.ndarray:
    """Applies scipy's lfilter, [N] -> float32[N]."""
    return np.asarray(signal.lfilter(b, a, x), np.float32)


def _gain(loudness: float) -> float:
    return 10 ** ((QUIETEST_DB + (LOUDEST_DB - QUIETEST_DB) * loudness) / 20)


def _in_hall(dry: np.ndarray, hall: float, rng: np.random.Generator) -> np.ndarray:
    """Adds the echo of a room whose reverberation time goes from 0.08 to 1.8 s: [N] -> [N]."""
    time_60db = 0.08 * 22**hall
    times = np.arange(int(time_60db * SAMPLE_RATE)) / SAMPLE_RATE
    echo = rng.standard_normal(len(times), dtype=np.float32) * np.exp(-6.9 * times / time_60db).astype(np.float32)
    echo *= (0.1 + 1.3 * hall) / np.linalg.norm(echo)
    return dry + signal.oaconvolve(dry, echo)[: len(dry)].astype(np.float32)


def _rain(size: int, rain: float, rng: np.random.Generator) -> np.ndarray:
    """Makes float32[N], noise of -80 to -48 dB, with gusts."""
    noise = _filter([1.0, -0.6], [1.0, -0.3], rng.standard_normal(size))
    gusts = 1 + 0.2 * np.sin(2 * np.pi * (rng.uniform(0.2, 1) * np.arange(size, dtype=np.float32) / SAMPLE_RATE + rng.uniform()))
    return 10 ** ((-80 + 32 * rain) / 20) * noise * gusts.astype(np.float32)


def _each_note(phrase: Phrase, size: int, ring: float, make: Callable[[Note, int], np.ndarray]) -> np.ndarray:
    """Sums notes that ring at most `ring` seconds: `make(note, samples)` gives one of them."""
    out = np.zeros(size, np.float32)
    for note in phrase.notes:
        start = int(note.start * SAMPLE_RATE)
        samples = min(size - start, int(ring * SAMPLE_RATE))
        if samples <= 0:
            continue
        tone = make(note, samples).astype(np.float32)
        release = min(samples, 400)  # 25 ms, so that a note cut by `ring` doesn't click
        tone[samples - release :] *= np.linspace(1, 0, release, dtype=np.float32)
        out[start : start + samples] += tone * (_gain(note.loudness) / max(float(np.abs(tone).max()), 1e-9))
    return out


def _modes(hertz: np.ndarray, decays: np.ndarray, gains: np.ndarray, samples: int) -> np.ndarray:
    """Sums decaying sines, float32[N]; decays in 1/s.

    exp(z (64 i + j)) is a product of two short tables, so that the sum is one small matrix product. It is einsum's, not BLAS's, whose
    threads would wait for one another where several readers share the cores.
    """
    heard = hertz < TOP
    z = (2j * np.pi * hertz[heard] - decays[heard]) / SAMPLE_RATE
    fine = np.exp(np.outer(z, np.arange(64)))
    coarse = np.exp(np.outer(np.arange(-(-samples // 64)) * 64, z)) * gains[heard]
    left, right = np.hstack([np.real(coarse), np.imag(coarse)]), np.vstack([np.imag(fine), np.real(fine)])
    return np.einsum("ip,pj->ij", left.astype(np.float32), right.astype(np.float32)).reshape(-1)[:samples]


def _blow(samples: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Makes [N], the noise of a hammer, stick or mallet, which dies within a few times `seconds`."""
    length = min(samples, int(6 * seconds * SAMPLE_RATE))
    burst = np.zeros(samples)
    burst[:length] = rng.standard_normal(length) * np.exp(-np.arange(length) / (seconds * SAMPLE_RATE))
    return burst


# ---- plucked strings ----


def _plucked(phrase: Phrase, size: int, rng: np.random.Generator, *, ring: float, damping: float, body: tuple[float, ...]) -> np.ndarray:
    bright = phrase.traits.brightness
    point = 0.5 - 0.42 * bright  # plucked there, as a share of the string: the middle is mellow, the bridge is sharp

    def pluck(note: Note, samples: int) -> np.ndarray:
        period = SAMPLE_RATE / frequency(note.pitch)
        smooth = 0.5 * damping  # share of the loop's two-point average that goes to the later point
        delay, part = int(period - smooth), (period - smooth) % 1
        loop = np.convolve([1 - smooth, smooth], [1 - part, part]) * 0.001 ** (period / SAMPLE_RATE / (ring * 1.5))
        excite = np.zeros(samples)
        burst = rng.uniform(-1, 1, min(delay, samples))
        excite[: len(burst)] = _filter([0.15 + 0.75 * bright], [1, 0.75 * bright - 0.85], burst - burst.mean())
        comb = max(1, int(point * period))
        excite[comb:] -= 0.9 * excite[:-comb] if comb < samples else 0
        denominator = np.zeros(delay + 3)
        denominator[0] = 1
        denominator[delay:] -= loop
        return _filter([1.0], denominator, excite)

    return _resonate(_each_note(phrase, size, ring, pluck), body)


def _resonate(dry: np.ndarray, body: tuple[float, ...], gain: float = 1.2) -> np.ndarray:
    """Lifts the resonances of a body, in hertz: [N] -> [N]."""
    out = dry.copy()
    for hertz in body:
        out += gain * _filter(*signal.iirpeak(hertz, 4, SAMPLE_RATE), dry)
    return out


# ---- sustained tones ----


def _curves(phrase: Phrase, size: int, *, glide: float, attack: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes the fundamental in hertz and the amplitude in [0, 1], float32[N] each; `glide` and `attack` smooth, in seconds."""
    hertz = np.full(size, frequency(phrase.notes[0].pitch))
    level = np.zeros(size)
    for note in phrase.notes:
        start = int(note.start * SAMPLE_RATE)
        hertz[start:] = frequency(note.pitch)
        level[start : start + int(max(note.length, 0.04) * SAMPLE_RATE)] = _gain(note.loudness)
        level[max(0, start - 160) : start] *= 0.3  # tongue or bow change: also tied notes have a start
    poles = [np.exp(-1 / (seconds * SAMPLE_RATE)) for seconds in (glide, attack)]
    hertz, _ = signal.lfilter([1 - poles[0]], [1, -poles[0]], hertz, zi=[poles[0] * hertz[0]])
    return hertz, _filter([1 - poles[1]], [1, -poles[1]], level)


def _vibrato(hertz: np.ndarray, depth: float, rng: np.random.Generator) -> np.ndarray:
    turns = rng.uniform(4.5, 6.5) * np.arange(len(hertz)) / SAMPLE_RATE + rng.uniform()
    return hertz * (1 + depth * rng.uniform(0.5, 1) * np.sin(2 * np.pi * turns))


def _harmonics(hertz: np.ndarray, weight: Callable[[int], np.ndarray | float], count: int) -> np.ndarray:
    """Sums over k = 1..count weight(k) sin(k phase), float32[N], by sin(k p) = 2 cos(p) sin((k - 1) p) - sin((k - 2) p)."""
    phase = np.cumsum(hertz * (2 * np.pi / SAMPLE_RATE)) % (2 * np.pi)
    sine, twice_cos = np.sin(phase).astype(np.float32), (2 * np.cos(phase)).astype(np.float32)
    before, out = np.zeros_like(sine), np.zeros_like(sine)
    highest, lowest = float(hertz.max()), float(hertz.min())
    for k in range(1, count + 1):
        if k * lowest > TOP:
            break
        part = np.asarray(weight(k), np.float32) * sine
        out += part if k * highest < TOP else part * (k * hertz < TOP)
        before, sine = sine, twice_cos * sine - before
    return out


def _breath(size: int, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(size, dtype=np.float32)
    sections = signal.butter(1, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(signal.sosfilt(sections, noise), np.float32)


def _bowed(phrase: Phrase, size: int, rng: np.random.Generator, *, body: tuple[float, ...]) -> np.ndarray:
    hertz, level = _curves(phrase, size, glide=0.012, attack=0.025)
    slope = 2.0 - 1.3 * phrase.traits.brightness
    tone = _harmonics(_vibrato(hertz, 0.012, rng), lambda k: k**-slope, 40)
    return level * (_resonate(tone, body) + (0.05 + 0.15 * phrase.traits.brightness) * _breath(size, 1500, 6000, rng))


def _flute(phrase: Phrase, size: int, rng: np.random.Generator) -> np.ndarray:
    hertz, level = _curves(phrase, size, glide=0.008, attack=0.03)
    bright = phrase.traits.brightness
    gains = 0.65 ** np.arange(8) * (0.06 + 0.94 * bright) ** np.minimum(np.arange(8), 3)
    tremolo = 1 + 0.12 * np.sin(2 * np.pi * rng.uniform(4, 6) * np.arange(size, dtype=np.float32) / SAMPLE_RATE)
    tone = _harmonics(_vibrato(hertz, 0.004, rng), lambda k: gains[k - 1], len(gains))
    return level * tremolo.astype(np.float32) * (tone + (0.03 + 0.2 * bright) * _breath(size, 1200, 6000, rng))


def _clarinet(phrase: Phrase, size: int, rng: np.random.Generator) -> np.ndarray:
    hertz, level = _curves(phrase, size, glide=0.006, attack=0.02)
    slope = 1.9 - 1.3 * phrase.traits.brightness
    tone = _harmonics(_vibrato(hertz, 0.001, rng), lambda k: k**-slope * (1 if k % 2 else 0.04 + 0.01 * k), 24)
    return level * (tone + 0.03 * _breath(size, 1500, 5000, rng))


def _brass(phrase: Phrase, size: int, rng: np.random.Generator, *, glide: float, horn: float) -> np.ndarray:
    hertz, level = _curves(phrase, size, glide=glide, attack=0.03)
    effort = np.clip(1 + np.log10(np.maximum(level, 1e-4)) / 2, 0, 1)  # 0 at -40 dB, 1 at full scale
    ratio = np.exp(-(1.7 - 0.5 * effort - 1.05 * phrase.traits.brightness)).astype(np.float32)  # of one harmonic to the one before
    power = np.ones_like(ratio)

    def weight(k: int) -> np.ndarray:
        nonlocal power
        power = power if k == 1 else power * ratio
        return power

    return level * _resonate(_harmonics(_vibrato(hertz, 0.004, rng), weight, 24), (horn,), gain=2.0)


def _accordion(phrase: Phrase, size: int, rng: np.random.Generator) -> np.ndarray:
    hertz, level = _curves(phrase, size, glide=0.004, attack=0.025)
    slope, beat = 1.9 - 1.4 * phrase.traits.brightness, rng.uniform(2, 4)  # the reeds lie twice `beat` hertz apart
    return level * sum(_harmonics(hertz + shift, lambda k: k**-slope, 20) for shift in (-beat, beat))


# ---- struck strings, bars, tubes, skins, plates ----


def _piano(phrase: Phrase, size: int, rng: np.random.Generator) -> np.ndarray:
    def strike(note: Note, samples: int) -> np.ndarray:
        k, first = np.arange(1, 21), frequency(note.pitch)
        gains = np.exp(-k * (1.25 - 0.25 * note.loudness - 0.9 * phrase.traits.brightness)) * np.abs(np.sin(np.pi * k / 8.3))
        modes = _modes(first * k * np.sqrt(1 + 4e-4 * k**2), (1.5 + 0.25 * k) * (first / 260) ** 0.5, gains, samples)
        return modes + 0.02 * _blow(samples, 0.008, rng)

    return _each_note(phrase, size, 0.9, strike)


def _bars(phrase: Phrase, size: int, rng: np.random.Generator) -> np.ndarray:
    hardness = phrase.traits.brightness

    def strike(note: Note, samples: int) -> np.ndarray:
        gains = np.array([1.0, 0.9, 0.6, 0.4]) * (0.05 + hardness) ** np.array([0, 0.7, 1.2, 1.7])
        modes = _modes(frequency(note.pitch) * BAR, np.array([9.0, 18, 35, 60]), gains, samples)
        return modes + 0.6 * hardness * _blow(samples, 0.003, rng)

    return _each_note(phrase, size, 0.5, strike)


def _chimes(phrase: Phrase, size: int, rng: np.random.Generator) -> np.ndarray:
    hardness = phrase.traits.brightness

    def strike(note: Note, samples: int) -> np.ndarray:
        gains = np.array([0.2, 0.5, 0.6, 1.0, 0.9, 0.8]) * (0.1 + 0.9 * hardness) ** np.linspace(0, 2, 6)
        return _modes(frequency(note.pitch) * TUBE, np.linspace(1.2, 4, 6), gains, samples) + 0.2 * hardness * _blow(samples, 0.004, rng)

    return _each_note(phrase, size, 1.6, strike)


def _drum(phrase: Phrase, size: int, rng: np.random.Generator) -> np.ndarray:
    bright = phrase.traits.brightness  # a bare skin; a cloth on it takes the upper modes away

    def strike(note: Note, samples: int) -> np.ndarray:
        gains = (0.15 + 0.8 * bright) ** (MEMBRANE - 1)
        modes = _modes(frequency(note.pitch) * MEMBRANE, (16 - 9 * bright) * MEMBRANE**0.7, gains, samples)
        return modes + (0.1 + 0.9 * bright) * _blow(samples, 0.01, rng)

    return _each_note(phrase, size, 0.5, strike)


def _cymbal(phrase: Phrase, size: int, rng: np.random.Generator) -> np.ndarray:
    plate = np.sort(rng.uniform(1, 16, 60))  # modes of this plate over its first

    def strike(note: Note, samples: int) -> np.ndarray:
        hertz = frequency(note.pitch) * plate
        gains = plate ** (1.2 * phrase.traits.brightness - 0.9) * rng.uniform(0.5, 1, len(plate))
        return _modes(hertz, 2.5 + hertz / 1500, gains, samples) + 2 * _blow(samples, 0.01, rng)

    return _each_note(phrase, size, 1.0, strike)


VOICES: dict[str, Callable[[Phrase, int, np.random.Generator], np.ndarray]] = {
    "accordion": _accordion,
    "cello": lambda *args: _bowed(*args, body=(110, 220, 440, 1500)),
    "chimes": _chimes,
    "clarinet": _clarinet,
    "cymbal": _cymbal,
    "drum": _drum,
    "flute": _flute,
    "guitar": lambda *args: _plucked(*args, ring=0.8, damping=0.6, body=(105, 205, 400)),
    "harp": lambda *args: _plucked(*args, ring=1.2, damping=0.9, body=(180, 300)),
    "piano": _piano,
    "trombone": lambda *args: _brass(*args, glide=0.04, horn=520),
    "trumpet": lambda *args: _brass(*args, glide=0.005, horn=1200),
    "violin": lambda *args: _bowed(*args, body=(280, 460, 900, 2600)),
    "xylophone": _bars,
}
