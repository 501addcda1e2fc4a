"""The offset of made-up vectors: its sign, parts of a step, and when one can't tell."""

import dataclasses

import numpy as np
import pytest

from avmae_jax.inference.offset import NOTHING, Calibration, Offset, Track, find_offset

STEP, D = 0.25, 12
EASY = Calibration(weights=(-4.0, 1.0, 1.0))


def moving(count: int, seed: int = 0) -> np.ndarray:
    """Returns vectors that change along time, like notes that last some steps: float32[count, D]."""
    notes = np.random.default_rng(seed).standard_normal((count // 3 + 2, D))
    return np.repeat(notes, 3, axis=0)[:count].astype(np.float32)


def apart(steps: int, count: int = 60, noise: float = 0.3, common: float = 0.0) -> tuple[Track, Track]:
    """Returns tracks of images and audio of which the audio comes `steps` later; all have something in common."""
    rng = np.random.default_rng(1)
    whole = moving(count + 40)
    image, audio = (whole[20 - shift : 20 - shift + count] + noise * rng.standard_normal((count, D)) + common for shift in (0, steps))
    times = np.arange(count) * STEP
    return Track.moving(times, image.astype(np.float32)), Track.moving(times, audio.astype(np.float32))


@pytest.mark.parametrize("steps", [-12, -5, 0, 3, 12])
def test_a_positive_offset_means_that_the_audio_comes_later(steps: int) -> None:
    found = find_offset(*apart(steps), EASY)
    assert found.seconds == pytest.approx(steps * STEP, abs=STEP / 2)
    assert found.certainty > 0.9
    assert ("the audio comes" in found.words()) == (steps > 0)


def test_a_part_of_a_step_is_found() -> None:
    fine, count = 8, 80
    kernel = np.hanning(3 * fine)
    whole = np.stack(
        [np.convolve(one, kernel, "same") for one in np.random.default_rng(0).standard_normal((D, (count + 40) * fine))], axis=1
    )
    starts = 20 * fine, 20 * fine - 11  # the audio comes 11 / 8 of a step later
    image, audio = (whole[start::fine][:count].astype(np.float32) for start in starts)
    times = np.arange(count) * STEP
    found = find_offset(Track.moving(times, image), Track.moving(times, audio), EASY)
    assert found.seconds == pytest.approx(11 / 8 * STEP, abs=0.04)


def test_what_all_moments_have_in_common_says_nothing() -> None:
    plain, shared = find_offset(*apart(4), EASY), find_offset(*apart(4, common=50.0), EASY)
    np.testing.assert_allclose(shared.scores, plain.scores, atol=1e-2)


def test_unrelated_audio_and_a_film_in_which_nothing_changes_give_no_answer() -> None:
    times = np.arange(60) * STEP
    image, other = Track.moving(times, moving(60)), Track.moving(times, moving(60, seed=5))
    assert find_offset(image, other, EASY).seconds is None
    still = Track.moving(times, np.tile(moving(1), (60, 1)))
    for pair in ((still, image), (image, still)):
        assert find_offset(*pair, EASY) is NOTHING
    assert "can't tell" in NOTHING.words()


def test_what_changes_slowly_and_out_of_step_does_not_hide_the_lag() -> None:
    """Gives images and audio a slow change, as of loudness, that is out of step and stronger than the notes by which moments differ."""
    rng, found = np.random.default_rng(7), []
    for steps in (-9, -4, 6, 11):
        notes, tracks = rng.standard_normal((140, D)), []
        for begin, late in ((20, 0), (20 - steps, 8)):
            rows = notes[begin : begin + 100] + 0.5 * rng.standard_normal((100, D))
            rows[:, 0] = 12 * np.sin(2 * np.pi * (np.arange(begin, begin + 100) - late) / 50)
            tracks.append(Track.moving(np.arange(100) * STEP, rows.astype(np.float32)))
        found.append(find_offset(*tracks).likeliest)
    assert found == pytest.approx([-9 * STEP, -4 * STEP, 6 * STEP, 11 * STEP], abs=STEP / 2)


def test_too_short_a_medium_gives_no_answer_and_a_longest_offset_of_nothing_is_refused() -> None:
    image, audio = apart(0, count=10)
    assert find_offset(image, audio, EASY) is NOTHING
    with pytest.raises(ValueError, match="above 0"):
        find_offset(image, audio, EASY, longest=0)


def test_few_lags_are_enough_and_a_step_is_the_least_longest_offset_that_is() -> None:
    for longest in (STEP, 2 * STEP):
        assert find_offset(*apart(0), EASY, longest=longest).likeliest == pytest.approx(0, abs=0.05)


def test_the_words_name_what_comes_later_and_call_both_as_the_reader_does() -> None:
    later = Offset(0.5, 0.81, 0.5, np.zeros(0), np.zeros(0))
    assert later.words() == "the audio comes 0.50 s later than the image (certainty 81%)"
    assert later.words("sound", "picture").startswith("the sound comes 0.50 s later than the picture")
    assert dataclasses.replace(later, seconds=-0.5).words().startswith("the image comes")
    assert "are in step" in Offset(-0.01, 0.81, -0.01, np.zeros(0), np.zeros(0)).words()


def test_an_offset_at_the_end_of_what_is_tried_is_no_answer() -> None:
    found = find_offset(*apart(8), EASY, longest=2.0)
    assert found.seconds is None
    assert found.likeliest == pytest.approx(2.0)


def test_windows_that_were_moved_inside_count_once_and_uneven_times_do_no_harm() -> None:
    image, audio = apart(6)
    rng = np.random.default_rng(2)
    keep = np.sort(rng.choice(60, 50, replace=False))
    twice = np.concatenate([[0, 0, 0], np.arange(60)])  # the first window again and again
    again = Track.moving(audio.times[twice], audio.vectors[twice])
    assert len(again.times) == 60
    found = find_offset(Track(image.times[keep], image.vectors[keep]), again, EASY)
    assert found.seconds == pytest.approx(6 * STEP, abs=STEP / 2)


def test_a_long_medium_needs_no_matrix() -> None:
    found: Offset = find_offset(*apart(-7, count=40_000), EASY)
    assert found.seconds == pytest.approx(-7 * STEP, abs=STEP / 2)
