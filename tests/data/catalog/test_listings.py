"""Lists and folders become clips: every listed clip is found or missing, and a mistake in a list is named."""

import csv
import json
import os
from pathlib import Path

import pytest

from avmae_jax.data.catalog import instrument_labels
from avmae_jax.data.catalog.listings import audioset, av_folder, held_out, music21, only_instruments, vgginstruments, vggsound
from avmae_jax.data.catalog.media_folder import Entry, Listing
from avmae_jax.data.store.writer import Failure
from avmae_jax.errors import DatasetError
from tests.data.catalog.lists import X, Y, Z, paths, touch

NO_FILE = "no media file is named after it"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def write_labels(path: Path, *names: str) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("index", "mid", "display_name"), *((number, f"/m/{number}", name) for number, name in enumerate(names))]
        )
    return path


def test_a_folder_of_classes_is_labelled_by_them_and_split_by_the_hash_of_the_path(tmp_path: Path) -> None:
    root = touch(tmp_path / "media", "harp/a.MP4", "harp/deep/er/b.flac", "oboe/c.png", "oboe/notes.txt", "about.md")
    listing = av_folder(root, is_test=lambda video: video == "oboe/c.png")
    train = [Entry("harp/a.MP4", "harp/a.MP4", (0,), "harp/a.MP4", 0.0)]
    train += [Entry("harp/deep/er/b.flac", "harp/deep/er/b.flac", (0,), "harp/deep/er/b.flac", 0.0)]
    splits = {"train": train, "test": [Entry("oboe/c.png", "oboe/c.png", (1,), "oboe/c.png", 0.0)]}
    assert listing == Listing("av_folder", ("harp", "oboe"), splits, [], [], ["about.md", "oboe/notes.txt"])
    assert list(listing.splits) == ["train", "test"]
    for percent, split in ((0, "train"), (100, "test")):
        assert len(av_folder(root, test_percent=percent).splits[split]) == 3


def test_the_share_held_out_by_hash_is_about_what_was_asked_and_grows_only() -> None:
    ids = [f"harp/{number}.mp4" for number in range(2000)]
    ten, twenty = (held_out(dict.fromkeys(ids, (0,)), percent) for percent in (10, 20))
    assert 150 < len(ten) < 250
    assert ten < twenty
    more = {f"oboe/{number}.mp4": (1,) for number in range(500)} | dict.fromkeys(ids, (0,))
    assert ten == {name for name in held_out(more, 10) if name.startswith("harp")}


def test_a_flat_folder_has_no_labels_and_a_mixed_or_empty_one_is_refused(tmp_path: Path) -> None:
    listing = av_folder(touch(tmp_path / "flat", "a.mp4", "b.wav"), test_percent=0)
    assert (listing.label_names, [entry.labels for entry in listing.splits["train"]]) == ((), [(), ()])
    with pytest.raises(DatasetError, match=r"flat.*harp.*a\.mp4"):
        av_folder(touch(tmp_path / "flat", "harp/c.mp4"))
    with pytest.raises(DatasetError, match=r"other.* 1 .*\.mp4"):
        av_folder(touch(tmp_path / "other", "a.txt"))
    with pytest.raises(DatasetError, match="nowhere"):
        av_folder(tmp_path / "nowhere")


def test_links_to_folders_are_listed_not_followed(tmp_path: Path) -> None:
    root = touch(tmp_path / "media", "harp/a.mp4")
    touch(tmp_path / "elsewhere", f"{X}.mp4")
    (root / "harp/link").symlink_to(tmp_path / "elsewhere")
    (root / "top").symlink_to(tmp_path / "elsewhere")
    assert paths(av_folder(root)) == {name: name for name in ("harp/a.mp4", "harp/link", "top")}
    listing = music21(write(tmp_path / "list.json", json.dumps({"videos": {"harp": [X]}})), root)
    assert listing.missing == [Failure(X, "missing", NO_FILE)]
    assert (listing.ignored, listing.unused) == (["harp/link", "top"], ["harp/a.mp4"])


def test_names_of_any_bytes_become_valid_ids_of_existing_paths(tmp_path: Path) -> None:
    root = touch(tmp_path / "media", os.fsdecode(b"h\xff/\xe9.mp4"), os.fsdecode(b"h\xff/\xe9.txt"))
    listing = av_folder(root, test_percent=0)
    (entry,) = listing.splits["train"]
    assert (entry.id, listing.label_names, listing.ignored) == (r"h\xff/\xe9.mp4", (r"h\xff",), [r"h\xff/\xe9.txt"])
    assert (root / entry.path).is_file()
    with pytest.raises(DatasetError, match=r"media.*xe9\.mp4.*udce9\.mp4"):
        av_folder(touch(root, os.fsdecode(b"h\xff/\\xe9.mp4")))


