"""Long videos to many clips: each second once, the right frames, bounded memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avmae_jax.data.decode import many_clips
from avmae_jax.data.decode.audio import AudioLine
from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.many_clips import cut_clips
from avmae_jax.data.decode.one_clip import decode_clip
from avmae_jax.errors import ClipError
from tests.media import loudest_hertz, number_of, numbered, tone, write_clip, write_media


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6.7 s at 10 frames/s, another tone in every second."""
    sound = np.concatenate([tone(300 + 100 * second, 1) for second in range(7)])[: int(6.7 * 16_000)]
    return write_media(tmp_path_factory.mktemp("film") / "film.mp4", frames=[numbered(number) for number in range(67)], sound=sound)


def test_windows_have_their_own_seconds_and_frames(film: Path) -> None:
    clips = list(cut_clips(film, clip_id="film", labels=(3,), stride=1, form=ClipForm(seconds=1, frame_size=96)))
    assert [clip.id for clip in clips] == [f"film@{start}" for start in range(7)]
    assert {(clip.video, clip.labels) for clip in clips} == {("film", (3,))}
    for start, clip in enumerate(clips[:6]):
        assert clip.start == start
        assert loudest_hertz(clip.waveform[2000:14_000]) == pytest.approx(300 + 100 * start, abs=5)
        assert [number_of(frame) for frame in clip.frames] == [10 * start + max(0, i - 1) for i in range(10)]
        assert clip.frame_times == pytest.approx([max(0, i - 1) / 10 for i in range(10)])
    assert len(clips[6].waveform) == pytest.approx(0.7 * 16_000, abs=1100)  # AAC pads its last block
    assert [number_of(frame) for frame in clips[6].frames] == [60, 60, 61, 62, 63, 64, 65, 66][: len(clips[6].frames)]
    assert len(clips[6].frames) >= 7


def test_the_first_window_is_the_clip_that_decode_clip_gives(film: Path) -> None:
    for seconds in (1.0, 2.0, 5.0, 20.0):
        form = ClipForm(seconds=seconds)
        first, whole = next(cut_clips(film, clip_id="x", form=form)), decode_clip(film, clip_id="x", form=form)
        np.testing.assert_array_equal(first.waveform, whole.waveform)
        if seconds < 6.7:
            assert first.frames == whole.frames
            assert first.frame_times == pytest.approx(whole.frame_times)


@pytest.mark.parametrize(("seconds", "stride", "starts"), [(2, 1, [0, 1, 2, 3, 4, 5]), (1, 2.5, [0, 2.5, 5]), (4, 4, [0, 4]), (5, 5, [0])])
def test_overlaps_and_gaps(film: Path, seconds: float, stride: float, starts: list[float]) -> None:
    clips = list(cut_clips(film, clip_id="x", stride=stride, form=ClipForm(seconds=seconds, frame_size=96)))
    assert [clip.start for clip in clips] == starts
    for clip in clips:
        assert number_of(clip.frames[0]) == 10 * clip.start
        middle = clip.waveform[2000:6000]  # within one second, whole or half
        assert loudest_hertz(middle) == pytest.approx(300 + 100 * int(clip.start + 0.25), abs=5)


def test_frames_that_come_irregularly_are_found_by_time(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 1.0, 1.05, 1.1, 1.5, 1.9]
    path = write_media(
        tmp_path / "x.mkv", frames=[numbered(i) for i in range(8)], times=times, frame_rate=20, sound=tone(300, 2), audio_codec="flac"
    )
    first, second = cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96))
    # After .1 s frame 0 is over, after .2 s frame 1; frame 2 stays until 1.0 s.
    assert [number_of(frame) for frame in first.frames] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [number_of(frame) for frame in second.frames] == [3, 4, 4, 4, 4, 5, 5, 5, 5, 6]
    for clip in (first, second):
        assert clip.frame_times == pytest.approx([times[number_of(frame)] - clip.start for frame in clip.frames])


@pytest.mark.parametrize("count", [1, 4, 16])
def test_windows_have_as_many_frames_as_asked_for(film: Path, count: int) -> None:
    form = ClipForm(seconds=2, frames=count, frame_size=96)
    clips = list(cut_clips(film, clip_id="x", stride=2, form=form))
    assert [len(clip.frames) for clip in clips[:3]] == [count] * 3
    whole = decode_clip(film, clip_id="x", form=form)
    assert (clips[0].frames, clips[0].frame_times) == (whole.frames, pytest.approx(whole.frame_times))


