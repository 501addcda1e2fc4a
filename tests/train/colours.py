"""Offers what tests of the loop share: a task of three numbers that learns colours, its trainer, and what a run has written."""

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from avmae_jax.config import Config
from avmae_jax.models.rows import draw
from avmae_jax.train.fitting import Fit
from avmae_jax.train.loop import Trainer
from avmae_jax.train.step import Context
from avmae_jax.train.step_log import MEASURED
from avmae_jax.train.task import Task
from tests.support import TINY, Clips, apply

Arrays = dict[str, jax.Array]


STEPS = 9


class Colours(nnx.Module):
    """Says how green a picture is by its red."""

    def __init__(self) -> None:
        self.w = nnx.Param(jnp.array([0.3, -0.2]))
        self.offset = nnx.Param(jnp.array(0.1))


class ColourTask(Task):
    """Learns a colour; `spoil` may change the loss of a batch."""

    def __init__(self, spoil: Callable[[jax.Array, Any, Mapping[str, jax.Array]], jax.Array] = lambda loss, model, batch: loss):
        super().__init__(Config())
        self._spoil = spoil
        self.drawn: list[int] = []

    @property
    def loss_weights(self) -> Mapping[str, float]:
        return {"square": 1.0}

    def losses(self, model: Colours, batch: Mapping[str, jax.Array], context: Context) -> tuple[Arrays, Arrays]:
        pixel = batch["image"][:, 0, 0].astype(jnp.float32) / 255
        noise = draw(jax.random.normal, context.key, (len(pixel),))
        error = model.w[0] * pixel[:, 0] + model.w[1] * noise + model.offset[...] - pixel[:, 1]
        return {"square": self._spoil(jnp.square(error).mean(), model, batch)}, {"noise": noise.mean()}

    def draw(self, model: Colours, step: int) -> None:
        self.drawn.append(step)


def make_trainer(workdir: Path, *, task: ColourTask | None = None, train: int = 20, test: int | None = 10, micro: int = 4, **changes: Any):
    workdir.mkdir(exist_ok=True)
    settings = {"workdir": str(workdir), "batch_size": 4, "steps": STEPS, "log_every": 1, "eval_every": 4, "checkpoint_every": 3}
    config = apply(Config(), TINY | {f"train.{name}": value for name, value in settings.items()})
    apply(config, {"optim.learning_rate": 0.01} | {name.replace("__", "."): value for name, value in changes.items()})
    held_out = Clips(test) if test is not None else None
    task = task or ColourTask()
    task.config = config
    return Trainer(config, Colours(), task, Clips(train), held_out, fit=Fit(micro))


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def computed(workdir: Path) -> list[dict[str, Any]]:
    """Lists the rows without what they say of the machine."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows(workdir)]


class Watcher:
    """Sends this process a signal after a step, as a Reporter."""

    def __init__(self, stop_after: int = 0, number: signal.Signals = signal.SIGTERM):
        self._stop_after, self._signal = stop_after, number
        self.done: list[tuple[int, str]] = []  # the steps before it, and what the run does
        self.started: list[tuple[int, int]] = []
        self.steps: list[int] = []

    def start(self, first: int, total: int) -> None:
        self.started.append((first, total))

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        self.steps.append(step)
        assert math.isfinite(loss)
        assert pairs_per_second > 0
        assert 0 <= waiting <= 1
        if step == self._stop_after:
            os.kill(os.getpid(), self._signal)

    def doing(self, what: str) -> None:
        self.done.append((len(self.steps), what))
