"""Tests that a damaged step is named, skipped and kept, whatever is damaged in it."""

import pathlib
import re
import shutil
from typing import Any

import pytest

from avmae_jax.checkpoint.manager import Checkpoints, newest_meta, restore_params
from avmae_jax.errors import CheckpointError, CheckpointMismatchError, DamagedCheckpointError
from tests.checkpoint.tiny_run import abstract, assert_same, make_run, save


def flip_bit(file: pathlib.Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def array_file(item: pathlib.Path) -> pathlib.Path:
    """Finds the file of an item that holds its tensors."""
    return max(item.glob("**/d/*"), key=lambda file: file.stat().st_size)


def flip_a_moment(step: pathlib.Path) -> None:
    flip_bit(array_file(step / "opt_state"))


def truncate(step: pathlib.Path) -> None:
    file = array_file(step / "params")
    file.write_bytes(file.read_bytes()[:100])


def lose_item(step: pathlib.Path) -> None:
    shutil.rmtree(step / "opt_state")


def lose_meta(step: pathlib.Path) -> None:
    shutil.rmtree(step / "meta")


def cut_meta(step: pathlib.Path) -> None:
    (step / "meta/metadata").write_text((step / "meta/metadata").read_text()[:-5])


def change_config(step: pathlib.Path) -> None:
    (step / "meta/metadata").write_text((step / "meta/metadata").read_text().replace('"tiny"', '"base"'))


def change_data(step: pathlib.Path) -> None:
    (step / "data/metadata").write_text('{"next_index": 21}')


def mix_steps(step: pathlib.Path) -> None:
    """Puts other numbers into intact files, which only the checksums can tell."""
    shutil.rmtree(step / "params")
    shutil.copytree(step.with_name("1") / "params", step / "params")


DAMAGES = {  # by what is done to a step: the item that is named
    flip_a_moment: "opt_state",
    truncate: "params",
    lose_item: "opt_state",
    lose_meta: "meta",
    cut_meta: "meta",
    change_config: "meta",
    change_data: "data",
    mix_steps: r"params.*blocks_audio\.0\.attn\.qkv\.kernel, blocks_audio\.1\.attn\.qkv\.kernel",
}


def test_params_of_a_damaged_step_are_not_handed_out(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    truncate(folder / "2")
    before = sorted(folder.rglob("*"))
    assert restore_params(folder).step == 1
    assert f"{folder}/2: params" in caplog.text
    with pytest.raises(DamagedCheckpointError, match="/2: params"):
        restore_params(folder / "2")
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(CheckpointError, match="checkpoints/3"):
        restore_params(folder / "3")


def test_the_newest_sound_note_of_a_run_is_read_alone(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    newest = newest_meta(folder)
    truncate(folder / "2")  # tensors don't count
    assert newest_meta(folder) == newest
    cut_meta(folder / "2")
    assert newest_meta(folder) == restore_params(folder).meta
    assert newest_meta(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_step_is_skipped_with_its_reason(folder: pathlib.Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    damage(folder / "2")
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(*abstract(make_run(0)))
        assert restored is not None
        assert restored.step == 1
        assert_same((restored.params, restored.opt_state, restored.rng), tuple(make_run(1)))
        assert re.search(f"{re.escape(str(folder))}/2: {DAMAGES[damage]}", caplog.text)
        assert (folder / "2.damaged").is_dir()
        assert checkpoints.newest() == 1
        save(checkpoints, 2)
        again = checkpoints.restore(*abstract(make_run(0)))
    assert again is not None
    assert again.step == 2


@pytest.mark.slow
def test_a_step_damaged_twice_is_kept_twice(folder: pathlib.Path) -> None:
    with Checkpoints(folder) as checkpoints:
        for _ in range(2):
            truncate(folder / "2")
            checkpoints.restore(*abstract(make_run(0)))
            save(checkpoints, 2)
            checkpoints.wait()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "2.damaged", "2.damaged-1"]


def test_nothing_but_damaged_steps_is_an_error_that_touches_nothing(folder: pathlib.Path) -> None:
    truncate(folder / "1")
    lose_meta(folder / "2")
    before = sorted(folder.rglob("*"))
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match=r"(?s)/2: meta.*/1: params"):
        checkpoints.restore(*abstract(make_run(0)))
    assert sorted(folder.rglob("*")) == before


def test_a_step_under_another_number_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(folder / "1", folder / "12")
    for read in (lambda: restore_params(folder), lambda: restore_params(folder / "12"), lambda: newest_meta(folder)):
        with pytest.raises(CheckpointMismatchError, match=r"/12.*step 1 ") as error:
            read()
        assert "\n" not in str(error.value)
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointMismatchError, match=r"/12.*step 1 "):
        checkpoints.restore(*abstract(make_run(0)))
    assert (folder / "12").is_dir()
    assert restore_params(shutil.copytree(folder / "1", tmp_path / "kept")).step == 1  # a name that is no number says nothing
