"""A run comes back bit by bit, or says why not."""

import logging
import pathlib
import re
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avmae_jax.checkpoint.manager import Checkpoints, restore_params
from avmae_jax.config_history import require_same_config
from avmae_jax.errors import CheckpointError, CheckpointMismatchError
from tests.checkpoint.tiny_run import META, Run, abstract, assert_same, make_run, save


@pytest.mark.parametrize("as_abstract", [False, True])
def test_a_run_comes_back_bit_by_bit(pristine: pathlib.Path, as_abstract: bool) -> None:
    target = make_run(9)
    with Checkpoints(pristine) as checkpoints:
        params, opt_state, rng = abstract(target) if as_abstract else target
        restored = checkpoints.restore(params, opt_state, rng)
    assert restored is not None
    assert_same((restored.params, restored.opt_state, restored.rng), tuple(make_run(2)))
    assert (restored.step, restored.extra, restored.data, restored.meta) == (2, (), {"next_index": 20}, META)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint8", "int32", "bool", "float8_e4m3fn"])
def test_every_type_comes_back_bit_by_bit(tmp_path: pathlib.Path, dtype: str) -> None:
    run = Run(
        {"w": jax.random.normal(jax.random.key(0), (3, 5)).astype(dtype), "nan": jnp.float32(np.nan)}, {}, jax.random.key(0, impl="rbg")
    )
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, run)
        restored = checkpoints.restore(*abstract(run))
    assert restored is not None
    assert_same((restored.params, restored.opt_state, restored.rng), tuple(run))


@pytest.mark.parametrize("inside", ["", "2"])
def test_params_are_restored_alone(folder: pathlib.Path, inside: str) -> None:
    for item in ("opt_state", "rng", "data"):
        shutil.rmtree(folder / "2" / item)
    expected = make_run(2).params
    restored = restore_params(folder / inside, abstract(expected))
    assert_same(restored.params, expected)
    assert (restored.step, restored.meta) == (2, META)
    flat = restore_params(folder / inside).params
    assert sorted(flat) == [f"blocks_audio.{i}.attn.qkv.{name}" for i in (0, 1) for name in ("bias", "kernel")]
    assert_same(list(flat.values()), jax.tree.leaves(expected))


def test_an_empty_folder_has_nothing_to_restore(tmp_path: pathlib.Path) -> None:
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.newest() is None
        assert checkpoints.restore(*abstract(make_run(0))) is None


def test_tensors_that_do_not_fit_are_named_and_not_walked_past(folder: pathlib.Path) -> None:
    params, opt_state, rng = make_run(0)
    other = dict(nnx.to_pure_dict(params))
    del other["blocks_audio"][0]["attn"]["qkv"]["bias"]
    other["blocks_audio"][1]["attn"]["qkv"]["kernel"] = jnp.zeros((64, 193))
    other["blocks_audio"][1]["attn"]["qkv"]["bias"] = jnp.zeros(192, jnp.bfloat16)
    other["head"] = {"kernel": jnp.zeros(3)}
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointMismatchError) as error:
            checkpoints.restore(other, opt_state, rng)
        with pytest.raises(CheckpointMismatchError, match="/2: rng"):
            checkpoints.restore(params, opt_state, jax.random.key(0, impl="rbg"))
        with pytest.raises(CheckpointMismatchError, match=r"/2: opt_state.*\n.*0\.count, 0\.mu\.blocks_audio\.0"):
            checkpoints.restore(params, optax.EmptyState(), rng)
    expected = [
        r"head\.kernel",
        r"blocks_audio\.0\.attn\.qkv\.bias",
        r"blocks_audio\.1\.attn\.qkv\.bias.*float32\[192\].*bfloat16\[192\]",
        r"blocks_audio\.1\.attn\.qkv\.kernel.*float32\[64, 192\].*float32\[64, 193\]",
    ]
    for line, part in zip(str(error.value).splitlines()[1:], expected, strict=True):
        assert re.search(part, line)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_another_config_is_refused_naming_the_fields(folder: pathlib.Path) -> None:
    def check(meta: dict[str, Any]) -> None:
        require_same_config(meta["config"], {"model": {"size": "base", "patch": 16}})

    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointMismatchError, match=r"model\.size: 'tiny'.*'base'"),
    ):
        checkpoints.restore(*abstract(make_run(0, width=4)), check_meta=check)


@pytest.mark.parametrize(("keep_last", "keep_every", "kept"), [(1, 0, "6"), (2, 0, "5 6"), (2, 3, "3 5 6"), (9, 2, "1 2 3 4 5 6")])
def test_the_newest_and_every_nth_step_are_kept(tmp_path: pathlib.Path, keep_last: int, keep_every: int, kept: str) -> None:
    run = Run({"w": jnp.zeros(1)}, {}, jax.random.key(0))
    with Checkpoints(tmp_path, keep_last=keep_last, keep_every=keep_every) as checkpoints:
        for step in range(1, 7):
            save(checkpoints, step, run)
    assert " ".join(sorted(path.name for path in tmp_path.iterdir())) == kept


def test_buffers_may_be_donated_as_soon_as_save_returns(tmp_path: pathlib.Path) -> None:
    train_step = jax.jit(lambda params: jax.tree.map(lambda w: -2 * w, params), donate_argnums=0)
    params = {f"w{i}": jax.random.normal(jax.random.key(i), (1 << 18,)) for i in range(8)}
    with Checkpoints(tmp_path, keep_last=9) as checkpoints:
        expected = []
        for step in range(4):
            expected.append({name: np.array(w, copy=True) for name, w in params.items()})
            save(checkpoints, step, Run(params, {}, jax.random.key(0)))
            for _ in range(3):
                params = train_step(params)
    for step, want in enumerate(expected):
        assert_same(restore_params(tmp_path / str(step)).params, want)


def test_a_step_is_never_overwritten(folder: pathlib.Path) -> None:
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match="step 2"):
        save(checkpoints, 2)


def test_what_is_no_jax_array_is_refused(tmp_path: pathlib.Path) -> None:
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(TypeError, match=r"params: a\.b.*float"):
        save(checkpoints, 1, Run({"a": {"b": 1.0}}, {}, jax.random.key(0)))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/checkpoints.*train\.workdir"):
        Checkpoints(tmp_path / "file/checkpoints")


def test_a_folder_that_vanishes_is_reported_with_the_step(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        folder.rmdir()
        folder.write_text("in the way")
        with pytest.raises(CheckpointError, match=r"checkpoints.*step 7"):
            save(checkpoints, 7)


def test_the_console_stays_readable(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="absl"), Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        checkpoints.restore(*make_run(0))
    assert len(caplog.records) <= 2