ID, OTHER = "K_EsxukdNXM", "aBc-dEf_123k"[:10] + "g"


def test_pieces_of_a_video_are_not_divided(tmp_path: Path) -> None:
    pieces = [f"{folder}/{video}_{start}.mp4" for video in (ID, OTHER) for folder, start in (("a", "000030"), ("b", "60"), ("a", "90_100"))]
    root = touch(tmp_path / "m", *pieces, *(f"{folder}/{n}.mp4" for n in range(40) for folder in "ab"))
    for percent in range(0, 101, 7):
        listing = av_folder(root, test_percent=percent)
        split_of = {entry.id: split for split, entries in listing.splits.items() for entry in entries}
        for video in (ID, OTHER):
            assert len({split for name, split in split_of.items() if video in name}) == 1
    videos = {entry.id: entry.video for entries in av_folder(root).splits.values() for entry in entries}
    assert {videos[name] for name in pieces} == {f"a/{ID}_000030.mp4", f"a/{OTHER}_000030.mp4"}


NOT_PIECES = [
    [f"guitar_{n:03}.mp4" for n in (1, 2, 3)],
    [f"guitar_solo_{n}.mp4" for n in (10, 20, 30)],  # 11 letters
    [f"GuitarSolos_{n}.mp4" for n in (1, 2, 3)],  # could be an id, but the numbers count
    [f"PianoLesson_{n}.mp4" for n in (30, 60)],  # ends as no id does
    [f"IMG_20230101_{n}.jpg" for n in (120000, 130000)],
    [f"{ID}.mp4", f"{ID}_30.mp4"],
    [f"{ID}x_30.mp4", f"{ID}x_60.mp4"],
]


@pytest.mark.parametrize("names", NOT_PIECES, ids=[names[0] for names in NOT_PIECES])
def test_files_that_are_numbered_are_not_one_video(tmp_path: Path, names: list[str]) -> None:
    listing = av_folder(touch(tmp_path / "m", *names))
    assert all(entry.video == entry.id for entries in listing.splits.values() for entry in entries)


def test_a_pattern_still_chooses_single_pieces(tmp_path: Path) -> None:
    root = touch(tmp_path / "m", f"{ID}_30.mp4", f"{ID}_60.mp4")
    listing = av_folder(root, is_test=lambda name: name.endswith("_60.mp4"))
    assert [entry.id for entry in listing.splits["test"]] == [f"{ID}_60.mp4"]


SEGMENTS = ("# Segments csv created Sun Mar  5 10:54:25 2017", "# num_ytids=2", "# YTID, start_seconds, end_seconds, positive_labels")


def test_audioset_reads_segments_and_manifests(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.csv", "Speech", "Harp", "Violin, fiddle")
    train = write(
        tmp_path / "a.csv", *SEGMENTS, f'{X}, 30.000, 40.000, "/m/2,/m/0"', f'{X}, 50.000, 60.000, "/m/1"', f'{Y}, 0.000, 7.500, "/m/1"'
    )
    test = write(tmp_path / "b.json", json.dumps({"data": [{"video_id": Z, "wav": "/x/y", "video_path": "/x", "labels": ""}]}))
    root = touch(tmp_path / "media", f"Y{X}_30000_40000.mp4", f"{Z}_7.wav", f"{X}_51.mp4", f"{Y}_0.000_7.500.mkv")
    listing = audioset({"train": [train], "test": [test]}, labels, root)
    assert listing.splits == {
        "train": [
            Entry(f"{X}_30", f"Y{X}_30000_40000.mp4", (2, 0), X, 30.0),
            Entry(Y, f"{Y}_0.000_7.500.mkv", (1,), Y, 0.0),
        ],
        "test": [Entry(Z, f"{Z}_7.wav", (), Z, 0.0)],
    }
    assert (listing.missing, listing.missing_labels) == ([Failure(f"{X}_50", "missing", NO_FILE)], [(1,)])
    assert (listing.unused, listing.label_names) == ([f"{X}_51.mp4"], ("Speech", "Harp", "Violin, fiddle"))


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([f'{X}, 0.0, 10.0, "/m/0,/m/9"'], rf"a\.csv: line 4 .*{X}.*positive_labels.*/m/9"),
        ([f"{X}, 0.0, 10.0, /m/0,/m/1"], r"a\.csv: line 4.* 5 .*YTID"),
        ([f"{X}, nan, 10.0, /m/0"], r"a\.csv: line 4.*start_seconds.*nan"),
        ([f"{X}, 0.0, -1, /m/0"], r"a\.csv: line 4.*end_seconds.*-1"),
        (["../../etc/x, 0.0, 10.0, /m/0"], r"a\.csv: line 4.*\.\./\.\./etc/x"),
        ([f'{X}, 0.0, 10.0, "/m/0'], r"a\.csv: line 5"),
        ([f"{X}, 0.0, 10.0, /m/0", "", f"{X}, 0, 9, /m/1"], rf"a\.csv: line 6.*{X}_0.*a\.csv: line 4"),
        ([], "audioset"),
    ],
)
def test_a_mistake_in_a_list_of_segments_is_named(tmp_path: Path, lines: list[str], error: str) -> None:
    labels = write_labels(tmp_path / "labels.csv", "Speech", "Harp")
    with pytest.raises(DatasetError, match=error):
        audioset({"train": [write(tmp_path / "a.csv", *SEGMENTS, *lines)]}, labels, touch(tmp_path / "m"))


