"""Runs the one loop of every kind of training; the task that is passed in defines the losses.

The loop is made to be killed: everything that decides what comes next (parameters, moments, key, place in the data) is in the
checkpoint, and random numbers of a step follow from the key and the step's number, so a resumed run repeats the uninterrupted one bit
for bit.
"""

import contextlib
import dataclasses
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avmae_jax.checkpoint.manager import Checkpoints, Restored, require_same_config
from avmae_jax.config import Config, with_defaults
from avmae_jax.data.batches import Batch, EvalOptions, TrainBatches, TrainOptions, eval_batches
from avmae_jax.data.clip import ClipSource
from avmae_jax.errors import NonFiniteLossError
from avmae_jax.train import memory, sharding
from avmae_jax.train.clock import Clock
from avmae_jax.train.logbook import Logbook
from avmae_jax.train.snapshots import Snapshots
from avmae_jax.train.step import Context, Metrics, State, make_loss, make_step
from avmae_jax.train.task import Task

# Fields that may differ when a run is resumed: they don't change what is computed, or (steps, epochs) only for how long.
_FREE_FIELDS = (
    "name", "requires", "mesh", "data.path", "data.eval_path", "data.labels_csv", "data.root", "data.cache_dir", "data.workers",
    "data.threads", "data.prefetch", "data.max_damaged", "train.workdir", "train.epochs", "train.steps", "train.log_every",
    "train.eval_every", "train.picture_every", "train.checkpoint_every", "train.keep_last", "train.keep_every", "train.eval_batches",
    "train.retrieval_clips", "train.micro_batch",
)  # fmt: skip


class Reporter(Protocol):
    """Shows how the run goes; launch/common/runtime.py draws a bar."""

    def start(self, first: int, total: int) -> None:
        """Begins a run from step `first` (0: from nothing) to `total`."""
        ...

    def step(self, step: int, loss: float, pairs_per_second: float, waiting: float) -> None:
        """Reports a step that is done; `waiting` is the share of time spent waiting for data."""
        ...


