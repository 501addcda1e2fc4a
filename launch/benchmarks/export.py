"""Measures exported programs beside JAX and the PyTorch reference: `--export CLIP`.

First each side answers for a clip in a process of its own, in turns, from the start of the process to its end. JAX is launch.predict, which
finds the programs that an earlier call has compiled. Then all sides compute in this process, in turns: a batch of windows, from decoded
audio and frames on. PyTorch is given the model's inputs, so that it needn't compute the log-mel.

All sides have the same random weights.
"""

import dataclasses
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx

from avmae_jax.config import AppliedConfig, Config
from avmae_jax.data.frontend import model_inputs
from avmae_jax.export import folder
from avmae_jax.export.program import entries_of
from avmae_jax.models import registry
from avmae_jax.trees import flatten
from avmae_jax.weights.io import Weights, save_torch, write
from avmae_jax.weights.notes import notes_of
from avmae_jax.weights.trained import Trained

from .measuring import Run, Turns, ratio, show, take_turns

_CLASSES = 527  # AudioSet's
_CLOSE = 1e-3  # to which the probabilities of JAX, PyTorch and ONNX in float32 agree
JAX, TORCH = "JAX", "PyTorch"
_EXPORTS: Mapping[str, folder.Quantize | None] = {"ONNX float32": None, "ONNX float16": "float16", "ONNX int8": "int8"}
_EXACT = (JAX, TORCH, "ONNX float32")


def show_export(config: Config, clip: Path, steps: int) -> None:
    """Prints what each side takes for the first answer and afterwards.

    Args:
      config: its model and batch size are used.
      clip: a media file with audio and images.
      steps: turns of each side.

    Raises:
      ValueError: if a process fails, or the sides compute different probabilities.
      ImportError: if PyTorch or onnxruntime is missing.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        trained = _write(config, place)
        starts = take_turns({side: _process(command) for side, command in _commands(place, clip).items()}, steps)
        turns = take_turns(_computing(trained, place, config.train.batch_size), steps, _check)
        sizes = {side: sum(folder.sizes_of(place / _name(side)).values()) for side in _EXPORTS}
    sizes |= dict.fromkeys((JAX, TORCH), 4 * sum(leaf.size for leaf in jax.tree.leaves(nnx.state(trained.module, nnx.Param))))
    rows = [_row(side, sizes[side], starts, turns, config.train.batch_size) for side in turns]
    note = (
        f"{config.name}, windows of {config.model.audio_frames / 100:g} s, {len(os.sched_getaffinity(0))} cores; medians of {steps} turns"
    )
    batch = f"windows/s, batches of {config.train.batch_size}"
    show("Exported programs", ["side", "MB", "first answer, s", "JAX / side", batch, "side / PyTorch"], rows, note)


def _row(side: str, size: int, starts: Mapping[str, Turns], turns: Mapping[str, Turns], batch: int) -> list[Any]:
    first, later = starts[side].clock, turns[side].clock
    speed = f"{batch / float(np.median(later)):.2f}"
    return [side, f"{size / 1e6:.0f}", float(np.median(first)), ratio(starts[JAX].clock, first), speed, ratio(later, turns[TORCH].clock)]


def _name(side: str) -> str:
    """Returns the name of the folder of a side."""
    return side.replace(" ", "_")


def _write(config: Config, place: Path) -> Trained:
    """Writes a classifier with random weights for each side; returns it."""
    model = dataclasses.replace(config.model, kind="cavmae_classifier")
    module = registry.build(model, _CLASSES, rngs=nnx.Rngs(0))
    trained = Trained("random", module, AppliedConfig(model=model), _CLASSES, tuple(f"class {number}" for number in range(_CLASSES)))
    params = {name: np.asarray(leaf) for name, leaf in flatten(nnx.state(module, nnx.Param)).items()}
    write(Weights(model, _CLASSES, params, notes_of(trained.config, trained.label_names, None), None), place / "model.safetensors")
    save_torch(module, place / "model.pth")
    (place / "model.json").write_text(json.dumps(dataclasses.asdict(model)))
    for side, quantize in _EXPORTS.items():
        logging.info("exporting %s", side)
        folder.export(trained, place / _name(side), "classify", quantize=quantize)
    return trained


def _commands(place: Path, clip: Path) -> dict[str, list[str]]:
    """Returns the command of each side that answers for a clip."""
    decoder = str(place / _name(next(iter(_EXPORTS))))
    exported = {side: [str(place / _name(side) / "run.py"), str(clip)] for side in _EXPORTS}
    predict = ["-m", "launch.predict", str(clip), "--model", str(place / "model.safetensors")]
    return {
        JAX: predict,
        **exported,
        TORCH: ["-m", "parity.first_answer", str(place / "model.pth"), str(place / "model.json"), decoder, str(clip)],
    }


def _process(command: list[str]) -> Run:
    """Returns a function that runs a command of Python to its end."""

    def run() -> None:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)  # noqa: S603, of this file
        if done.returncode:
            raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")

    return run


def _computing(trained: Trained, place: Path, batch: int) -> dict[str, Run]:
    """Returns for each side a function that computes the probabilities of the same windows."""
    from parity import first_answer

    entry, rng = entries_of(trained, "classify")["both"], np.random.default_rng(0)
    samples, side = entry.inputs["waveform"][1][1], trained.config.model.image_size
    arrays = {
        "waveform": rng.integers(-(2**15), 2**15, (batch, int(samples)), np.int16),
        "image": rng.integers(0, 256, (batch, side, side, 3), np.uint8),
    }
    function = nnx.jit(lambda module, given: entry.function(module, given)["probabilities"])
    seen = jax.jit(lambda given: model_inputs(given | {"samples": np.full(batch, samples, np.int32)}, trained.config))(arrays)
    reference = first_answer.computing(place / "model.pth", trained.config.model, *(np.asarray(seen[name]) for name in ("audio", "image")))
    sides: dict[str, Run] = {JAX: lambda: np.asarray(function(trained.module, arrays))}
    for name in _EXPORTS:
        program = _opened(place / _name(name))
        sides[name] = lambda program=program: program(arrays)["probabilities"]
    return {**sides, TORCH: reference}


def _opened(exported: Path) -> Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]:
    """Opens a program as the folder's own run.py does."""
    programs = runpy.run_path(str(exported / "programs.py"))["Programs"](exported)
    return lambda arrays: programs.apply("both", arrays)


def _check(results: Mapping[str, Any]) -> None:
    for side in _EXACT:
        if not (furthest := float(np.abs(results[side] - results[JAX]).max())) <= _CLOSE:
            raise ValueError(f"{side} and JAX differ by {furthest:.1e}, more than {_CLOSE:.0e}")
