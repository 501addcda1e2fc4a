"""Tests launch.predict --match_timeline as a user runs it."""

import csv
import json
from pathlib import Path

import pytest

from avmae_jax.inference.file_match import Kept
from launch import predict as program
from tests.support import called_here


@pytest.mark.slow
def test_the_match_of_a_folder_is_written_but_for_files_without_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [f"--json={tmp_path}/o.json", f"--csv={tmp_path}/o.csv", f"--match_pictures={tmp_path}/m", f"--explain={tmp_path}/e"]
    with called_here(program) as main, pytest.raises(SystemExit) as ended:
        main(folder / "media", f"--model={folder}/pre.safetensors", "--match_timeline", *out)
    assert ended.value.code == 3
    told = json.loads((tmp_path / "o.json").read_text())
    found = {Path(entry["file"]).name: entry for entry in told["files"]}
    assert [row["second"] for row in found["film.mp4"]["match_timeline"]] == list(range(5))
    assert all(-1 <= row["match"] <= 1 for row in found["film.mp4"]["match_timeline"])
    assert found["film.mp4"]["offset"] is None  # the weights are random
    assert "positive: the audio comes later" in told["meaning"]["offset"]
    errors = {name: entry["error"] for name, entry in found.items() if "error" in entry}
    assert set(errors) == {"broken.mp4", "empty.wav", "picture.png", "sound.wav"}
    assert "is an image" in errors["picture.png"]
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [row["second"] for row in rows if row["file"].endswith("film.mp4")] == ["", "0", "1", "2", "3", "4"]
    for drawn in ("m", "e"):
        assert sorted(path.name for path in (tmp_path / drawn).iterdir()) == ["film.png", "short.png"]
    assert "can't tell" in capsys.readouterr().out


def test_moments_that_are_kept_are_spread_over_any_length() -> None:
    for length in (3, 13, 100, 1001):
        kept = Kept(6)
        assert list(kept.passing(iter(range(length)))) == list(range(length))  # pyright: ignore[reportArgumentType]
        numbers = [number for number, _ in kept.moments]
        assert min(length, 6) <= len(numbers) <= 12
        assert numbers[0] == 0
        assert numbers[-1] >= length / 2 - 1 or length < 3
