"""Tests which audio channel is used."""

import dataclasses
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.many_clips import cut_clips
from avmae_jax.data.decode.one_clip import decode_audio, decode_clip
from tests.data.decode.tracks import Audio, write_tracks
from tests.media import loudest_hertz, tone

HEARD = ClipForm(seconds=1, allow_missing=True)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("codec", ["pcm_s16le", "flac", "aac"])
def test_the_channel_that_sounds_is_taken_where_the_first_is_silent(tmp_path: Path, rate: int, codec: str) -> None:
    sound = np.stack([np.zeros(3 * rate, np.float32), tone(500, 3, rate)])
    path = write_tracks(tmp_path / "x.mkv", Audio(sound, rate=rate, codec=codec, layout="stereo"))
    swapped = write_tracks(tmp_path / "y.mkv", Audio(sound[::-1], rate=rate, codec=codec, layout="stereo"))
    right, left = (decode_clip(file, clip_id="x", form=HEARD) for file in (path, swapped))
    assert (right.channel, left.channel) == (1, 0)
    for one, other in zip(*(cut_clips(file, clip_id="x", stride=1, form=HEARD) for file in (path, swapped)), strict=True):
        assert (one.channel, other.channel) == (1, 0)
        if codec != "aac":  # which doesn't code both channels alike
            assert np.abs(one.waveform.astype(int) - other.waveform).max() <= 2
    assert decode_audio(path)[8000:].std() == pytest.approx(16_384 / np.sqrt(2), rel=0.1)


def test_silence_is_the_first_channels(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.wav", Audio(np.zeros((6, 16_000), np.float32), codec="pcm_s16le", layout="5.1"))
    clip = decode_clip(path, clip_id="x", form=HEARD)
    assert (clip.channel, clip.waveform.any()) == (0, False)


@pytest.mark.parametrize(("begin", "channel"), [(0.5, 0), (1.2, 1)])
def test_only_the_first_clip_decides_its_channel(tmp_path: Path, begin: float, channel: int) -> None:
    sound = np.stack([tone(300, 3), tone(500, 3)])
    sound[0, : int(begin * 16_000)] = 0
    path = write_tracks(tmp_path / "x.wav", Audio(sound, codec="pcm_s16le", layout="stereo"))
    clip = decode_clip(path, clip_id="x", form=HEARD)
    assert clip.channel == channel
    assert clip.waveform[:4000].any() == bool(channel)


def test_each_window_takes_its_own_channel(tmp_path: Path) -> None:
    """Makes three channels: the first has a tone in the first second, the third in the next one, and the last second is silent."""
    sound = np.zeros((6, 3 * 16_000), np.float32)
    sound[0, :12_000] = sound[2, 22_000:28_000] = tone(500, 1)[:6_000].max()
    sound[4, 22_000:28_000] = 0.9
    path = write_tracks(tmp_path / "x.wav", Audio(sound, codec="pcm_s16le", layout="5.1"))
    clips = list(cut_clips(path, clip_id="x", stride=1, form=HEARD))
    assert [clip.channel for clip in clips] == [0, 2, 0]
    np.testing.assert_allclose(clips[1].waveform[:16_000] / 32_768, sound[2, 16_000:32_000], atol=1e-3)


def test_the_mean_is_of_all_channels(tmp_path: Path) -> None:
    sound = np.stack([tone(500, 1), np.zeros(16_000, np.float32)])
    path = write_tracks(tmp_path / "x.wav", Audio(sound, codec="pcm_s16le", layout="stereo"))
    clip = decode_clip(path, clip_id="x", form=ClipForm(seconds=1, allow_missing=True, channels="mean"))
    np.testing.assert_allclose(clip.waveform / 32_768, sound[0] / 2, atol=1e-3)


@pytest.mark.parametrize("codec", ["aac", "flac", "pcm_s16le", "pcm_s64le"])
@pytest.mark.parametrize(("layout", "count"), [("stereo", 2), ("7.1", 8)])
def test_audio_of_any_depth_and_many_channels_is_read(tmp_path: Path, codec: str, layout: str, count: int) -> None:
    """Writes frames of packed samples, since PyAV writes no planes of 8 channels; it crashes where it reads them."""
    sound = np.zeros((32_000, count), np.float32)
    sound[:, 1] = tone(500, 2)
    path = tmp_path / ("x.wav" if codec.startswith("pcm") else "x.mkv")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=16_000, layout=layout)
        frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts = 16_000, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    clip = decode_clip(path, clip_id="x", form=HEARD)
    assert clip.channel == 1
    assert loudest_hertz(clip.waveform) == pytest.approx(500, abs=2)
    mean = decode_clip(path, clip_id="x", form=dataclasses.replace(HEARD, channels="mean")).waveform
    assert mean[8000:].std() == pytest.approx(16_384 / np.sqrt(2) / count, rel=0.1)
