"""Tests that audio and images meet at the moment that the time stamps give, in every reader."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avmae_jax.data.decode import streams
from avmae_jax.data.decode.clock import Clock
from avmae_jax.data.decode.form import ClipForm
from avmae_jax.data.decode.many_clips import cut_clips, cut_timed
from avmae_jax.data.decode.one_clip import Shots, decode_clip
from avmae_jax.errors import ClipError
from tests.data.decode.tracks import Audio, Move, Video, write_tracks
from tests.media import number_of, numbered, tone, write_clip

RATE = 16_000


def beeping(seconds: float, at: float) -> np.ndarray:
    """Makes a quiet tone that is loud for a tenth of a second."""
    sound = tone(300, seconds, amplitude=0.05)
    sound[int(at * RATE) : int((at + 0.1) * RATE)] = tone(1000, 0.1, amplitude=0.8)
    return sound


def beep(waveform: np.ndarray) -> float:
    """Finds the second at which the loud tone begins."""
    return int(np.argmax(np.abs(waveform.astype(int)) > 16_000)) / RATE


def film(seconds: float) -> Video:
    return Video([numbered(number) for number in range(round(10 * seconds))])


def later(by: float, since: float = 0.0) -> Move:
    return lambda seconds: seconds + by if seconds >= since else seconds


def whole(path: Path) -> np.ndarray:
    """Joins the audio of windows that follow each other to that of the whole file."""
    clips = list(cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96, allow_missing=True)))
    parts = [clip.waveform if len(clip.waveform) else np.zeros(RATE, np.int16) for clip in clips]
    return np.concatenate([*(part[:RATE] for part in parts[:-1]), parts[-1]])


@pytest.mark.parametrize("name", ["x.mkv", "x.mov"])
def test_audio_that_begins_late_has_silence_before_it(tmp_path: Path, name: str) -> None:
    path = write_tracks(tmp_path / name, film(6), Audio(beeping(4.5, 2), codec="pcm_s16le", move=later(1.5)))
    for waveform in (decode_clip(path, clip_id="x").waveform, whole(path)):
        assert not waveform[: int(1.49 * RATE)].any()
        assert beep(waveform) == pytest.approx(3.5, abs=0.003)
        assert len(waveform) == pytest.approx(6 * RATE, abs=32)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_gap_is_silence(tmp_path: Path, rate: int) -> None:
    sound = np.interp(np.arange(4 * rate) / rate * RATE, np.arange(4 * RATE), beeping(4, 3)).astype(np.float32)
    path = write_tracks(tmp_path / "x.mkv", film(5), Audio(sound, rate=rate, move=later(1, since=2)))
    waveform = decode_clip(path, clip_id="x").waveform
    np.testing.assert_array_equal(waveform, whole(path))
    assert beep(waveform) == pytest.approx(4, abs=0.003)
    assert not waveform[int(2.15 * RATE) : int(2.95 * RATE)].any()
    (clip,) = (clip for clip in cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96)) if clip.start == 4)
    assert number_of(clip.frames[0]) == 40
    assert beep(clip.waveform) < 0.003


def test_an_overlap_is_cut(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(4), Audio(beeping(4, 3), move=later(-0.5, since=2)))
    waveform = decode_clip(path, clip_id="x").waveform
    assert beep(waveform) == pytest.approx(2.5, abs=0.003)
    assert len(waveform) == pytest.approx(3.5 * RATE, abs=32)


def test_rounded_stamps_change_no_sample(tmp_path: Path) -> None:
    """Blocks of 100 ms up to 20 ms beside their moment, 30 s long."""
    sound = tone(300, 30)
    jitter = np.random.default_rng(0).uniform(0, 0.02, 400)
    plain = write_tracks(tmp_path / "x.mkv", Audio(sound))
    shaken = write_tracks(tmp_path / "y.mkv", Audio(sound, move=lambda seconds: seconds + jitter[round(seconds * 10)]))
    np.testing.assert_array_equal(whole(plain), whole(shaken))
    assert len(whole(plain)) == 30 * RATE


def test_a_clock_that_runs_slower_is_followed(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(31), Audio(beeping(30, 29.5), move=lambda seconds: seconds * 1.01))
    (clip,) = (c for c in cut_clips(path, clip_id="x", stride=29, form=ClipForm(seconds=1, frame_size=96)) if c.start == 29)
    assert clip.start + beep(clip.waveform) == pytest.approx(29.5 * 1.01, abs=0.05)


def test_a_video_that_begins_late_waits_for_nobody(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(3)._replace(move=later(2)), Audio(beeping(5, 4)))
    clip = decode_clip(path, clip_id="x", form=ClipForm(seconds=5, frame_size=96))
    assert beep(clip.waveform) == pytest.approx(4, abs=0.003)
    assert [number_of(frame) for frame in clip.frames] == [0, 0, 0, 0, 0, 4, 9, 14, 19, 24]
    assert clip.frame_times == pytest.approx([2 + number_of(frame) / 10 for frame in clip.frames])
    form = ClipForm(seconds=1, frame_size=96, allow_missing=True)
    parts = list(cut_clips(path, clip_id="x", stride=1, form=form))
    assert [clip.modality for clip in parts] == ["audio", "audio", "both", "both", "both"]
    assert [number_of(clip.frames[0]) for clip in parts[2:]] == [0, 10, 20]
    both = list(cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96)))
    assert [clip.start for clip in both] == [2, 3, 4]


@pytest.mark.parametrize("seen", [2.0, 5.0])
def test_windows_span_the_longer_stream(tmp_path: Path, seen: float) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(seen), Audio(tone(300, 7 - seen)))
    form = ClipForm(seconds=1, frame_size=96, allow_missing=True)
    clips = [clip.modality for clip in cut_clips(path, clip_id="x", stride=1, form=form)]
    assert clips == ["both"] * 2 + ["audio" if seen == 2 else "image"] * 3
    assert len(list(cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96)))) == 2


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_still_stays_for_the_whole_file(tmp_path: Path, name: str, frames: int) -> None:
    video = Video([numbered(77)] * frames, move=lambda _: 0.0) if name == "x.mkv" else Video([numbered(77)])
    path = write_tracks(tmp_path / name, video, Audio(tone(300, 5), codec="aac"))
    form = ClipForm(seconds=1, frame_size=96, allow_missing=True, max_mismatch=2)
    clips = list(cut_clips(path, clip_id="x", stride=1, form=form))
    assert len(clips) == 5
    for clip in [*clips, decode_clip(path, clip_id="x", form=form), *cut_clips(path, clip_id="x", stride=1, form=form)]:
        assert [number_of(frame) for frame in clip.frames] == [77] * 10
        assert clip.modality == "both"


@pytest.mark.slow
@pytest.mark.parametrize("seen", [0.1, 4.0])
def test_a_long_song_with_little_to_see_is_cut_as_it_is_read(tmp_path: Path, seen: float, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(seen), Audio(tone(300, 120)))
    reached = []
    real = streams.Reader.pieces

    def watched(self: streams.Reader) -> object:
        for piece in real(self):
            reached.append(piece.time)
            yield piece

    monkeypatch.setattr(streams.Reader, "pieces", watched)
    clips = cut_timed(path, clip_id="x", stride=1, form=ClipForm(seconds=1, allow_missing=True), rest="whole")
    for _ in range(20):
        next(clips)
    assert max(reached) < 40
    assert len(list(clips)) == 100


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi"])
@pytest.mark.parametrize(("seconds", "stride"), [(2, 2), (2, 1), (1.5, 1.5), (3, 0.7)])
def test_the_last_whole_window_ends_with_the_file(tmp_path: Path, name: str, seconds: float, stride: float) -> None:
    path = write_tracks(tmp_path / name, film(5.3), Audio(beeping(5.3, 5), codec="pcm_s16le" if name != "x.mp4" else "aac"))
    form = ClipForm(seconds=seconds, frame_size=96, allow_missing=True)
    timed = list(cut_timed(path, clip_id="x", stride=stride, form=form, rest="whole"))
    assert [length for _, length in timed] == [seconds] * len(timed)
    end = max(5.3, len(decode_clip(path, clip_id="x").waveform) / RATE)
    last = timed[-1][0]
    assert last.start == pytest.approx(end - seconds, abs=1e-3)
    assert [clip.start for clip, _ in timed[:-1]] == pytest.approx([stride * k for k in range(len(timed) - 1)])
    assert last.start + beep(last.waveform) == pytest.approx(5, abs=0.07)
    due = [last.start + index * seconds / 10 for index in range(10)]
    assert [number_of(frame) for frame in last.frames[1:]] == [
        max(int(moment * 10 + 1e-9) - 1, int(np.ceil(due[0] * 10))) for moment in due[1:]
    ]


def test_nothing_is_repeated_where_the_last_window_ends_with_the_file(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(4), Audio(tone(300, 4)))
    form = ClipForm(seconds=2, allow_missing=True)
    assert [clip.start for clip, _ in cut_timed(path, clip_id="x", stride=2, form=form, rest="whole")] == [0, 2]
    ((clip, length),) = cut_timed(path, clip_id="x", stride=5, form=ClipForm(seconds=5, allow_missing=True), rest="whole")
    assert (clip.start, length) == (0, pytest.approx(4, abs=0.01))


@pytest.mark.parametrize(("images", "sound"), [(4, 6.1), (6.1, 4), (1, 40)])
@pytest.mark.parametrize("name", ["x.mkv", "x.avi"])
def test_windows_span_the_stream_that_is_asked_for(tmp_path: Path, name: str, images: float, sound: float) -> None:
    path = write_tracks(tmp_path / name, film(images), Audio(tone(300, sound), codec="pcm_s16le"))
    for spans, end in (("audio", sound), ("image", images), ("shorter", min(images, sound)), ("longer", max(images, sound))):
        form = ClipForm(seconds=2.5, frame_size=96, allow_missing=True, spans=spans)  # pyright: ignore[reportArgumentType]
        timed = list(cut_timed(path, clip_id="x", stride=2.5, form=form, rest="whole"))
        (last, length), count = timed[-1], max(1, int(np.ceil((end - 0.01) / 2.5)))
        assert (len(timed), last.start + length) == (count, pytest.approx(end, abs=0.02))
        if last.start < images:
            shown = [last.start * 10 <= number_of(frame) + 1 <= (last.start + 2.5) * 10 + 1 for frame in last.frames]
            assert shown
            assert all(shown)
    both = list(cut_timed(path, clip_id="x", stride=2.5, form=ClipForm(seconds=2.5, frame_size=96, allow_missing=True), rest="whole"))
    assert len(both) == np.ceil(max(images, sound) / 2.5)


def test_a_file_without_the_stream_that_is_asked_for_is_spanned_whole(tmp_path: Path) -> None:
    still = write_tracks(tmp_path / "still.mkv", film(0.1), Audio(tone(300, 4)))
    for path, spans in ((write_tracks(tmp_path / "x.mkv", film(4)), "audio"), (still, "image")):
        form = ClipForm(seconds=2, frame_size=96, allow_missing=True, spans=spans)  # pyright: ignore[reportArgumentType]
        assert [clip.start for clip, _ in cut_timed(path, clip_id="x", stride=2, form=form, rest="whole")] == [0, 2]


def test_times_choose_frames_where_the_rate_varies(tmp_path: Path) -> None:
    """Writes four frames in 4 s, then twenty a second."""
    path = write_tracks(
        tmp_path / "x.mkv",
        Video([numbered(i) for i in range(44)], move=lambda t: 10 * t if t < 0.4 else 4 + (t - 0.4) / 2),
        Audio(tone(300, 6)),
    )
    by_time = decode_clip(path, clip_id="x", form=ClipForm(seconds=4, frames=4, frame_size=96))
    assert [number_of(frame) for frame in by_time.frames] == [0, 0, 1, 2]
    (window, *_) = cut_clips(path, clip_id="x", stride=4, form=ClipForm(seconds=4, frames=4, frame_size=96))
    assert (window.frames, window.frame_times) == (by_time.frames, by_time.frame_times)
    counted = decode_clip(path, clip_id="x", form=ClipForm(seconds=4, frames=4, frame_size=96, frame_rule="count"))
    assert max(number_of(frame) for frame in counted.frames) > 10
    with pytest.raises(ValueError, match=r"frame_rule.*count"):
        next(cut_clips(path, clip_id="x", form=ClipForm(frame_rule="count")))


def test_restarted_stamps_go_on(tmp_path: Path) -> None:
    """Joins two transport streams with the same time stamps."""
    part = write_tracks(tmp_path / "x.ts", film(3)._replace(codec="mpeg2video"), Audio(tone(300, 3), codec="aac")).read_bytes()
    (tmp_path / "y.ts").write_bytes(part + part)
    clips = list(cut_clips(tmp_path / "y.ts", clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96)))
    assert len(clips) == 6
    assert [number_of(clip.frames[5]) // 10 for clip in clips] == [0, 1, 2, 0, 1, 2]


def test_stamps_that_are_damage_are_refused(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "x.mkv", film(2)._replace(move=later(1e6, since=1)), Audio(tone(300, 2)))
    clock = Clock(restarts=False)
    clock.start({"audio": Fraction(0)}, Fraction(0))
    with pytest.raises(ValueError, match="jump"):
        clock.place("audio", Fraction(10**6), Fraction(1))
    with pytest.raises(ClipError):
        list(cut_clips(path, clip_id="x", stride=1000, form=ClipForm(seconds=1)))


def test_what_lies_beyond_the_first_clip_is_told(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4", 5)
    assert decode_clip(path, clip_id="x", form=ClipForm(seconds=2)).beyond == pytest.approx(3, abs=0.1)
    assert decode_clip(path, clip_id="x", form=ClipForm(seconds=10)).beyond == 0


def test_frames_that_an_avi_dropped_leave_their_time(tmp_path: Path) -> None:
    """Reads an AVI with dropped frames, which are empty packets that only move the stamps of the following ones."""
    film_with_gap = Video([numbered(number) for number in (*range(30), *range(70, 120))], move=later(4, since=3))
    path = write_tracks(tmp_path / "x.avi", film_with_gap, Audio(tone(300, 12), codec="mp3"))
    form = ClipForm(frame_size=96)
    for clip in (decode_clip(path, clip_id="x", form=form), *cut_clips(path, clip_id="x", form=form)):
        assert [number_of(frame) for frame in clip.frames] == pytest.approx([10 * time for time in clip.frame_times])
        assert clip.frame_times[-1] == pytest.approx(9, abs=0.2)
        assert clip.frame_times[4] == pytest.approx(2.9, abs=0.11)


@pytest.mark.parametrize("name", ["x.flv", "x.wmv"])
def test_a_stream_that_begins_late_is_cut_to_its_end(tmp_path: Path, name: str) -> None:
    """Cuts files whose streams begin late. FLV can't be searched without an index; ASF gives each stream the length of the whole file."""
    frames, sound = [numbered(number) for number in range(30, 90)], tone(300, 9, rate=44_100)
    audio = Audio(sound, rate=44_100, codec="aac" if name == "x.flv" else "wmav2")
    path = write_tracks(tmp_path / name, Video(frames, codec="flv" if name == "x.flv" else "wmv2", move=later(3)), audio)
    form = ClipForm(seconds=5, frame_size=96, allow_missing=True)
    *_, clip = cut_clips(path, clip_id="x", stride=5, form=form)
    *_, (last, _) = cut_timed(path, clip_id="x", stride=5, form=form, rest="whole")
    assert clip.frames
    assert number_of(last.frames[-1]) == pytest.approx(85, abs=2)


