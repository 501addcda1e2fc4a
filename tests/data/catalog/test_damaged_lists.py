"""Lines of public lists that can't be used are counted and named; the others are used."""

from pathlib import Path

import pytest

from avmae_jax.data.catalog.labels import read_labels
from avmae_jax.data.catalog.listings import audioset, vgginstruments, vggsound
from avmae_jax.errors import DatasetError

LABELS = '\ufeffindex,mid,display_name\r\n0,/m/0,"Speech, fast"\r\n1,/m/1,cattle mooing\r\n'
A, B, C = "--4gqARaEJE", "-0BIyqJj9ZU", "K_EsxukdNXM"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels.csv").write_bytes(LABELS.encode())
    return tmp_path / "labels.csv"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    for name in (f"{A}.mp4", f"{B}.mp4", f"{C}_0.mp4", f"{C}_30.mp4"):
        (tmp_path / "media" / name).touch()
    return tmp_path / "media"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_label_csv_with_a_byte_order_mark_is_read(labels: Path) -> None:
    assert read_labels(labels) == ({"/m/0": 0, "/m/1": 1}, ("Speech, fast", "cattle mooing"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,/m/1", "line 3 has 2 fields"),
        ("1,/m/1,", "line 3: .*'1' has no display_name"),
        ("1,,x", "line 3: .*'1' has no mid"),
        ("1,/m/1,a, b", "line 3 has 4 fields"),
        ("9" * 5000 + ",/m/1,x", "the label '/m/1' with index '9+"),
        ("١,/m/1,x", "the label '/m/1' with index"),
        ("1,/m/1," + "x" * 140_000, "line 3"),
    ],
)
def test_a_label_row_that_breaks_the_rules_is_named(tmp_path: Path, row: str, problem: str) -> None:
    with pytest.raises(DatasetError, match=rf"labels\.csv: {problem}"):
        read_labels(write(tmp_path / "labels.csv", "index,mid,display_name", "0,/m/0,a", row))


@pytest.mark.parametrize("name", ["#NAME?", "=-0CamVQdP_Y", "1.2E+10", '"#NAME?"'])
def test_a_row_that_a_spreadsheet_damaged_is_counted_and_named(tmp_path: Path, labels: Path, root: Path, name: str) -> None:
    segments = write(tmp_path / "a.csv", '"# Segments, ""csv"""', f'{A}, 0, 10, "/m/0, "', f"{name}, 0, 10, /m/1,", f"{B}, 0, 10, /m/1,,")
    listing = audioset({"train": [segments]}, labels, root)
    assert [entry.id for entry in listing.splits["train"]] == [A, B]
    (failure,) = listing.missing
    assert (failure.file, failure.stage, listing.missing_labels) == (name.strip('"'), "list", [(1,)])
    assert f"{segments}: line 3" in failure.reason


def test_a_damaged_line_of_each_other_list_is_named_too(tmp_path: Path, labels: Path, root: Path) -> None:
    listing = vggsound(write(tmp_path / "v.csv", "#NAME?,0,cattle mooing,train", f"{A},0,cattle mooing,test"), labels, root)
    assert [(failure.file, failure.stage) for failure in listing.missing] == [("#NAME?", "list")]
    listing = vgginstruments({"train": write(tmp_path / "i.txt", "#NAME?,violin,_fiddle", f"{A}_000000,harp")}, root)
    assert [(failure.file, failure.stage) for failure in listing.missing] == [("#NAME?", "list")]
    assert listing.label_names == ("harp", "violin,_fiddle")


def test_a_video_of_both_splits_of_vggsound_is_for_testing_alone(tmp_path: Path, labels: Path, root: Path) -> None:
    lines = [f"{C},0,cattle mooing,train", f"{C},30,cattle mooing,test", f"{A},7,cattle mooing,train", f"{C},0,cattle mooing,test"]
    listing = vggsound(write(tmp_path / "v.csv", *lines), labels, root)
    assert {split: [entry.id for entry in entries] for split, entries in listing.splits.items()} == {
        "train": [f"{A}_000007"],
        "test": [f"{C}_000030", f"{C}_000000"],
    }
    (failure,) = listing.missing
    assert (failure.file, failure.stage) == (f"{C}_000000", "list")
    assert "v.csv: line 1" in failure.reason


def test_two_labels_of_one_name_are_refused(tmp_path: Path, root: Path) -> None:
    labels = write(tmp_path / "labels.csv", "index,mid,display_name", "0,a,harp_ low", '1,b,"harp, low"')
    with pytest.raises(DatasetError, match=r"labels\.csv: .*'harp_ low'"):
        vggsound(write(tmp_path / "v.csv", f"{A},0,harp_ low,train"), labels, root)


def test_a_row_without_a_label_is_named(tmp_path: Path, labels: Path, root: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.csv: line 1 .*positive_labels"):
        audioset({"train": [write(tmp_path / "a.csv", f'{A}, 0, 10, " , "')]}, labels, root)
