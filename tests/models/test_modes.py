"""Modes of a classifier: found by what is given or by official name."""

import pytest

from avmae_jax.models.modes import MODES, MULTIMODAL, find_mode, learned

BY_NAME = {mode.name: mode for mode in MODES}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_mode_is_found_by_its_official_name_under_which_it_prints(name: str) -> None:
    assert find_mode(name) is BY_NAME[name]
    assert str(BY_NAME[name]) == name


@pytest.mark.parametrize(
    ("given", "tuned", "found"),
    [
        ("both", None, "multimodal"),
        ("audio", None, "audioonly"),
        ("image", None, "videoonly"),
        ("both", "multimodal", "multimodal"),
        ("audio", "multimodal", "missingaudioonly"),
        ("image", "multimodal", "missingvideoonly"),
        ("audio", "audioonly", "audioonly"),
        ("image", "videoonly", "videoonly"),
    ],
)
def test_what_is_given_means_what_the_model_was_tuned_for(given: str, tuned: str | None, found: str) -> None:
    assert find_mode(given, tuned=BY_NAME[tuned] if tuned else None).name == found


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'sound'.*both, audio, image, multimodal, audioonly, videoonly, missingaudioonly"):
        find_mode("sound")


@pytest.mark.parametrize("given", ["both", "image"])
def test_what_the_tuning_does_not_prepare_for_is_refused_by_what_is_given_but_not_by_its_official_name(given: str) -> None:
    with pytest.raises(ValueError, match=f"'{given}'.*audioonly.*audio"):
        find_mode(given, tuned=BY_NAME["audioonly"])
    assert find_mode("videoonly", tuned=BY_NAME["audioonly"]) is BY_NAME["videoonly"]


def test_tuning_on_both_prepares_for_a_missing_modality_and_tuning_on_one_for_that_alone() -> None:
    assert [str(mode) for mode in learned(MULTIMODAL)] == ["multimodal", "missingaudioonly", "missingvideoonly"]
    assert learned(BY_NAME["audioonly"]) == (BY_NAME["audioonly"],)


def test_streams_of_a_missing_modality_are_averaged() -> None:
    assert {mode.name for mode in MODES if mode.fallback} == {"missingaudioonly", "missingvideoonly"}
    assert {mode.name: mode.given for mode in MODES if not mode.fallback} == {
        "multimodal": "both",
        "audioonly": "audio",
        "videoonly": "image",
    }