@pytest.mark.parametrize("late", ["audio", "video"])
def test_what_begins_behind_the_clip_is_named_with_its_time(tmp_path: Path, late: str) -> None:
    moves = {late: later(3.5)}
    tracks = film(2)._replace(move=moves.get("video", later(0))), Audio(tone(300, 2), move=moves.get("audio", later(0)))
    path = write_tracks(tmp_path / "x.mkv", *tracks)
    with pytest.raises(ClipError, match=rf"{late} within the first 2 s.* 3\.5"):
        decode_clip(path, clip_id="x", form=ClipForm(seconds=2))
    assert decode_clip(path, clip_id="x", form=ClipForm(seconds=2, allow_missing=True)).modality != "both"


def test_frames_behind_a_gap_in_a_program_stream_have_their_time_from_its_next_stamp_on(tmp_path: Path) -> None:
    """Such a stream has one stamp a packet; of the frames that share it, those behind the gap can't be told from those before."""
    noise = np.random.default_rng(0).integers(-60, 60, (48, 192, 192, 3))
    frames = [np.clip(numbered(n // 2, 192) + noise[n % 48], 0, 255).astype(np.uint8) for n in range(100)]
    video = Video(frames, rate=25, codec="mpeg2video", move=later(4, since=2))
    path = write_tracks(tmp_path / "x.mpg", video, Audio(tone(300, 8, 48_000), rate=48_000, codec="mp2"))
    clips = list(cut_clips(path, clip_id="x", stride=1, form=ClipForm(seconds=1, frame_size=96)))
    for clip, second in zip(clips, range(8), strict=False):
        seen = [number_of(frame) * 2 / 25 for frame in clip.frames]
        if second not in (2, 3, 4, 5, 6):
            right = [second - (4 if second > 6 else 0) + moment for moment in clip.frame_times]
            assert seen == pytest.approx(right, abs=0.09)


def not_coded(packet: bytes) -> bytes:
    """Returns the packet of MPEG-4 that repeats the frame before: the header of a frame whose content is left out, at 10 frames/s."""
    at = packet.index(b"\x00\x00\x01\xb6") + 4
    bits = "".join(f"{byte:08b}" for byte in packet[at : at + 4])
    end = bits.index("0", 2) + 1 + 1 + 4 + 1  # seconds, a marker, tenths, a marker
    bits = f"01{bits[2:end]}00"
    bits += "1" * (-len(bits) % 8)
    return packet[at - 4 : at] + int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("name", ["x.avi", "x.mkv", "x.mp4"])
def test_repeated_frames_take_their_time(tmp_path: Path, name: str, empty: bool) -> None:
    """Repeats every second frame of three seconds, as encoders do where nothing moves: by packets that are empty or say so."""
    shown = [number - number % 2 * (4 < number < 30) for number in range(60)]
    source = write_tracks(tmp_path / f"source{name}", Video([numbered(number) for number in shown]))
    path = tmp_path / name
    with av.open(str(source)) as whole, av.open(str(path), "w") as changed:
        stream = changed.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(packet for packet in whole.demux(video=0) if packet.size):
            repeats = number % 2 and 4 < number < 30
            content = bytes(packet)
            new = av.Packet((b"" if empty else not_coded(content)) if repeats else content)
            new.pts, new.dts, new.time_base, new.duration, new.is_keyframe = (
                packet.pts, packet.dts, packet.time_base, packet.duration, packet.is_keyframe
            )  # fmt: skip
            new.stream = stream
            changed.mux(new)
    form = ClipForm(frame_size=96, seconds=6, frames=20, allow_missing=True)
    for clip in (decode_clip(path, clip_id="x", form=form), *cut_clips(path, clip_id="x", form=form)):
        assert [number_of(frame) for frame in clip.frames] == [shown[round(10 * time)] for time in clip.frame_times]
        assert clip.frame_times[-1] == pytest.approx(5.7, abs=0.21)


def test_a_rate_on_the_verge_of_constant_reads_no_frame_behind_the_clip() -> None:
    """Shows all frames but the first 20 half a frame early: at 25 frames the rate varies, at 26 it doesn't."""

    class Stream:
        average_rate = guessed_rate = 25
        frames, duration, time_base, sample_aspect_ratio = 0, None, None, None

    shots = Shots(Stream(), ClipForm(seconds=1, frames=4, frame_size=8))  # pyright: ignore[reportArgumentType]
    times = [Fraction(number, 25) - (Fraction(1, 50) if number >= 20 else 0) for number in range(75)]
    taken = next(number for number, time in enumerate(times) if shots.add(av.VideoFrame(8, 8, "rgb24"), time))
    assert times[taken] < Fraction(11, 10)
    assert max(times[index] for index in shots.indices()) < 1