def test_a_video_in_both_splits_is_for_testing_alone(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.csv", "Speech")
    train, test = (write(tmp_path / f"{name}.csv", f"{X}, {start}, {start + 9}, /m/0") for name, start in (("a", 0), ("b", 20)))
    listing = audioset({"train": [train], "test": [test]}, labels, touch(tmp_path / "m", f"{X}_0.mp4", f"{X}_20.mp4"))
    assert ([entry.id for entry in listing.splits["test"]], listing.splits["train"]) == ([f"{X}_20"], [])
    (failure,) = listing.missing
    assert (failure.file, failure.stage, listing.missing_labels) == (f"{X}_0", "list", [(0,)])
    assert f"{train}: line 1" in failure.reason
    assert f"{test}: line 1" in failure.reason
    with pytest.raises(DatasetError, match="valid"):
        audioset({"valid": [train]}, labels, touch(tmp_path / "m"))
    manifest = write(tmp_path / "c.json", json.dumps({"data": [{"video_id": X, "labels": "/m/0"}]}))
    with pytest.raises(DatasetError, match=rf"c\.json: entry 0.*'{X}_0'.*a\.csv: line 1"):
        audioset({"train": [train, manifest]}, labels, touch(tmp_path / "m"))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", ""),
        ("[]", '"data"'),
        ('{"data": [{"video_id": "x"}]}', "entry 0 .*video_id.*labels"),
        ('{"data": [7]}', "entry 0.* 7"),
        ('{"data": [{"video_id": "\\ud800", "labels": ""}]}', "entry 0.*ud800"),
        ('{"data": [{"video_id": "x", "labels": "/m/0,z"}]}', "entry 0 .*x.*labels.*'z'"),
    ],
)
def test_a_mistake_in_a_manifest_is_named(tmp_path: Path, content: str, error: str) -> None:
    manifest = write(tmp_path / "a.json", content)
    with pytest.raises(DatasetError, match=rf"a\.json.*{error}"):
        audioset({"train": [manifest]}, write_labels(tmp_path / "labels.csv", "Speech"), touch(tmp_path / "m"))


def test_vggsound_matches_labels_with_commas_and_names_clips_by_start(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.csv", "bird chirping_ tweeting", "playing harp")
    clips = write(tmp_path / "v.csv", f'{X},30,"bird chirping, tweeting",train', f"{X},60,playing harp,train", f"{Y},1,playing harp,test")
    listing = vggsound(clips, labels, touch(tmp_path / "m", f"{X}_000030.mp4", f"{Y}_1_11.mp4"))
    assert listing.splits["train"] == [Entry(f"{X}_000030", f"{X}_000030.mp4", (0,), X, 30.0)]
    assert listing.splits["test"] == [Entry(f"{Y}_000001", f"{Y}_1_11.mp4", (1,), Y, 1.0)]
    assert listing.missing == [Failure(f"{X}_000060", "missing", NO_FILE)]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (f"{X},30,playing hrp,train", rf"{X}.*playing hrp.*playing harp"),
        (f"{X},30,playing harp,val", "'val'.*train.*test"),
        (f"{X},30,bird chirping, tweeting,train", " 5 "),
        (f"{X},x,playing harp,train", "start_seconds.*'x'"),
    ],
)
def test_a_mistake_in_vggsounds_list_is_named(tmp_path: Path, line: str, error: str) -> None:
    labels = write_labels(tmp_path / "labels.csv", "bird chirping_ tweeting", "playing harp")
    with pytest.raises(DatasetError, match=rf"v\.csv: line 1.*{error}"):
        vggsound(write(tmp_path / "v.csv", line), labels, touch(tmp_path / "m"))


