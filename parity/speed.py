"""The JAX model and the PyTorch reference in time and memory: what `python -m launch.benchmark --against torch` prints.

Three jobs, each with the same weights and inputs, both sides in float32 on all cores of the CPU. The sides take turns, so that whatever
else happens on the machine happens to both, and each step's results are compared, so that nobody is fast at something else.

    python -m parity.speed --framework jax --job features     the memory of one side alone, in bytes
"""

import argparse
import dataclasses
import importlib
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from avmae_jax.config import Config
from avmae_jax.train.allocator import keep_freed_memory
from parity.rows import compare

JOBS = {"pretraining": "pretraining step", "finetuning": "fine-tuning step", "features": "feature extraction"}
FRAMEWORKS = {"jax": "JAX", "torch": "PyTorch"}
CLASSES = 527  # AudioSet's
_TOLERANCE = 1e-4  # of losses and features
_PEAK_STEPS = 2  # the second one is the first that finds moments, and gradients that a framework keeps


class ComparisonError(RuntimeError):
    """The two can't be compared; the message says why and what to do."""


class Memory(NamedTuple):
    """What a process took at most, in bytes."""

    imported: float  # until the framework was imported, before any work
    peak: float  # to the end


class Result(NamedTuple):
    """One job, by framework."""

    job: str  # a key of JOBS
    name: str  # of the config
    batch: int  # pairs a step
    seconds: dict[str, float]  # median of a step
    memory: dict[str, Memory]

    @property
    def ratio(self) -> float:
        """JAX's time over PyTorch's."""
        return self.seconds["jax"] / self.seconds["torch"]


def measure(config: Config, job: str, steps: int) -> Result:
    """Times a job on both sides, and takes the peak memory of each.

    Args:
      config: its model, loss, optim and train.batch_size count.
      job: a key of JOBS.
      steps: that are timed, after one that isn't.

    Raises:
      ComparisonError: if PyTorch is missing, JAX isn't on the CPU or computes in half precision, the results differ, or memory runs out.
      ValueError: if the config's sizes don't fit each other.
    """
    require_torch()
    ours, theirs = _side("jax"), _side("torch")
    if not ours.on_cpu():
        raise ComparisonError("the reference computes on the CPU; set JAX_PLATFORMS=cpu for JAX to do so as well")
    if config.model.compute_dtype != "float32":
        raise ComparisonError(f"the reference computes in float32; set model.compute_dtype to it, not {config.model.compute_dtype}")
    memory = {framework: measure_memory(config, job, framework) for framework in FRAMEWORKS}
    batch, weights = random_batch(config), theirs.fresh_weights(job, config, CLASSES)
    runs = {framework: getattr(_side(framework), job)(config, batch, weights) for framework in FRAMEWORKS}
    seconds: dict[str, list[float]] = {framework: [] for framework in FRAMEWORKS}
    for step in range(steps + 1):
        computed = {}
        for framework, run in runs.items():
            begin = time.perf_counter()
            computed[framework] = run()
            seconds[framework].append(time.perf_counter() - begin)
        _require_same(computed, f"{job}, {config.name}, step {step}")
    medians = {framework: statistics.median(times[1:]) for framework, times in seconds.items()}
    return Result(job, config.name, config.train.batch_size, medians, memory)


def require_torch() -> None:
    """Raises ComparisonError where the reference can't be imported."""
    if missing := [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]:
        raise ComparisonError(f'not installed: {" and ".join(missing)}, for the comparison with PyTorch; pip install -e ".[parity]"')


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """Normalised inputs, masking noise and labels of one step, float32: fbank [B, T, M], image [B, H, W, 3], noise [B, L], targets [B, C].

    Which patches are hidden has no influence on the work, so the noise has no structure, whatever the config's mask mode.
    """
    model, size, rng = config.model, config.train.batch_size, np.random.default_rng(0)
    batch = {
        "fbank": rng.standard_normal((size, model.audio_frames, model.mel_bins)),
        "image": rng.standard_normal((size, model.image_size, model.image_size, 3)),
        "noise_audio": rng.random((size, math.prod(model.grid("audio")))),
        "noise_image": rng.random((size, math.prod(model.grid("image")))),
        "targets": rng.integers(0, 2, (size, CLASSES)),
    }
    return {name: array.astype(np.float32) for name, array in batch.items()}


