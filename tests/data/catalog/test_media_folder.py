"""Tests that files of a folder are found for listed clips by the usual names, each at most once."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.data.catalog.media_folder import Listed, look_up
from tests.data.catalog.lists import X, Y, Z, paths, touch


def found(folder: Path, start: float | None, end: float | None, *names: str, video: str = X) -> str | None:
    clip = Listed("id", "train", video, start, end, (), "list", "line 1")
    return paths(look_up("some", (), [clip], touch(folder, *names))).get("id")


NAMES = ["{}", "Y{}", "{}_30", "{}_30.000", "{}_000030", "{}_30000", "{}_30_40", "{}_30.0_40.0", "{}_30000_40000", "{}_000030_000040"]


@pytest.mark.parametrize("video", [X, Y, Z])
@pytest.mark.parametrize("name", NAMES)
def test_the_usual_names_are_found_at_any_depth(tmp_path: Path, name: str, video: str) -> None:
    path = f"deep/er/{name.format(video)}.webm"
    assert found(tmp_path / "m", 30.0, 40.0, path, video=video) == path
    assert found(tmp_path / "m", None, None, video=video) == path


def test_names_of_other_clips_are_not_found(tmp_path: Path) -> None:
    others = (
        f"{X}_31.mp4",
        f"{X}_30_41.mp4",
        f"{X}_30_40_50.mp4",
        f"{X}a.mp4",
        f"a{X}.mp4",
        f"{X}_.mp4",
        f"{X}.mp4.part",
        f"{X}",
        X.upper(),
    )
    assert found(tmp_path / "m", 30.0, 40.0, *others) is None
    assert found(tmp_path / "n", 30.0, 40.0, f"{X[1:]}.mp4", f"YY{X}.mp4") is None


def test_video_goes_before_audio_before_image_then_the_name_that_says_most(tmp_path: Path) -> None:
    names = [f"{X}_30.jpg", f"{X}_30.wav", f"{X}.mp4", f"b/{X}_30.mp4", f"a/{X}_30.mp4"]
    best = [found(tmp_path / "m", 30.0, 40.0, name) for name in names]
    assert best == names


def test_a_file_that_could_be_one_of_several_clips_is_none_of_them(tmp_path: Path) -> None:
    clips = [Listed(str(start), "train", X, start, None, (), "list", "") for start in (1.0, 1000.0)]
    listing = look_up("some", (), clips, touch(tmp_path / "m", f"{X}.mp4"))
    assert [failure.file for failure in listing.missing] == ["1.0", "1000.0"]
    assert (listing.ignored, listing.unused) == ([], [f"{X}.mp4"])
    listing = look_up("some", (), clips, touch(tmp_path / "m", f"{X}_1000.mp4"))  # 1 s in ms, or 1000 s
    assert [failure.reason for failure in listing.missing] == [
        f"{X}_1000.mp4 could be this clip or another; name it after video and start"
    ] * 2
    assert paths(look_up("some", (), clips, touch(tmp_path / "m", f"{X}_1.mp4"))) == {"1.0": f"{X}_1.mp4", "1000.0": f"{X}_1000.mp4"}
    assert found(tmp_path / "n", None, None, f"{X}_1.mp4", f"{X}_1000.mp4") is None


@settings(deadline=None, max_examples=50)
@given(
    starts=st.lists(st.tuples(st.sampled_from([X, Y, Z]), st.integers(0, 99)), min_size=1, max_size=8, unique=True),
    present=st.sets(st.sampled_from([name.format(X) for name in NAMES] + [f"{Y}_7", f"{Y}_000008", Z, f"Y{Z}_9_19"])),
)
def test_listed_is_found_and_missing_and_files_are_used_once(
    tmp_path_factory: pytest.TempPathFactory, starts: list[tuple[str, int]], present: set[str]
) -> None:
    root = touch(tmp_path_factory.mktemp("m"), *(f"{name}.mp4" for name in present))
    clips = [Listed(f"{video}_{start}", "train", video, start, start + 10, (start,), "list", "") for video, start in starts]
    listing = look_up("some", (), clips, root)
    files = paths(listing)
    assert sorted([*files, *(failure.file for failure in listing.missing)]) == sorted(clip.id for clip in clips)
    assert len(listing.missing_labels) == len(listing.missing)
    assert sorted([*files.values(), *listing.unused]) == sorted(f"{name}.mp4" for name in present)
