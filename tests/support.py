"""Offers what tests share: tiny clips, a tiny config, programs run as a user runs them."""

import dataclasses
import importlib
import io
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver
from PIL import Image

from avmae_jax.config import Config, ModelConfig
from avmae_jax.config_history import older_kind
from avmae_jax.data.clip import Clip, even_times
from avmae_jax.trees import flatten
from avmae_jax.weights.build import described
from avmae_jax.weights.io import Weights
from launch.common import kept_programs, runtime

ROOT = Path(__file__).parents[1]

# The smallest model that has every part, and clips to match: what launch.pretrain is told in addition to configs/tiny.py.
TINY = {
    "model.width": 32,
    "model.heads": 4,
    "model.depth": 2,
    "model.decoder_width": 16,
    "model.decoder_heads": 4,
    "model.decoder_depth": 1,
    "model.audio_frames": 64,
    "model.image_size": 32,
    "data.builtin_train": 48,
    "data.builtin_test": 16,
    "data.builtin_seconds": 0.64,
    "data.builtin_image_size": 32,
    "train.batch_size": 8,
    "train.log_every": 1,
}

# A model in which no two sizes are alike that could be confused, and two blocks are joint.
ODD = ModelConfig(
    depth=3,
    joint_depth=2,
    width=16,
    heads=2,
    decoder_depth=2,
    decoder_width=8,
    decoder_heads=2,
    audio_frames=24,
    mel_bins=16,
    image_size=16,
    patch=8,
    mlp_ratio=2.0,
)

FRAMES = 10  # of a made-up clip
# Of XLA_FLAGS: a step compiles in a quarter of the time. A newer JAX, which hasn't got the first option, would abort.
_EMITTERS = "--xla_cpu_use_fusion_emitters=false " if jax.__version_info__ < (0, 11) else ""
QUICK = f"{_EMITTERS}--xla_cpu_parallel_codegen_split_count=1"


Program = Callable[..., subprocess.CompletedProcess[str]]


def time_limit(seconds: float) -> float:
    """Returns the seconds that a started program may take: `seconds`, times AVMAE_TEST_TIMEOUT for slow or busy machines."""
    return seconds * float(os.environ.get("AVMAE_TEST_TIMEOUT", "1"))


def sharing(compiled: Path, devices: int = 1) -> dict[str, str]:
    """Returns the environment by which programs on simulated devices keep what they compile in a folder, and compile it quickly."""
    return {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


class Clips:
    """Holds made-up clips in memory: their audio is noise, and frame i of clip n shows the colour (n, 20 * i, 0)."""

    label_names: Sequence[str] = ()

    def __init__(self, count: int, *, seconds: float = 0.7, size: int = 32):
        self._count, self._samples, self._size = count, round(16_000 * seconds), size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Clip:
        waveform = np.random.default_rng(index).integers(-3000, 3000, self._samples).astype(np.int16)
        return Clip(
            f"clip{index}",
            waveform,
            tuple(self._frame(index, number) for number in range(FRAMES)),
            (),
            frame_times=even_times(FRAMES, self._samples / 16_000),
        )

    def _frame(self, index: int, number: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (self._size, self._size), (index, 20 * number, 0)).save(file, "png")
        return file.getvalue()


def apply(config: Config, changes: Mapping[str, object]) -> Config:
    """Sets fields by their dotted names; the config itself is changed and returned."""
    for name, value in changes.items():
        *path, field = name.split(".")
        group = config
        for part in path:
            group = getattr(group, part)
        assert hasattr(group, field), name
        setattr(group, field, value)
    return config


def as_arguments(changes: Mapping[str, object]) -> list[str]:
    """Writes changes of a config as arguments of a launch program."""
    return [f"--config.{name}={value}" for name, value in changes.items()]


def made(config: ModelConfig = ODD, classes: int = 0, seed: int = 0) -> Weights:
    """Makes random weights, no two alike, so that a swap shows."""
    if config.kind == ModelConfig.kind:
        config = dataclasses.replace(config, kind=older_kind(config.modality, classifies=classes > 0))
    rng = np.random.default_rng(seed)
    shapes = flatten(described(config, classes))
    return Weights(config, classes, {path: rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in shapes.items()})


@contextmanager
def called_here(program: ModuleType) -> Iterator[Callable[..., None]]:
    """Yields the main of a program of launch/, to be called with arguments in this process, without its logging and its cache."""
    importlib.import_module("grain")  # defines flags of its own, which restoring would remove if a program imported it first
    before = flagsaver.save_flag_values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "start", lambda: None)
        patch.setattr(kept_programs, "cache_programs", lambda: None)
        flags.FLAGS.set_gnu_getopt()
        program.define_flags()

        def main(*arguments: object) -> None:
            flags.FLAGS.unparse_flags()
            program.main(flags.FLAGS([program.__name__, *map(str, arguments)]))

        try:
            yield main
        finally:
            flagsaver.restore_flag_values(before)


def completed(program: ModuleType, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As if the program had run by itself, which takes seconds more: its exit status and what it printed."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), called_here(program) as main:
        try:
            main(*arguments)
        except app.UsageError as error:
            status = 1
            err.write(f"{error}\n")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            err.write("" if isinstance(end.code, int) else f"{end.code}\n")
    return subprocess.CompletedProcess([*map(str, arguments)], status, out.getvalue(), err.getvalue())


def cells(printed: str) -> list[list[str]]:
    """Lists the cells of the tables that a program prints."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