def measure_memory(config: Config, job: str, framework: str) -> Memory:
    """What a process takes that does nothing but this: start, imports, compilation, two steps.

    A process of its own, since in this one the frameworks' memory can't be told apart.

    Raises:
      ComparisonError: if it fails; the message has its last words.
    """
    command = [sys.executable, "-m", "parity.speed", "--framework", framework, "--job", job]
    done = subprocess.run(  # noqa: S603, our own program
        [*command, "--config", json.dumps(dataclasses.asdict(config))], capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = "killed, perhaps for its memory; give a smaller --batch" if done.returncode == -9 else done.stderr.strip()[-500:]
        raise ComparisonError(f"{FRAMEWORKS[framework]}'s {JOBS[job]}, {config.name}, failed in a process of its own: {words}")
    return Memory(**json.loads(done.stdout))


def table(results: Sequence[Result]) -> Table:
    """A line for each job."""
    shown = Table("job", "model")
    headings = ("JAX s", "PyTorch s", "JAX/PyTorch", "JAX pairs/s", "PyTorch pairs/s", "JAX peak GiB", "PyTorch peak GiB")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for result in results:
        seconds = [result.seconds[framework] for framework in FRAMEWORKS]
        shown.add_row(
            JOBS[result.job], result.name,
            *(f"{value:.3g}" for value in seconds),
            f"{result.ratio:.2f}",
            *(f"{result.batch / value:.3g}" for value in seconds),
            *(f"{result.memory[framework].peak / 2**30:.2f}" for framework in FRAMEWORKS),
        )  # fmt: skip
    return shown


def notes(results: Sequence[Result], steps: int) -> list[str]:
    """How the table came about."""
    batches = " and ".join(str(batch) for batch in sorted({result.batch for result in results}))
    imported = {framework: max(result.memory[framework].imported for result in results) / 2**30 for framework in FRAMEWORKS}
    return [
        f"medians of {steps} steps of {batches} pairs, in turns, float32; {'; '.join(_side(name).description() for name in FRAMEWORKS)}",
        "losses and features agree in every step; peak memory is that of a process with one framework and one job, of which "
        + " and ".join(f"{imported[framework]:.2f} GiB are there once {name} is imported" for framework, name in FRAMEWORKS.items()),
    ]


def _side(framework: str) -> Any:
    """The module of a framework, imported when asked for: the other one's weight doesn't belong into its memory."""
    return importlib.import_module(f"parity.speed_{framework}")


def _require_same(computed: Mapping[str, list[np.ndarray]], where: str) -> None:
    for ours, theirs in zip(computed["jax"], computed["torch"], strict=True):
        row = compare(where, ours, theirs, _TOLERANCE)
        if not row.ok:
            raise ComparisonError(f"{where}: JAX and PyTorch differ by {row.relative:.1e}, more than {_TOLERANCE:.0e}: not the same work")


def _high_water_mark() -> float:
    """Bytes that this process has had in memory at most; NaN where there is no /proc.

    From the mark of its own memory: ru_maxrss also counts what the process that started it had, up to the moment of exec.
    """
    status = Path("/proc/self/status")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return int(fields["VmHWM"].split()[0]) * 1024 if fields else math.nan


def _config_from(text: str) -> Config:
    """A Config with the values of a JSON object, the others as they are by default."""
    default = Config()
    values = json.loads(text)
    groups = {name: dataclasses.replace(getattr(default, name), **value) for name, value in values.items() if isinstance(value, dict)}
    return dataclasses.replace(default, **(values | groups))


def main() -> None:
    """Prints the memory of one side alone, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m parity.speed", description="Memory in bytes that one framework takes for one job.")
    parser.add_argument("--framework", choices=FRAMEWORKS, required=True)
    parser.add_argument("--job", choices=JOBS, required=True)
    parser.add_argument("--config", type=_config_from, default="{}", help='JSON, such as {"model": {"size": "small"}}')
    arguments = parser.parse_args()
    keep_freed_memory()
    side, imported = _side(arguments.framework), _high_water_mark()
    run = getattr(side, arguments.job)(arguments.config, random_batch(arguments.config))
    for _ in range(_PEAK_STEPS):
        run()
    print(json.dumps(Memory(imported, _high_water_mark())._asdict()))


if __name__ == "__main__":
    main()