@pytest.mark.slow
def test_memory_holds_a_window_however_long_the_film(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4", 60, size=48)
    held = 0
    append = AudioLine._append

    def watched(self: AudioLine, chunk: np.ndarray) -> None:
        nonlocal held
        append(self, chunk)
        held = max(held, sum(map(len, self._chunks)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AudioLine, "_append", watched)
        assert len(list(cut_clips(path, clip_id="x", stride=2, form=ClipForm(seconds=2, frame_size=48)))) == 30
    assert held < 6 * 16_000


def test_damage_anywhere_refuses_the_rest(tmp_path: Path) -> None:
    whole = write_media(tmp_path / "x.mkv", frames=[numbered(number) for number in range(90)], sound=tone(300, 9)).read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    clips = cut_clips(tmp_path / "half.mkv", clip_id="x", stride=1, form=ClipForm(seconds=1))
    assert next(clips).id == "x@0"
    with pytest.raises(ClipError, match=r"truncated|damaged"):
        list(clips)


def test_audio_and_video_of_other_lengths_are_refused_beyond_a_limit(tmp_path: Path) -> None:
    path = write_media(tmp_path / "x.mp4", frames=[numbered(i) for i in range(60)], sound=tone(300, 3))
    assert len(list(cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1)))) == 3
    with pytest.raises(ClipError, match=r"x\.mp4.*3\.\d+ s.*6\.00 s"):
        list(cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1, max_mismatch=2)))
    with pytest.raises(ClipError, match=r"x\.mp4.*3\.\d+ s.*6\.00 s.*10 s"):
        decode_clip(path, clip_id="x", form=ClipForm(max_mismatch=2))
    assert len(decode_clip(path, clip_id="x").frames) == 10
    assert len(decode_clip(path, clip_id="x", form=ClipForm(seconds=3, max_mismatch=0.2)).frames) == 10


def test_the_one_modality_that_there_is_is_cut_as_beside_the_other(film: Path, tmp_path: Path) -> None:
    both = list(cut_clips(film, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96)))
    sound = write_media(tmp_path / "x.wav", sound=np.concatenate([tone(300 + 100 * k, 1) for k in range(4)]), audio_codec="pcm_s16le")
    heard = list(cut_clips(sound, clip_id="x", stride=1, form=ClipForm(seconds=1, allow_missing=True)))
    assert [(clip.start, clip.modality) for clip in heard] == [(start, "audio") for start in range(4)]
    assert [loudest_hertz(clip.waveform[2000:14_000]) for clip in heard] == pytest.approx([300, 400, 500, 600], abs=5)
    silent = write_media(tmp_path / "x.mp4", frames=[numbered(number) for number in range(67)])
    seen = list(cut_clips(silent, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96, allow_missing=True)))
    assert {clip.modality for clip in seen} == {"image"}
    assert [[number_of(frame) for frame in clip.frames] for clip in seen] == [[number_of(frame) for frame in clip.frames] for clip in both]
    for path in (sound, silent):
        with pytest.raises(ClipError, match=path.name):
            next(cut_clips(path, clip_id="x"))


def test_an_image_file_is_one_clip(tmp_path: Path) -> None:
    Image.fromarray(numbered(77)).save(tmp_path / "x.png")
    (clip,) = cut_clips(tmp_path / "x.png", clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96, allow_missing=True))
    assert (clip.id, clip.video, clip.start, len(clip.waveform), number_of(clip.frames[0])) == ("x@0", "x", 0, 0, 77)
    with pytest.raises(ClipError, match=r"x\.png"):
        next(cut_clips(tmp_path / "x.png", clip_id="x"))


def test_with_both_there_allowing_one_changes_nothing(film: Path) -> None:
    for one, other in zip(
        *(cut_clips(film, clip_id="x", stride=1, form=ClipForm(seconds=2, allow_missing=allow)) for allow in (False, True)), strict=True
    ):
        np.testing.assert_array_equal(one.waveform, other.waveform)
        assert one._replace(waveform=None) == other._replace(waveform=None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("stride", [1.0, 2.0])
def test_windows_between_far_apart_frames_show_what_is_on_display(stride: float, tmp_path: Path) -> None:
    """Slides: a frame every 3 s, for 12 s; windows of 2 s."""
    path = write_media(
        tmp_path / "x.mkv",
        frames=[numbered(i) for i in range(5)],
        times=[0, 3, 6, 9, 11.9],
        frame_rate=10,
        sound=tone(300, 12),
        audio_codec="flac",
    )
    clips = list(cut_clips(path, clip_id="x", stride=stride, form=ClipForm(seconds=2, frame_size=96)))
    assert len(clips) == 12 / stride
    for clip in clips:
        assert len(clip.frames) == 10 or clip.start + 2 > 11.5
        # The first frame of a window is the one that is shown at its start, or comes within its first tenth.
        assert number_of(clip.frames[0]) == min(int((clip.start + 0.19) // 3), 4)
        assert clip.frame_times[0] in (0, pytest.approx(0.9))  # of the last frame, which comes at 11.9 s
        assert list(clip.frame_times) == sorted(clip.frame_times)


def test_the_length_of_each_clip_is_told(film: Path, tmp_path: Path) -> None:
    for path, frames in ((film, None), (write_media(tmp_path / "mute.mp4", frames=[numbered(i) for i in range(67)]), "only")):
        lengths = [length for _, length in many_clips.cut_timed(path, clip_id="x", stride=2, form=ClipForm(seconds=2, allow_missing=True))]
        assert lengths[:3] == [2, 2, 2], frames
        assert lengths[3:] == pytest.approx([0.7] if len(lengths) > 3 else [], abs=0.1)
