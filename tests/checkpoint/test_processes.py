"""Tests checkpoints across processes: other device counts, a full disk, a kill while saving."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap
from typing import Any

import jax
import numpy as np
import pytest

from avmae_jax.checkpoint.manager import Checkpoints, restore_params
from tests.checkpoint.tiny_run import Run, save
from tests.support import ROOT, Program, sharing, time_limit


def test_other_device_counts_restore_the_same_bits(tmp_path: pathlib.Path, program: Program) -> None:
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
    done = program("-W", "error", "-c", textwrap.dedent(code), tmp_path, devices=8)
    assert done.returncode == 0, done.stderr
    params = restore_params(tmp_path).params
    np.testing.assert_array_equal(params["b"], np.arange(5))
    assert params["w"].sharding == jax.sharding.SingleDeviceSharding(jax.devices()[0])


def test_a_full_disk_costs_the_new_step_only(tmp_path: pathlib.Path, program: Program) -> None:
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
                assert "step 4 " in str(error), error
            assert checkpoints.newest() == 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert all(part in message for part in (str(root), "step 2 ", "step 1")), message
            checkpoints.wait()
            assert checkpoints.restore(params, {}, key).step == 1
            save(3)
        assert [path.name for path in root.iterdir()] == ["3"], list(root.iterdir())
    """
    done = program("-W", "error", "-c", textwrap.dedent(code), tmp_path)
    assert done.returncode == 0, done.stderr


FULL = """
    import os, resource, signal, sys, time
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from avmae_jax.checkpoint.manager import Checkpoints
    from avmae_jax.errors import CheckpointError

    rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))
    rows = np.random.default_rng(0).normal(size=(2, 20_000)).astype(np.float32)
    params = {"w": jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])}
    try:
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(1, params=params, meta={})
            checkpoints.wait()
            if rank == 0:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit raises, as it does on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
            checkpoints.save(2, params=params, meta={})
            while True:  # goes on training
                checkpoints.check()
                time.sleep(0.01)
    except CheckpointError as error:
        print(error, flush=True)
    os._exit(3)
"""


@pytest.mark.process
def test_a_full_disk_of_one_process_is_its_error_at_once(tmp_path: pathlib.Path, compiled: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", textwrap.dedent(FULL)]
    options: dict[str, Any] = {"cwd": ROOT, "env": os.environ | sharing(compiled), "stdout": -1, "stderr": -1, "text": True}
    ranks = [subprocess.Popen([*command, str(rank), str(port), str(tmp_path)], **options) for rank in range(2)]
    try:
        printed, errors = ranks[0].communicate(timeout=time_limit(60))  # Orbax's own end of the wait would be 20 minutes
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 3, errors
    assert all(part in printed for part in (str(tmp_path), "step 2 failed", "Failed writing", "step 1, untouched")), printed


def test_a_killed_save_leaves_nothing_behind(tmp_path: pathlib.Path, program: Program) -> None:
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
    assert program("-W", "error", "-c", textwrap.dedent(code), tmp_path).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    target = Run({"w": jax.random.key(0)}, {}, jax.random.key(0))
    assert restore_params(tmp_path, target.params).step == 1
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(*target)
        assert restored is not None
        assert restored.step == 1
        save(checkpoints, 2, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
