"""Tests how media are cut into windows as long as a model's input, each with the modalities that it has."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avmae_jax.config import Config, DataConfig, ModelConfig
from avmae_jax.data.fbank import num_samples
from avmae_jax.errors import ClipError
from avmae_jax.inference.windows import Row, decode_beginning, of_file, of_parts, rows_of
from tests.media import numbered, tone, write_clip, write_media

CONFIG = Config(model=ModelConfig(audio_frames=64, image_size=32))  # 0.64 s
SAMPLES = num_samples(64)


def rows(medium: Any, **options: Any) -> list[Row]:
    return list(rows_of(medium, 0, CONFIG, **options))


def test_the_beginning_fills_the_input(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "x.mp4", 2.0)
    clip = decode_beginning(file, CONFIG)
    assert (clip.id, len(clip.waveform)) == (str(file), num_samples(64))
    assert clip.frame_times[-1] < 0.7
    assert len(clip.frames) == 10


@pytest.mark.parametrize(("needs", "lacking"), [("audio", "audio"), ("image", "images"), ("both", "(audio|images)")])
def test_what_is_needed_and_missing_is_named(tmp_path: Path, needs: str, lacking: str) -> None:
    mute = write_media(tmp_path / "mute.mp4", frames=[numbered(0)] * 9)
    deaf = write_media(tmp_path / "tone.wav", sound=tone(440, 1.0), audio_codec="pcm_s16le")
    files = {"audio": [mute], "image": [deaf], "both": [mute, deaf]}[needs]
    for file in files:
        assert decode_beginning(file, CONFIG).modality == ("image" if file is mute else "audio")
        with pytest.raises(ClipError, match=rf"{file.name}.*{lacking}"):
            decode_beginning(file, CONFIG, needs)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("timeline", [False, True])
@pytest.mark.parametrize("seconds", [0.64, 0.7, 1.0, 1.28, 1.9, 3.3])
def test_windows_are_whole_and_reach_the_end(seconds: float, timeline: bool, tmp_path: Path) -> None:
    audio = tone(440, seconds)
    media = [of_parts(audio, None), of_file(write_media(tmp_path / "x.wav", sound=audio, audio_codec="pcm_s16le"))]
    (arrays, files) = ([row for row in rows(medium, timeline=timeline) if timeline == (row.series == "seconds")] for medium in media)
    assert [row.start for row in arrays] == pytest.approx([row.start for row in files], abs=1e-4)
    starts = np.array([row.start for row in arrays])
    step = 1.0 if timeline else 0.64
    np.testing.assert_allclose(starts[:-1], step * np.arange(len(starts) - 1))
    assert starts[-1] + 0.64 == pytest.approx(seconds, abs=0.05)
    for row, same in zip(arrays, files, strict=True):
        assert row.arrays["samples"] == SAMPLES
        assert (row.seconds, same.seconds) == pytest.approx((0.64, 0.64), abs=1e-3)
        begin = round(row.start * 16_000)
        there = np.rint(audio[begin : begin + SAMPLES] * 32_768)
        np.testing.assert_allclose(row.arrays["waveform"][: len(there)], there, atol=1)


def test_audio_that_is_too_short_is_repeated() -> None:
    (row,) = rows(of_parts(tone(440, 0.25), None))
    (padded,) = rows(of_parts(tone(440, 0.25), None), fill="zeros")
    assert row.seconds == padded.seconds == 0.25
    np.testing.assert_array_equal(row.arrays["waveform"], np.resize(padded.arrays["waveform"][:4000], SAMPLES))
    assert (row.arrays["samples"], padded.arrays["samples"]) == (SAMPLES, 4000)
    assert not padded.arrays["waveform"][4000:].any()


def test_windows_span_the_longer_of_audio_and_images(tmp_path: Path) -> None:
    film = [numbered(number) for number in range(10)]  # 1 s
    longer_audio = rows(of_file(write_media(tmp_path / "a.mp4", frames=film, sound=tone(440, 3.2))))
    assert [row.has for row in longer_audio][:1] + [row.has for row in longer_audio][-3:] == ["both", "audio", "audio", "audio"]
    assert longer_audio[-1].start + 0.64 == pytest.approx(3.2, abs=0.1)
    longer_film = rows(of_file(write_media(tmp_path / "b.mp4", frames=film * 3, sound=tone(440, 1.28))))
    assert [row.has for row in longer_film][:2] + [row.has for row in longer_film][-2:] == ["both", "both", "image", "image"]


def test_audio_that_ends_inside_a_window_is_followed_by_silence(tmp_path: Path) -> None:
    file = write_media(tmp_path / "x.mov", frames=[numbered(i) for i in range(20)], sound=tone(440, 0.75), audio_codec="pcm_s16le")
    second = rows(of_file(file))[1]
    waveform, heard = second.arrays["waveform"], round((0.75 - second.start) * 16_000)
    assert (second.has, second.arrays["samples"]) == ("both", SAMPLES)
    assert np.abs(waveform[: heard - 200]).max() > 10_000
    assert np.abs(waveform[heard + 200 :]).max() < 10


def test_a_single_frame_stays_for_the_whole_audio(tmp_path: Path) -> None:
    cover = rows(of_file(write_media(tmp_path / "cover.mp4", frames=[numbered(7)], sound=tone(440, 2.56))))
    assert len(cover) >= 4
    assert {row.has for row in cover} == {"both"}
    assert len({row.arrays["image"].tobytes() for row in cover}) == 1


def test_another_channel_is_used_where_the_first_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    left, right = np.zeros(20_480, np.float32), tone(440, 1.28)
    with caplog.at_level(logging.WARNING, logger="absl"):
        first = rows(of_parts(np.stack([left, right], axis=1), None))
    assert caplog.text.count("channel 2") == 1
    caplog.clear()
    config = Config(model=CONFIG.model, data=DataConfig(channels="mean"))
    mean = list(rows_of(of_parts(np.stack([left, right], axis=1), None), 0, config))
    alone = rows(of_parts(right, None))
    for one, both, half in zip(alone, first, mean, strict=True):
        np.testing.assert_array_equal(one.arrays["waveform"], both.arrays["waveform"])
        np.testing.assert_allclose(one.arrays["waveform"] / 2, half.arrays["waveform"], atol=1)
    assert not caplog.text
