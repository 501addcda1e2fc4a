"""A run comes back bit by bit, or says why not."""

import logging
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from avmae_jax.checkpoint.manager import Checkpoints, newest_meta, require_same_config, restore_params
from avmae_jax.checkpoint.step import checksum
from avmae_jax.errors import CheckpointError, CheckpointMismatchError, DamagedCheckpointError
from tests.support import time_limit

META = {"config": {"model": {"size": "tiny", "patch": 16}}}


class Attention(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.attn = Attention(width, rngs)


class Model(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.blocks_audio = nnx.List([Block(width, rngs) for _ in range(2)])


class Run(NamedTuple):
    params: Any
    opt_state: Any
    rng: jax.Array


def make_run(seed: int, width: int = 64) -> Run:
    params = nnx.state(Model(width, nnx.Rngs(seed)), nnx.Param)
    opt_state = optax.adam(1e-3).init(params)
    moments = jax.tree.map(lambda x: jax.random.normal(jax.random.key(seed), x.shape).astype(x.dtype), opt_state)
    return Run(params, moments, jax.random.key(seed))


def save(checkpoints: Checkpoints, step: int, run: Run | None = None) -> None:
    params, opt_state, rng = run or make_run(step)
    checkpoints.save(step, params=params, opt_state=opt_state, rng=rng, data={"next_index": step * 10}, meta=META)


def assert_same(restored: Any, expected: Any) -> None:
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert as_bytes(got) == as_bytes(want)


def as_bytes(leaf: jax.Array) -> bytes:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Makes a run's folder with the steps 1 and 2, which tests must not change."""
    folder = tmp_path_factory.mktemp("pristine")
    with Checkpoints(folder) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    return folder


@pytest.fixture
def folder(pristine: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Makes a copy of `pristine` that tests may damage."""
    return pathlib.Path(shutil.copytree(pristine, tmp_path / "checkpoints"))


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
    """Sound files with other numbers in them: nothing but the checksums can tell."""
    shutil.rmtree(step / "params")
    shutil.copytree(step.with_name("1") / "params", step / "params")


DAMAGES = {
    flip_a_moment: "opt_state",
    truncate: "params can't be read",
    lose_item: "opt_state can't be read",
    lose_meta: "meta can't be read: FileNotFoundError",
    cut_meta: "meta can't be read: JSONDecodeError",
    change_config: "meta is not what was saved",
    change_data: "data is not what was saved",
    mix_steps: "params does not match its checksums in blocks_audio.0.attn.qkv.kernel, blocks_audio.1.attn.qkv.kernel",
}


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


def test_params_of_a_damaged_step_are_not_handed_out(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    truncate(folder / "2")
    before = sorted(folder.rglob("*"))
    assert restore_params(folder).step == 1
    assert "2: params can't be read" in caplog.text
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
        assert f"{folder}/2: {DAMAGES[damage]}" in caplog.text
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


def test_a_step_under_another_number_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(folder / "1", folder / "12")
    for read in (lambda: restore_params(folder), lambda: restore_params(folder / "12"), lambda: newest_meta(folder)):
        with pytest.raises(CheckpointMismatchError, match="/12: holds step 1 ") as error:
            read()
        assert "\n" not in str(error.value)
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointMismatchError, match="/12: holds step 1 "):
        checkpoints.restore(*abstract(make_run(0)))
    assert (folder / "12").is_dir()
    assert restore_params(shutil.copytree(folder / "1", tmp_path / "kept")).step == 1  # a name that is no number says nothing


def test_nothing_but_damaged_steps_is_an_error_that_touches_nothing(folder: pathlib.Path) -> None:
    truncate(folder / "1")
    lose_meta(folder / "2")
    before = sorted(folder.rglob("*"))
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(*abstract(make_run(0)))
    assert "/1: params can't be read" in str(error.value)
    assert "/2: meta can't be read" in str(error.value)
    assert sorted(folder.rglob("*")) == before


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
    assert str(error.value).splitlines()[1:] == [
        "  missing in the checkpoint: head.kernel",
        "  only in the checkpoint: blocks_audio.0.attn.qkv.bias",
        "  blocks_audio.1.attn.qkv.bias: float32[192] in the checkpoint, bfloat16[192] now",
        "  blocks_audio.1.attn.qkv.kernel: float32[64, 192] in the checkpoint, float32[64, 193] now",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_another_config_is_refused_naming_the_fields(folder: pathlib.Path) -> None:
    def check(meta: dict[str, Any]) -> None:
        require_same_config(meta["config"], {"model": {"size": "base", "patch": 16}})

    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointMismatchError, match=r"model\.size: 'tiny'.*'base'"),
    ):
        checkpoints.restore(*abstract(make_run(0, width=4)), check_meta=check)


def test_config_fields_may_be_exempt_by_name_or_group() -> None:
    saved = {"model": {"size": "base", "old": 1}, "train": {"steps": 3}, "trainer": 1, "shape": (1, 2)}
    current = {"model": {"size": "tiny", "new": None}, "train": {"steps": 4}, "trainer": 2, "shape": [1, 2]}
    with pytest.raises(CheckpointMismatchError) as error:
        require_same_config(saved, current, ignore=("train",))
    assert str(error.value).splitlines()[1:] == [
        "  model.new: 'absent' in the checkpoint, None now",
        "  model.old: 1 in the checkpoint, 'absent' now",
        "  model.size: 'base' in the checkpoint, 'tiny' now",
        "  trainer: 1 in the checkpoint, 2 now",
    ]
    require_same_config(saved, current, ignore=("train", "trainer", "model.size", "model.old", "model.new"))


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


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["float32", "bfloat16", "uint8", "int32"]), st.data())
def test_the_checksum_sees_every_flipped_bit_and_swap(dtype: str, data: st.DataObject) -> None:
    good = np.asarray(jax.random.normal(jax.random.key(0), (4, 3, 5)) * 10).astype(jnp.dtype(dtype))
    flipped = bytearray(good.tobytes())
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    assert checksum(jnp.asarray(good)) != checksum(jnp.asarray(np.frombuffer(bytes(flipped), good.dtype).reshape(good.shape)))
    assert checksum(jnp.asarray(good)) != checksum(jnp.asarray(good[::-1]))


def test_a_step_is_never_overwritten(folder: pathlib.Path) -> None:
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match="checkpoints: step 2"):
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


def run_python(code: str, *args: object, devices: int = 1) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=time_limit(120), check=False)


@pytest.mark.process
def test_other_device_counts_restore_the_same_bits(tmp_path: pathlib.Path) -> None:
    code = """
        import sys
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P, SingleDeviceSharding
        from avmae_jax.checkpoint.manager import Checkpoints, restore_params

        def shardings(count):
            mesh = jax.make_mesh((count,), ("fsdp",), devices=jax.devices()[:count], axis_types=(jax.sharding.AxisType.Auto,))
            return {"w": NamedSharding(mesh, P(None, "fsdp")), "b": NamedSharding(mesh, P())}

        values = {"w": np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32), "b": np.arange(5, dtype=np.int32)}
        key = jax.random.key(1)
        with Checkpoints(sys.argv[1]) as checkpoints:
            for step, (saved, restored) in enumerate([(8, 1), (1, 8), (8, 2), (2, 4)]):
                params = jax.device_put(values, shardings(saved))
                checkpoints.save(step, params=params, opt_state={}, rng=key, data={}, meta={})
                target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), values, shardings(restored))
                back = checkpoints.restore(target, {}, key)
                assert back.step == step
                for name, value in values.items():
                    assert back.params[name].sharding == shardings(restored)[name]
                    np.testing.assert_array_equal(back.params[name], value)
    """
    done = run_python(code, tmp_path, devices=8)
    assert done.returncode == 0, done.stderr
    params = restore_params(tmp_path).params
    np.testing.assert_array_equal(params["b"], np.arange(5))
    assert params["w"].sharding == jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.mark.process
def test_a_full_disk_costs_the_new_step_only(tmp_path: pathlib.Path) -> None:
    code = """
        import resource, signal, sys, time
        import jax, pathlib
        from avmae_jax.checkpoint.manager import Checkpoints
        from avmae_jax.errors import CheckpointError

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit raises, as it does on a full disk
        root = pathlib.Path(sys.argv[1])
        key = jax.random.key(0)
        params = {"w": jax.random.normal(key, (100_000,))}
        with Checkpoints(root, keep_last=1) as checkpoints:
            def save(step):
                checkpoints.save(step, params=params, opt_state={}, rng=key, data={}, meta={})
            save(1)
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
            save(2)
            try:
                save(3)
            except CheckpointError as error:
                message = str(error)
            save(4)
            try:
                while checkpoints.newest() == 4:
                    checkpoints.check()
                    time.sleep(0.01)
            except CheckpointError as error:
                assert "saving step 4 failed: " in str(error), error
            assert checkpoints.newest() == 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert f"{root}: saving step 2 failed: " in message, message
            assert "the newest complete checkpoint is step 1, untouched" in message, message
            checkpoints.wait()
            assert checkpoints.restore(params, {}, key).step == 1
            save(3)
        assert [path.name for path in root.iterdir()] == ["3"], list(root.iterdir())
    """
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_a_killed_save_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    code = """
        import os, pathlib, signal, sys
        import jax
        from avmae_jax.checkpoint.manager import Checkpoints

        key = jax.random.key(0)
        checkpoints = Checkpoints(sys.argv[1])
        checkpoints.save(1, params={"w": key}, opt_state={}, rng=key, data={}, meta={})
        params = {"w": jax.random.normal(key, (10_000_000,))}
        checkpoints.save(2, params=params, opt_state={}, rng=key, data={}, meta={})
        while not list(pathlib.Path(sys.argv[1]).glob("2.*")):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, tmp_path).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    target = Run({"w": jax.random.key(0)}, {}, jax.random.key(0))
    assert restore_params(tmp_path, target.params).step == 1
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(*target)
        assert restored is not None
        assert restored.step == 1
        save(checkpoints, 2, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
