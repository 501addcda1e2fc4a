"""The beginning of a media file becomes a clip as long as a model's input."""

from pathlib import Path

import pytest

from avmae_jax.config import ModelConfig
from avmae_jax.data.fbank import num_samples
from avmae_jax.errors import ClipError
from avmae_jax.inference.windows import decode_beginning
from tests.media import numbered, tone, write_clip, write_media

MODEL = ModelConfig(audio_frames=64, image_size=32)  # 0.625 s


def test_the_beginning_fills_the_input(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "x.mp4", 2.0)
    clip = decode_beginning(file, MODEL)
    assert (clip.id, len(clip.waveform)) == (str(file), num_samples(64))
    assert clip.frame_times[-1] < 0.7
    assert len(clip.frames) == 10


@pytest.mark.parametrize(("needs", "lacking"), [("audio", "audio"), ("image", "images"), ("both", "(audio|images)")])
def test_what_is_needed_and_missing_is_named(tmp_path: Path, needs: str, lacking: str) -> None:
    mute = write_media(tmp_path / "mute.mp4", frames=[numbered(0)] * 9)
    deaf = write_media(tmp_path / "tone.wav", sound=tone(440, 1.0), audio_codec="pcm_s16le")
    files = {"audio": [mute], "image": [deaf], "both": [mute, deaf]}[needs]
    for file in files:
        assert decode_beginning(file, MODEL).modality == ("image" if file is mute else "audio")
        with pytest.raises(ClipError, match=rf"{file.name}.*{lacking}"):
            decode_beginning(file, MODEL, needs)  # pyright: ignore[reportArgumentType]