def test_vgginstruments_takes_its_labels_from_the_lists(tmp_path: Path) -> None:
    train = write(tmp_path / "train.txt", f"{X}_000030,violin,_fiddle", f"{Y}_000013,harp")
    test = write(tmp_path / "test.txt", f"{Z}_000000,erhu")
    listing = vgginstruments({"train": train, "test": test}, touch(tmp_path / "m", f"{X}_30.mp4", f"{Z}.mp3"))
    assert listing.label_names == ("erhu", "harp", "violin,_fiddle")
    assert listing.splits["train"] == [Entry(f"{X}_000030", f"{X}_30.mp4", (2,), X, 30.0)]
    assert listing.splits["test"] == [Entry(f"{Z}_000000", f"{Z}.mp3", (0,), Z, 0.0)]
    assert [failure.file for failure in listing.missing] == [f"{Y}_000013"]
    with pytest.raises(DatasetError, match=r"train\.txt: line 1.*nonsense"):
        vgginstruments({"train": write(train, "nonsense")}, tmp_path / "m")


def test_music21_is_split_by_files_or_by_hash(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", json.dumps({"version": 2.0, "videos": {"tuba": [X, Y], "harp": [Z]}}))
    root = touch(tmp_path / "m", f"tuba/{X}.mp4", f"{Z}_1.mp4", f"{Z}_2.mp4")
    listing = music21(one, root, is_test=lambda video: video == X)
    assert listing.label_names == ("harp", "tuba")
    assert listing.splits == {"train": [], "test": [Entry(X, f"tuba/{X}.mp4", (1,), X, 0.0)]}
    assert listing.missing == [Failure(Y, "missing", NO_FILE), Failure(Z, "missing", "no file of its video is named after its start")]
    other = write(tmp_path / "two.json", json.dumps({"videos": {"erhu": [X]}}))
    assert music21({"train": other}, root).splits["train"][0].labels == (0,)
    both = music21({"train": one, "test": other}, root)
    assert [failure.file for failure in both.missing if failure.stage == "list"] == [X]
    assert [entry.id for entry in both.splits["test"]] == [X]
    with pytest.raises(DatasetError, match=rf"two\.json: erhu 1.*'{X}'.*two\.json: erhu 0"):
        music21(write(other, json.dumps({"videos": {"erhu": [X, X]}})), root)
    with pytest.raises(DatasetError, match=r"two\.json.*harp"):
        music21(write(other, '{"videos": {"harp": [1]}}'), root)


def test_the_tables_of_instruments_have_as_many_names_as_the_data_sets() -> None:
    assert len(set(instrument_labels.AUDIOSET)) == len(instrument_labels.AUDIOSET) == 80
    assert len(set(instrument_labels.VGGSOUND)) == len(instrument_labels.VGGSOUND) == 56


def test_only_instruments_keeps_instruments_and_counts_the_missing_ones_alone(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.csv", "Speech", *reversed(instrument_labels.AUDIOSET), "Music")
    harp, music = 1 + instrument_labels.AUDIOSET[::-1].index("Harp"), 81
    lines = [f'{X}, 0, 10, "/m/{music},/m/{harp}"', f"{Y}, 0, 10, /m/0", f"{Z}, 0, 10, /m/{harp}", f"{X[::-1]}, 0, 10, /m/0"]
    listing = audioset({"train": [write(tmp_path / "a.csv", *lines)]}, labels, touch(tmp_path / "m", f"{X}.mp4", f"{Y}.mp4"))
    instruments = only_instruments(listing, "audioset")
    assert instruments.name == "audioset_instruments"
    assert instruments.label_names == instrument_labels.AUDIOSET[::-1]
    assert instruments.splits == {"train": [Entry(X, f"{X}.mp4", (harp - 1,), X, 0.0)], "test": []}
    assert ([failure.file for failure in instruments.missing], instruments.missing_labels) == ([Z], [(harp - 1,)])
    with pytest.raises(DatasetError, match=r"audioset.*playing accordion"):
        only_instruments(listing, "vggsound")


def test_timpani_and_tympani_are_one_instrument(tmp_path: Path) -> None:
    names = [name.replace(",", "_") for name in instrument_labels.VGGSOUND]
    labels = write_labels(tmp_path / "labels.csv", "playing darts", *names, "orchestra")
    classes = ["playing tympani", "playing timpani", "playing darts", "orchestra", '"playing violin, fiddle"']
    lines = [f"{X},{start},{name},train" for start, name in enumerate(classes)]
    root = touch(tmp_path / "m", *(f"{X}_{start}.mp4" for start in range(len(lines))))
    instruments = only_instruments(vggsound(write(tmp_path / "v.csv", *lines), labels, root), "vggsound")
    assert len(instruments.label_names) == 55
    given_names = [(entry.start, [instruments.label_names[label] for label in entry.labels]) for entry in instruments.splits["train"]]
    assert given_names == [(0, ["playing timpani"]), (1, ["playing timpani"]), (4, ["playing violin_ fiddle"])]