class Trainer:
    """A run: its state on the devices, its data, its files."""

    def __init__(self, config: Config, model: nnx.Module, task: Task, train: ClipSource, test: ClipSource | None, *, micro_batch: int):
        """Places the model on the devices.

        Args:
          config: of the run; `config.optim` and `config.train` rule the loop.
          model: freshly initialised.
          task: the loss and the pictures.
          train: training clips.
          test: held-out clips, or None for no evaluation.
          micro_batch: pairs computed at once; divides the batch.

        Raises:
          ValueError: if batch, micro-batch and devices don't divide.
        """
        self.config, self.task, self.train_source, self.test_source = config, task, train, test
        self.mesh = sharding.make_mesh(config.mesh)
        self.groups = sharding.batch_shards(self.mesh)
        batch = config.train.batch_size
        memory.require_even(batch, micro_batch, self.groups)
        self.steps_per_epoch = len(train) / batch
        self.total_steps = config.train.steps or max(1, round(config.train.epochs * self.steps_per_epoch))
        epochs = int((self.total_steps + 0.5) / self.steps_per_epoch)  # that end within the run, at the nearest step
        if task.averaged_epochs[1] > epochs:
            raise ValueError(f"tune.average_last is {task.averaged_epochs[1]}, but the run has {epochs} whole epochs; change one of them")
        self.step = 0
        self.graph, params, frozen = nnx.split(model, task.trainable(), ...)
        schedule = task.schedule(self.steps_per_epoch)
        optimizer = task.optimizer(schedule)
        placed = jax.device_put((params, frozen), sharding.shardings((params, frozen), self.mesh))
        opt_state = jax.eval_shape(optimizer.init, params)
        opt_places = sharding.shardings(opt_state, self.mesh)
        extra = jax.eval_shape(task.init_extra, params)
        places_of_extra = sharding.shardings(extra, self.mesh)
        self.state = State(
            params=placed[0],
            frozen=placed[1],
            opt_state=jax.jit(optimizer.init, out_shardings=opt_places)(placed[0]),
            extra=jax.jit(task.init_extra, out_shardings=places_of_extra)(placed[0]),
        )
        places = jax.tree.map(lambda x: x.sharding, self.state)
        step = make_step(self.graph, task, optimizer, schedule, micro_batches=batch // micro_batch, groups=self.groups)
        self.jitted_step = jax.jit(step, donate_argnums=0, out_shardings=(places, NamedSharding(self.mesh, PartitionSpec())))
        self.micro_batch = micro_batch
        loss = make_loss(self.graph, task)
        self._eval_loss = jax.jit(
            lambda state, batch, key: loss(state.params, state.frozen, batch, Context(key, self.groups, state.extra))[1]
        )
        weights = getattr(train, "weights", None) if config.augment.balanced else None  # of a source that has them
        options = TrainOptions(config.augment, len(task.label_names), weights, task.needs)
        self.batches = TrainBatches(train, config.model, config.data, batch, config.train.seed, options)
        # on all devices: a restored key comes back to where this one is
        self.key = jax.device_put(jax.random.key(config.train.seed), NamedSharding(self.mesh, PartitionSpec()))

    def merge(self, state: State) -> Any:
        """The model with the parameters of a state."""
        return nnx.merge(self.graph, state.params, state.frozen)

    @property
    def model(self) -> Any:
        """The model as it is now."""
        return self.merge(self.state)

    def run(self, reporter: Reporter | None = None) -> bool:
        """Trains until the last step, or until SIGTERM, which saves and returns.

        Returns:
          True if the last step was reached.

        Raises:
          NonFiniteLossError: nothing of the bad step is saved.
          CheckpointError, CheckpointMismatchError: see checkpoint.py.
        """
        folder = Path(self.config.train.workdir).expanduser()
        train = self.config.train
        with Checkpoints(folder / "checkpoints", keep_last=train.keep_last, keep_every=train.keep_every) as checkpoints:
            self._restore(checkpoints)
            if reporter:
                reporter.start(self.step, self.total_steps)
            logbook = Logbook(folder, self.step)
            try:
                with _sigterm() as stop_asked:
                    return self._loop(checkpoints, logbook, reporter, stop_asked)
            finally:
                logbook.close()
                self.batches.close()

    def _loop(self, checkpoints: Checkpoints, logbook: Logbook, reporter: Reporter | None, stop_asked: Callable[[], bool]) -> bool:
        train = self.config.train
        snapshots = Snapshots(Path(train.workdir).expanduser(), self._meta, *self.task.averaged_epochs)
        clock = Clock(train.batch_size)
        running: tuple[int, Any, Metrics] | None = None  # the step under way: its results are read while the next one is computed

        def settle() -> None:
            nonlocal running
            if running is not None:
                (step, ids, metrics), running = running, None
                values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                self._require_finite(step, values, ids, checkpoints)
                logbook.write(step, "train", values)
                clock.done()
                if reporter:
                    reporter.step(step, values["loss"], clock.pairs_per_second, clock.waiting)

        while self.step < self.total_steps and not stop_asked():
            with clock.wait():
                batch = next(self.batches)
            ids, on_device = batch["id"], put_on_devices(batch, self.mesh)
            self.state, metrics = self.jitted_step(self.state, on_device, self.key, np.int32(self.step))
            self.step += 1
            settle()
            running = (self.step, ids, metrics)
            last, epoch = self.step == self.total_steps, self._epoch_ended()
            if last or self.step % train.log_every == 0:
                checkpoints.check()
                logbook.flush()
            if last or self._due(train.eval_every):
                settle()
                if held_out := self.evaluate():
                    logbook.write(self.step, "eval", held_out)
                    if (measured := self.task.better(held_out)) is not None:
                        snapshots.measured(self.step, self.params, measured)
            if last or self._due(train.picture_every or train.eval_every):
                settle()
                self.task.draw(self.model, self.step)
            if epoch:
                settle()
                snapshots.epoch_ended(epoch, self.step, self.params)
            if last or self._due(train.checkpoint_every):
                settle()
                logbook.flush()
                self._save(checkpoints)
        settle()
        if self.step < self.total_steps:
            logbook.flush()
            if checkpoints.newest() != self.step:
                self._save(checkpoints)
            logging.info("stopped by SIGTERM after step %d, which is saved; the same command goes on from there", self.step)
        return self.step >= self.total_steps

    def evaluate(self) -> dict[str, float]:
        """What the task measures on the held-out clips; {} without such clips."""
        return self.task.evaluate(self.model, self.mean_losses)

    def mean_losses(self) -> dict[str, float]:
        """Mean losses over the held-out clips, with the same masks every time; {} without such clips.

        Batches are as large as in training, or as the held-out set; what is left over at its end is not used, since the contrastive loss
        of a smaller batch can't be compared.
        """
        if self.test_source is None:
            return {}
        size = min(self.micro_batch, len(self.test_source) // self.groups * self.groups)
        if not size:
            raise ValueError(
                f"{len(self.test_source)} held-out clips can't be shared by the {self.groups} parts into which the mesh cuts a batch; "
                "hold out more clips, or lower mesh.data or mesh.fsdp"
            )
        count = len(self.test_source) // size
        count = min(count, self.config.train.eval_batches or count)
        sums: dict[str, float] = {}
        for index, batch in enumerate(
            eval_batches(self.test_source, self.config.model, self.config.data, size, EvalOptions(limit=count * size))
        ):
            share = host_share(batch)
            metrics = self._eval_loss(self.state, put_on_devices(share, self.mesh), jax.random.key(index))
            for name, value in jax.device_get(metrics).items():
                sums[name] = sums.get(name, 0.0) + float(value) / count
        return sums

    @property
    def params(self) -> Any:
        """All parameters, trained or not."""
        return nnx.merge_state(self.state.params, self.state.frozen)

    def _epoch_ended(self) -> int:
        """Which epoch ends with this step, counted from 1, or 0; the last one of several that are shorter than a step."""
        epoch = int((self.step + 0.5) / self.steps_per_epoch) + 1  # or one less
        while epoch and round(epoch * self.steps_per_epoch) > self.step:
            epoch -= 1
        return epoch if round(epoch * self.steps_per_epoch) == self.step else 0

    def _due(self, every: int) -> bool:
        """Whether what is done every so many steps, or at the end of each epoch where that is 0, is to be done now."""
        return self.step % every == 0 if every else bool(self._epoch_ended())

    def _meta(self) -> dict[str, Any]:
        own = {"label_names": list(self.task.label_names), "train_clips": len(self.train_source), "micro_batch": self.micro_batch}
        return {"config": dataclasses.asdict(self.config), **own}

    def _save(self, checkpoints: Checkpoints) -> None:
        checkpoints.save(
            self.step,
            params=self.params,
            opt_state=self.state.opt_state,
            extra=self.state.extra,
            rng=self.key,
            data=self.batches.state,
            meta=self._meta(),
        )

    def _restore(self, checkpoints: Checkpoints) -> None:
        def check(meta: dict[str, Any]) -> None:
            saved, now = (
                {**with_defaults(m["config"], classifies=bool(m["label_names"])), "train_clips": m["train_clips"]}
                for m in (meta, self._meta())
            )
            require_same_config(saved, now, ignore=_FREE_FIELDS)
            if meta["micro_batch"] != self.micro_batch:
                logging.warning(
                    "micro-batches were %d pairs and are now %d: another set of negatives", meta["micro_batch"], self.micro_batch
                )

        restored: Restored | None = checkpoints.restore(
            self.params, self.state.opt_state, self.key, extra=self.state.extra, check_meta=check
        )
        if restored is None:
            return
        params, frozen = nnx.split_state(restored.params, self.task.trainable(), ...)
        self.state = State(params, frozen, restored.opt_state, restored.extra)
        self.key, self.step, self.batches.state = restored.rng, restored.step, restored.data
        logging.info("resumed from step %d", self.step)

    def _require_finite(self, step: int, values: dict[str, float], ids: Any, checkpoints: Checkpoints) -> None:
        bad = next((name for name in ("loss", "gradient_norm") if not math.isfinite(values[name])), None)
        if bad is None:
            return
        checkpoints.wait()
        good = checkpoints.newest()
        where = f"{checkpoints.directory / str(good)}" if good is not None else "none yet"
        parts = ", ".join(f"{name} {value}" for name, value in values.items() if name != bad)
        raise NonFiniteLossError(
            f"the {bad.replace('_', ' ')} of step {step} is {values[bad]} ({parts})\n"
            f"clips of that batch: {', '.join(map(str, ids))}\nlast good checkpoint: {where}\n"
            "look at these clips, or lower optim.learning_rate, and start again"
        )


def put_on_devices(batch: Batch, mesh: Mesh) -> Any:
    """What of a batch the step needs, on the mesh; ids stay on the host."""
    return sharding.put_batch({name: value for name, value in batch.items() if name != "id"}, mesh)


def host_share(batch: Batch) -> Batch:
    """This host's rows of a batch that every host has read whole."""
    host, hosts = jax.process_index(), jax.process_count()
    rows = len(batch["id"]) // hosts
    return {name: value[host * rows : (host + 1) * rows] for name, value in batch.items()}


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM into a question that the loop asks between steps."""
    asked = False

    def handler(*_: Any) -> None:
        nonlocal asked
        asked = True

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, previous)
