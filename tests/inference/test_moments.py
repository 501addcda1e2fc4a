"""Moments of media: which image, which audio, and that a long medium gives the same in pieces."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avmae_jax.config import Config, ModelConfig
from avmae_jax.data.clip import SAMPLE_RATE, Clip
from avmae_jax.errors import ClipError
from avmae_jax.inference.moments import Moment, Sizes, moments_of_clip, moments_of_file
from tests.media import numbered, tone, write_clip, write_media

MODEL = ModelConfig(kind="sync", class_token=True, audio_frames=40, clip_frames=160, image_size=96, mel_bins=32)


def config_of(**changes: object) -> Config:
    return Config(model=dataclasses.replace(MODEL, **changes))


def number_in(image: np.ndarray) -> int:
    """Reads the number that an image of numbered() shows."""
    stripes = image.reshape(96, 12, 8, 3).mean(axis=(0, 2, 3))
    return sum(1 << bit for bit in range(12) if stripes[bit] > 128)


def heard(moment: Moment) -> np.ndarray:
    """Returns the samples of a moment's window."""
    first = int(moment.arrays["window"][0]) * 160
    return moment.arrays["waveform"][first : first + 40 * 160]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a film of 27 s with 10 numbered images a second, and a tone of another pitch in each second."""
    sound = np.concatenate([tone(200 + 100 * second, 1) for second in range(27)])
    frames = [numbered(number) for number in range(270)]
    return write_media(tmp_path_factory.mktemp("moments") / "film.mkv", frames=frames, sound=sound, audio_codec="pcm_s16le")


def test_each_moment_has_its_image_and_the_audio_around_it(film: Path) -> None:
    moments = list(moments_of_file(film, config_of(), rate=4))
    times = np.array([moment.time for moment in moments])
    assert len(moments) == 27 * 4 + 1  # the first image, and the one that is over after a quarter of a second
    assert np.diff(times).max() < 0.4
    assert np.diff(times[1:]).min() > 0.1
    for moment in moments:
        assert number_in(moment.arrays["image"][0]) == round(moment.time * 10)
        if moment.time % 1 == pytest.approx(0.5, abs=0.11):  # the window lies in one second
            spectrum = np.abs(np.fft.rfft(heard(moment).astype(float)))
            assert np.argmax(spectrum) * SAMPLE_RATE / 6400 == pytest.approx(200 + 100 * int(moment.centre), abs=6)
    centred = [abs(moment.centre - moment.time) < 0.006 for moment in moments]
    assert all(centred[2:-2])
    assert moments[0].centre == pytest.approx(0.2)
    assert not centred[0]


def test_pieces_give_what_one_clip_gives(film: Path) -> None:
    moments = list(moments_of_file(film, config_of(), rate=2))
    whole = next(iter(moments_of_file(film, config_of(clip_frames=2600), rate=2)))
    waveform = whole.arrays["waveform"][: whole.arrays["samples"]]
    for moment in moments[:-6]:
        first = round((moment.centre - 0.2) * SAMPLE_RATE)
        if first + 6400 <= len(waveform):
            np.testing.assert_array_equal(heard(moment), waveform[first : first + 6400])


def test_a_model_of_one_image_takes_the_window_alone(film: Path) -> None:
    config = config_of(kind="cavmae", class_token=False, clip_frames=0)
    assert Sizes.of(config) == Sizes(40, 40)
    moment = next(iter(moments_of_file(film, config)))
    assert set(moment.arrays) == {"waveform", "samples", "image"}
    assert moment.arrays["image"].shape == (96, 96, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sound.wav", "video|image"),
        ("silent.mp4", "audio"),
        ("image.png", "no audio and no time"),
        ("still.mp4", "single image"),
        ("short.mp4", "shorter"),
    ],
)
def test_media_without_moments_are_refused(name: str, said: str, tmp_path: Path) -> None:
    write_media(tmp_path / "sound.wav", sound=tone(500, 2), audio_codec="pcm_s16le")
    write_media(tmp_path / "silent.mp4", frames=[numbered(number) for number in range(20)])
    Image.fromarray(numbered(77)).save(tmp_path / "image.png")
    write_media(tmp_path / "still.mp4", frames=[numbered(7)], sound=tone(500, 2))
    write_clip(tmp_path / "short.mp4", 0.3)
    with pytest.raises(ClipError, match=said):
        list(moments_of_file(tmp_path / name, config_of()))


@pytest.mark.parametrize("rate", [0, -1, 1000, float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate: float, film: Path) -> None:
    with pytest.raises(ValueError, match="above 0"):
        next(iter(moments_of_file(film, config_of(), rate)))


def test_a_clip_needs_times_audio_and_images() -> None:
    clip = Clip("x", np.zeros(SAMPLE_RATE, np.int16), (b"", b""), ())
    for broken, said in (
        (clip, "when"),
        (clip._replace(frames=()), "no images"),
        (clip._replace(waveform=clip.waveform[:0]), "when|no audio"),
    ):
        with pytest.raises(ClipError, match=said):
            next(iter(moments_of_clip(broken, config_of())))
