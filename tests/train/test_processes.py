"""Tests a run of two processes, as two hosts would have it: one of them writes, and both save and stop at the same step."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, time_limit

RANK = """
import os, signal, sys
from pathlib import Path
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
rank, port, folder, stop = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
jax.distributed.initialize(f"localhost:{port}", 2, rank)
from absl import flags
from tests.train.test_loop import STEPS, Watcher, make_trainer, saved
flags.FLAGS(["program"])
changes = {"train__log_every": 2, "train__checkpoint_every": 100, "train__checkpoint_minutes": 1e-9, "train__keep_last": STEPS}
trainer = make_trainer(folder, **changes)
finished = trainer.run(Watcher(stop if rank else 0, signal.SIGINT))  # only the second process is asked to stop
print("ended", finished, trainer.step, saved(folder))
"""


def both(folder: Path, stop: int) -> list[str]:
    """Runs both processes; returns how each ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUMPY_DTYPE_PROMOTION": "standard"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(port), str(folder), str(stop)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        results = [rank.communicate(timeout=time_limit(180)) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, results, strict=True):
        assert rank.returncode == 0, errors
    return [out.splitlines()[-1] for out, _ in results]


@pytest.mark.process
def test_two_processes_write_once_and_save_and_stop_together(tmp_path: Path) -> None:
    stopped = both(tmp_path, 3)
    assert stopped[0] == stopped[1]
    assert stopped[0].startswith("ended False 5 ")  # they ask each other every second step, and hear the answer a step later
    assert both(tmp_path, 0) == ["ended True 9 [2, 4, 5, 8, 9]"] * 2
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 10))
    assert [row["step"] for row in rows if row["split"] == "eval"] == [4, 8, 9]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2  # one a start
