"""Runs the one loop of every kind of training; the task that is passed in defines the losses.

The loop expects to be killed. Everything that decides what comes next (parameters, moments, the task's own state, the key, the position in
the data) is in the checkpoint, and the random numbers of a step follow from the key and the step's number. A resumed run therefore repeats
the uninterrupted one bit for bit.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from avmae_jax.checkpoint.manager import Checkpoints, Restored
from avmae_jax.config import Config
from avmae_jax.data.batches import EvalOptions, TrainBatches, eval_batches
from avmae_jax.data.clip import ClipSource
from avmae_jax.train import hosts, memory, sharding
from avmae_jax.train.clock import Clock
from avmae_jax.train.continuing import require_same_run
from avmae_jax.train.epochs import Epochs
from avmae_jax.train.feed import Feed
from avmae_jax.train.fitting import Fit
from avmae_jax.train.logbook import Logbook
from avmae_jax.train.profiling import StepProfile
from avmae_jax.train.program import CompiledOnce, initial_state, jit_step
from avmae_jax.train.snapshots import Snapshots
from avmae_jax.train.step import Metrics, State, make_evaluation
from avmae_jax.train.step_log import Reporter, StepLog, shown
from avmae_jax.train.stopping import Agreement, ctrl_c_held, stop_requested
from avmae_jax.train.task import Task


class Trainer:
    """Holds a run: its state on the devices and its data."""

    def __init__(self, config: Config, model: nnx.Module, task: Task, train: ClipSource, test: ClipSource | None, *, fit: Fit):
        """Places the model on the devices and opens the data.

        Args:
          config: of the run.
          model: freshly initialised.
          task: what the model is trained for.
          train: training clips.
          test: held-out clips; None: the run isn't evaluated.
          fit: how batches are computed.

        Raises:
          ValueError: if batch, micro-batch and devices don't divide, or the run is too short for the epochs to be averaged.
        """
        self.config, self.task, self.train_source, self.test_source, self.micro_batch = config, task, train, test, fit.micro_batch
        batch = config.train.batch_size
        self.mesh = sharding.make_mesh(config.mesh)
        self.groups = sharding.batch_shards(self.mesh)
        memory.require_even(batch, fit.micro_batch, self.groups)
        self.epochs = Epochs(len(train) / batch)
        self.step, self.total_steps = 0, self.epochs.total_steps(config.train)
        self._written: Mapping[str, Any] | None = None  # fingerprint of metrics.jsonl in the restored checkpoint
        self._saved_at = time.monotonic()
        _, last_averaged = task.averaged_epochs
        if last_averaged > (whole := self.epochs.within(self.total_steps)):
            raise ValueError(
                f"tune.average_last is {last_averaged}, but the run has {whole} whole epochs; change one of them, or set "
                "tune.average_first and tune.average_last to 0 for no average"
            )

        everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.key = jax.jit(lambda: jax.random.key(config.train.seed), out_shardings=everywhere)()  # device_put can't in several processes
        schedule = task.schedule(self.epochs.steps, self.total_steps)
        optimizer = task.optimizer(schedule)
        self.graph, state = initial_state(model, task, optimizer, self.mesh)
        self.leaves, self._structure = jax.tree.flatten(state)
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        self.jitted_step = jit_step(self.graph, task, (optimizer, schedule), self.mesh, places, batch // fit.micro_batch)
        self._take_step = CompiledOnce(self.jitted_step, fit.step)
        own_rows, comparing = sharding.on_own_rows(self.mesh), task.comparing
        evaluation = make_evaluation(
            self.graph, task, micro_batch=fit.micro_batch, groups=self.groups, own_rows=own_rows, comparing=comparing
        )
        self._eval_loss = jax.jit(evaluation)
        weights = getattr(train, "weights", None) if config.augment.balanced else None  # only some sources have them
        rows = sharding.own_rows(self.mesh, batch)
        self.batches = TrainBatches(train, config.model, config.data, batch, config.train.seed, task.train_options(weights), rows)
        self._feed = Feed(self.batches, partial(sharding.put_batch, mesh=self.mesh))
        self._agreement = Agreement(self.mesh)

    @property
    def state(self) -> State:
        """Returns everything that a step changes; steps pass its leaves to each other, see program.jit_step."""
        return jax.tree.unflatten(self._structure, self.leaves)

    @state.setter
    def state(self, state: State) -> None:
        self.leaves = self._structure.flatten_up_to(state)

    @property
    def model(self) -> Any:
        """Returns the model with the current parameters."""
        return nnx.merge(self.graph, self.state.params, self.state.frozen)

    @property
    def negatives(self) -> int:
        """Returns the number of pairs among which the contrastive loss chooses; 0 without one."""
        return self.task.negatives(self.micro_batch, self.groups)

    @property
    def params(self) -> Any:
        """Returns all current parameters, trained or not."""
        return nnx.merge_state(self.state.params, self.state.frozen)

    @property
    def averaged_model(self) -> Any:
        """Returns the model with the averaged weights of train.ema; None without them."""
        state = self._averaged
        return nnx.merge(self.graph, state.params, state.frozen) if state else None

    @property
    def _averaged(self) -> State | None:
        """Returns the state with the averaged weights in place of the current ones; None without them."""
        state = self.state
        return state._replace(params=state.extra["ema"]) if "ema" in state.extra else None

    def run(self, reporter: Reporter | None = None, on_restored: Callable[[], None] = lambda: None, *, profile: int = 0) -> bool:
        """Restores the newest checkpoint, if there is one, and trains until the last step; SIGTERM and Ctrl-C save and return earlier.

        Args:
          reporter: is called at every step.
          on_restored: is called before the first step, once a checkpoint has been accepted or there is none.
          profile: number of steps that profiling.py records; 0: none.

        Returns:
          True if the last step was reached and nobody asked to stop.

        Raises:
          NonFiniteLossError: if a loss or gradient isn't finite; nothing of that step is saved.
          CheckpointMismatchError: if the checkpoint is of another config or model.
          CheckpointError: if a checkpoint can't be written, or none can be read.
          ConfigError: if fewer steps are left than should be profiled.
        """
        train, folder = self.config.train, Path(self.config.train.workdir).expanduser()
        with (
            closing(self._feed),
            stop_requested() as stopped,  # until the last checkpoint is complete
            Checkpoints(folder / "checkpoints", keep_last=train.keep_last, keep_every=train.keep_every) as saved,
        ):
            self._restore(saved)
            profiler = StepProfile(folder, profile, self.step, self.total_steps)
            on_restored()
            if reporter:
                reporter.start(self.step, self.total_steps)
            with closing(profiler), closing(Logbook(folder, self.step, self._written)) as logbook:
                return self._loop(saved, logbook, reporter, stopped, profiler)

    def _loop(
        self, checkpoints: Checkpoints, logbook: Logbook, reporter: Reporter | None, stopped: Callable[[], str], profiler: StepProfile
    ) -> bool:
        train, clock = self.config.train, Clock(self.config.train.batch_size)
        snapshots = Snapshots(Path(train.workdir).expanduser(), self._meta, *self.task.averaged_epochs)
        log = StepLog(logbook, clock, checkpoints, reporter, self.epochs.steps, train.log_every)
        held = ctrl_c_held() if self.config.data.workers else nullcontext()  # the first batch starts the reader processes
        stop, self._saved_at = False, time.monotonic()
        metrics: Metrics = {}
        while self.step < self.total_steps:
            due = 0 < 60 * train.checkpoint_minutes <= time.monotonic() - self._saved_at
            stop, save_now = self._agreement.decide(bool(stopped()), due, asks=self.step % train.log_every == 0)
            if stop:
                break
            waiting = nullcontext() if self._feed.ready else clock.wait(metrics)
            with profiler.step(self.step, lambda: self.leaves):
                with waiting, held:
                    ids, batch = self._feed.take()
                held = nullcontext()
                self.leaves, metrics = self._take_step(self.leaves, batch, self.key, np.int32(self.step))
            self.step += 1
            if self.step < self.total_steps:
                self._feed.read_ahead()
            log.submit(self.step, ids, metrics)
            last, epoch = self.step == self.total_steps, self.epochs.ended_at(self.step)
            evaluates, draws, saves = (
                last or self.epochs.due(self.step, every)
                for every in (train.eval_every, train.picture_every or train.eval_every, train.checkpoint_every)
            )
            saves = saves or save_now
            if evaluates or draws or saves or snapshots.averages(epoch):
                log.settle()  # nothing is made of a step whose loss isn't finite
            if last or self.step % train.log_every == 0:
                checkpoints.check()
                logbook.flush()
            if evaluates:
                with shown(reporter, "evaluating"):
                    self._evaluate_into(logbook, log.progress(self.step), snapshots)
            if draws and (picture := self.task.draw(self.model, self.step)):
                logbook.picture(self.step, picture)
            if epoch:
                snapshots.epoch_ended(epoch, self.params)
            if saves:
                self._save(checkpoints, logbook, snapshots)
        log.settle()
        if stop and checkpoints.newest() != self.step:
            self._save(checkpoints, logbook, snapshots)
        if stop or any(hosts.gather(bool(stopped()))):
            cause = stopped() or "a signal to another process"
            logging.info("stopped by %s after step %d, which is saved; the same command resumes there", cause, self.step)
            return False
        return True

    def _evaluate_into(self, logbook: Logbook, progress: Mapping[str, float], snapshots: Snapshots) -> None:
        """Evaluates the model, logs the result, and keeps the weights if they are the best so far."""
        if not (held_out := self.evaluate()):
            return
        held_out = hosts.of_first(held_out | {f"ema_{name}": value for name, value in self.evaluate_averaged().items()})
        logbook.write(self.step, "eval", {**held_out, **progress})
        shown = ", ".join(f"{name} {held_out[name]:.4g}" for name in sorted(held_out, key="loss".__ne__))  # the loss first
        logging.info("step %d of %d, epoch %.2f, held out: %s", self.step, self.total_steps, progress["epoch"], shown)
        if (measured := self.task.better(held_out)) is not None:
            snapshots.measured(self.step, self.params, measured)

    def evaluate(self) -> dict[str, float]:
        """Evaluates the model on the held-out clips, as the task defines it; returns {} without such clips."""
        return self.task.evaluate(self.model, self.mean_losses)

    def evaluate_averaged(self) -> dict[str, float]:
        """Evaluates the averaged weights of train.ema in the same way; returns {} without them."""
        if (state := self._averaged) is None:
            return {}
        return self.task.evaluate(self.averaged_model, lambda: self.mean_losses(state))

    def mean_losses(self, state: State | None = None) -> dict[str, float]:
        """Computes the mean losses over the held-out clips, with the same masks every time; {} without such clips.

        The weights are those of `state`, or the current ones. Batches are as large as in training, or as the held-out set. Clips left over
        at its end are not used, since the contrastive loss of a smaller batch can't be compared.
        """
        if self.test_source is None:
            return {}
        clips, config = len(self.test_source), self.config
        size = min(config.train.batch_size if self.task.comparing else self.micro_batch, clips // self.groups * self.groups)
        if not size:
            raise ValueError(
                f"{clips} held-out clips can't be shared by the {self.groups} parts into which the mesh cuts a batch; "
                "hold out more clips, or lower mesh.data or mesh.fsdp"
            )
        count = min(clips // size, config.train.eval_batches or clips // size)
        sums, rows = dict[str, float](), sharding.own_rows(self.mesh, size)
        only = [number * size + row for number in range(count) for row in rows]
        options = EvalOptions(limit=count * size, only=only, pairs=self.task.pairs, one_pair=True)
        for index, batch in enumerate(eval_batches(self.test_source, config.model, config.data, len(rows), options)):
            metrics = self._eval_loss(state or self.state, sharding.put_batch(batch, self.mesh), jax.random.key(index))
            for name, value in jax.device_get(metrics).items():
                sums[name] = sums.get(name, 0.0) + float(value) / count
        return sums

    def _meta(self) -> dict[str, Any]:
        own = {"label_names": list(self.task.label_names), "train_clips": len(self.train_source), "micro_batch": self.micro_batch}
        return {"config": dataclasses.asdict(self.config), **own, "negatives": self.negatives}

    def _save(self, checkpoints: Checkpoints, logbook: Logbook, snapshots: Snapshots) -> None:
        logbook.sync()
        snapshots.save_mean(self.step)  # first: a run that is killed in between comes here again
        if (averaged := self._averaged) is not None:
            snapshots.ema(self.step, nnx.merge_state(averaged.params, averaged.frozen))
        checkpoints.save(
            self.step,
            params=self.params,
            opt_state=self.state.opt_state,
            extra=self.state.extra,
            rng=self.key,
            data=self._feed.state,
            meta=self._meta() | {"metrics": logbook.fingerprint},
        )
        self._saved_at = time.monotonic()

    def _restore(self, checkpoints: Checkpoints) -> None:
        state, check = self.state, self._require_same_run
        restored: Restored | None = checkpoints.restore(self.params, state.opt_state, self.key, extra=state.extra, check_meta=check)
        if restored is None:
            return
        params, frozen = nnx.split_state(restored.params, self.task.trainable(), ...)
        self.state = State(params, frozen, restored.opt_state, restored.extra)
        self.key, self.step, self._feed.state = restored.rng, restored.step, restored.data
        self._written = restored.meta.get("metrics")
        logging.info("resumed from step %d", self.step)

    def _require_same_run(self, meta: dict[str, Any]) -> None:
        """Raises CheckpointMismatchError if a checkpoint's run computes something else; warns of other negatives."""
        require_same_run(meta, self._meta(), bound=("train.epochs", "train.steps") if self.config.optim.schedule == "cosine" else ())
        if self.negatives != meta.get("negatives", self.task.negatives(meta["micro_batch"], self.groups)):
            logging.warning(
                "micro-batches had %d pairs and now have %d, so the contrastive loss chooses among %d pairs",
                meta["micro_batch"], self.micro_batch, self.negatives,
            )  # fmt: skip
