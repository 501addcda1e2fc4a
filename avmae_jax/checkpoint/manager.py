"""Saves a run and restores it, whatever happened to the disk in between.

A checkpoint is a folder named after its step, written by Orbax in the background and renamed into place when it is complete. It holds six
items, so that fine-tuning can read `params` alone:

  params, opt_state, extra, rng   {dotted path: array}, in Orbax's own format (OCDBT); nothing is pickled
  data, meta                      JSON

Orbax notices neither a flipped bit nor a damaged newest step, so `meta` also carries a checksum of every tensor, of `data` and of itself.
Restoring goes from the newest step to the oldest until one verifies, and logs what it skipped and why. A step that is intact but belongs to
another model or config is refused instead: skipping it would silently throw a run away.
"""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from logging import WARNING, LogRecord
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from avmae_jax.checkpoint.barrier import barrier
from avmae_jax.checkpoint.step import STEP_NAME, ignore_orphans, pack, read_data, read_meta, read_tensors
from avmae_jax.errors import CheckpointError, DamagedCheckpointError, first_line
from avmae_jax.files import require_local

_TEMPORARY = ".orbax-checkpoint-tmp"  # in the name of a step that isn't complete
_CLEANUPS = 20  # tenths of a second after a failed save
_SAVE_ERRORS = (OSError, ValueError, RuntimeError)  # what Orbax and TensorStore raise when a file can't be written


class Restored(NamedTuple):
    """Holds what a run needs to continue as if it had never stopped."""

    step: int
    params: Any  # the structure and shardings of the target
    opt_state: Any
    extra: Any
    rng: Any
    data: dict[str, Any]  # where the reader was; as JSON gives it back: lists for tuples, strings for keys
    meta: dict[str, Any]


class RestoredParams(NamedTuple):
    """Holds a model's parameters and what was stored about the run that made them."""

    step: int
    params: Any  # the structure and shardings of the target, or {dotted path: array} where none was given
    meta: dict[str, Any]


class Checkpoints:
    """Writes and reads the checkpoints of one run, for the one program that trains it; all others read with `restore_params`.

    On several hosts every process calls every method, and the folder is one that all of them see.
    """

    def __init__(self, directory: str | pathlib.Path, *, keep_last: int = 3, keep_every: int = 0):
        """Opens or creates the folder and clears what a killed save left in it.

        Args:
          directory: holds one folder per step.
          keep_last: how many of the newest steps are kept; at least 1. With 1 there is nothing to fall back on.
          keep_every: every step that is a multiple of this is kept as well; 0: none.

        Raises:
          CheckpointError: if the folder can't be created or written.
          ValueError: if a number is out of range.
        """
        if keep_last < 1 or keep_every < 0:
            raise ValueError(f"train.keep_last is {keep_last} and train.keep_every is {keep_every}; give at least 1 and at least 0")
        require_local(directory)
        _quiet_orbax()
        self.directory = pathlib.Path(directory).expanduser().absolute()
        self._policy = AnyPreservationPolicy([LatestN(keep_last), *([EveryNSteps(keep_every)] if keep_every else [])])
        self._saving: int | None = None  # the step being written in the background
        self._failed = False  # whether its writing has failed in this process, of several
        self._manager = self._open()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, *, params: Any, meta: dict[str, Any], opt_state: Any = (), extra: Any = (), rng: Any = (), data: Any = None
    ) -> None:
        """Copies everything to the host and writes it in the background; the arrays may be donated as soon as this returns.

        Args:
          step: newer than every step saved so far.
          params: pytree of jax arrays, such as an `nnx.State`.
          opt_state: pytree of jax arrays.
          extra: pytree of jax arrays, the task's own state.
          rng: pytree of jax arrays, such as one key of `jax.random.key`.
          data: the reader's state, as JSON.
          meta: whatever identifies the run, its config above all, as JSON.

        Raises:
          CheckpointError: if this save can't begin, or the one before it failed in the background: then this step isn't saved either.
          TypeError: if a leaf isn't a jax array, or `data` or `meta` isn't JSON.
        """
        self.wait()
        newest = self.newest()
        if newest is not None and step <= newest:
            raise CheckpointError(f"{self.directory}: step {step} can't be saved, since step {newest} is there; save newer steps only")
        items = pack(step, {"params": params, "opt_state": opt_state, "extra": extra, "rng": rng}, data or {}, meta)
        self._saving = step
        with self._failures_explained():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(
        self, params: Any, opt_state: Any, rng: Any, *, extra: Any = (), check_meta: Callable[[dict[str, Any]], None] | None = None
    ) -> Restored | None:
        """Restores the newest step that verifies; damaged newer ones are renamed to `<step>.damaged`, so that their numbers are free again.

        Args:
          params: what to restore into: concrete arrays or `jax.ShapeDtypeStruct`s. Their shardings are the ones restored to, whatever mesh
            the checkpoint was saved from; a leaf without one goes to the first local device.
          opt_state: what to restore into, as params.
          rng: what to restore into, as params.
          extra: what to restore into, as params; for a step saved before this item existed it must have no leaves.
          check_meta: called with the `meta` of a step before its tensors are read, and may raise: see config_history.require_same_config.

        Returns:
          None if the folder has no checkpoint at all.

        Raises:
          CheckpointMismatchError: if an intact step holds other tensors than the targets; names them.
          CheckpointError: if there are checkpoints and none verifies; lists each with its reason, and leaves them as they are.
        """
        self.wait()
        targets = {"params": params, "opt_state": opt_state, "extra": extra, "rng": rng}
        damaged: dict[int, str] = {}
        for step, folder in steps_of(self.directory):
            try:
                content = read_meta(folder)
                if check_meta:
                    check_meta(content["meta"])
                data = read_data(folder, content)
                trees = read_tensors(folder, content, targets)
            except DamagedCheckpointError as error:
                damaged[step] = _log_skipped(error)
                continue
            self._set_aside(damaged)
            return Restored(step, trees["params"], trees["opt_state"], trees["extra"], trees["rng"], data, content["meta"])
        if damaged:
            raise CheckpointError(_none_left(self.directory, damaged))
        return None

    def newest(self) -> int | None:
        """Returns the newest step, including the one that is being saved; None if there is none."""
        return self._manager.latest_step()

    def check(self) -> None:
        """Raises CheckpointError if the save in the background has failed already; never waits, so call it between far-apart saves."""
        if self._saving is not None and (self._failed or not self._manager.is_saving_in_progress()):
            self.wait()

    def wait(self) -> None:
        """Waits until the current save is complete; raises CheckpointError if it failed.

        Of several processes the one in which it failed must end then: the others wait for it.
        """
        if self._failed and self._saving is None:
            return  # the error was raised
        with self._failures_explained():
            self._manager.wait_until_finished()
        self._saving = None

    def close(self) -> None:
        """Waits, then ends the background threads."""
        try:
            self.wait()
        finally:
            if not self._failed:
                self._manager.close()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            cleanup_tmp_directories=True,
            lightweight_initialize=True,  # else Orbax reads every step's own metadata now, and fails on a damaged one
            # A folder that can't be made in the background leaves Orbax's other threads waiting for it for 20 minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False, barrier_sync_fn=barrier(self._note_failure)),
        )
        try:
            return ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise CheckpointError(f"{self.directory}: can't keep checkpoints here: {error}; choose another train.workdir") from error

    def _note_failure(self) -> None:
        self._failed = True

    @contextlib.contextmanager
    def _failures_explained(self) -> Iterator[None]:
        try:
            yield
        except _SAVE_ERRORS as error:
            step, self._saving = self._saving, None
            good = self._left() if self._failed else self._reopened()
            cause = f"saving step {step} failed: {first_line(error)}"
            raise CheckpointError(f"{self.directory}: {cause}\n{good}. Free space or mend the folder, then start again") from error

    def _reopened(self) -> str:
        """Clears what a failed save left, and says what is there."""
        self._manager.close()
        self._clear_unfinished()
        try:
            self._manager = self._open()  # forgets the step that failed, clears its temporary folder, frees its space
        except CheckpointError as gone:
            return str(gone)
        return self._left()

    def _left(self) -> str:
        """Says which step is the newest complete one."""
        newest = next((step for step, _ in steps_of(self.directory)), None)
        return "no complete checkpoint is there yet" if newest is None else f"the newest complete checkpoint is step {newest}, untouched"

    def _clear_unfinished(self) -> None:
        """Removes what a failed save left: Orbax's other writers don't notice the failure, and create parts of it again for a moment."""
        for _ in range(_CLEANUPS if jax.process_index() == 0 else 0):
            left = [path for path in self.directory.glob("*") if _TEMPORARY in path.name]
            if not left:
                return
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.1)

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step in damaged if jax.process_index() == 0 else ():
            source = self.directory / str(step)
            target = next(path for n in range(1000) if not (path := source.with_name(f"{step}.damaged{f'-{n}' if n else ''}")).exists())
            source.rename(target)
            logging.warning("%s is now kept as %s; training goes on from an older step", source, target.name)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()


def restore_params(path: str | pathlib.Path, target: Any = None) -> RestoredParams:
    """Reads `params` alone and changes nothing on disk.

    Args:
      path: a run's checkpoint folder, of which the newest step that verifies is taken, or one step of it, which must verify.
      target: pytree of arrays or `jax.ShapeDtypeStruct`s to restore into, with shardings; None: {dotted path: array} on the first device.

    Raises:
      CheckpointMismatchError: if the checkpoint holds other tensors than the target; names them.
      DamagedCheckpointError: if the one step does not verify.
      CheckpointError: if there is no checkpoint, or none verifies; lists each with its reason.
    """
    require_local(path)
    _quiet_orbax()
    path = pathlib.Path(path).expanduser().absolute()
    steps = steps_of(path)
    if not steps and not (path / "params").is_dir() and not (path / "meta").is_dir():
        raise CheckpointError(f"{path}: no checkpoint here; give a run's checkpoint folder or one step of it")
    damaged: dict[int, str] = {}
    for step, folder in steps or [(-1, path)]:
        try:
            content = read_meta(folder)
            params = read_tensors(folder, content, {"params": target})["params"]
        except DamagedCheckpointError as error:
            if not steps:
                raise
            damaged[step] = _log_skipped(error)
            continue
        return RestoredParams(content["step"], params, content["meta"])
    raise CheckpointError(_none_left(path, damaged))


def newest_meta(directory: str | pathlib.Path) -> dict[str, Any] | None:
    """Reads the `meta` of the newest step whose `meta` is intact, without reading a tensor; None if there is no such step."""
    for _, folder in steps_of(pathlib.Path(directory).expanduser().absolute()):
        with contextlib.suppress(DamagedCheckpointError):  # restoring names it
            return read_meta(folder)["meta"]
    return None


def steps_of(directory: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """Lists the complete steps of a folder, newest first."""
    if not directory.is_dir():
        return []
    return sorted(
        ((int(path.name), path) for path in directory.iterdir() if STEP_NAME.fullmatch(path.name) and path.is_dir()), reverse=True
    )


def _log_skipped(error: DamagedCheckpointError) -> str:
    logging.warning("damaged checkpoint skipped: %s", error)
    return str(error)


def _none_left(directory: pathlib.Path, damaged: dict[int, str]) -> str:
    reasons = "\n  ".join(damaged.values())
    return f"{directory}: every checkpoint is damaged; restore one from a copy, or start again in another folder:\n  {reasons}"


def _quiet_orbax() -> None:
    """Keeps Orbax's dozens of log lines per save, and thousands per failed save, off the console; warnings stay."""
    ignore_orphans()
    logging.get_absl_logger().addFilter(_not_chatter)  # adding the same filter again does nothing


def _not_chatter(record: LogRecord) -> bool:
    if "orbax" not in pathlib.Path(record.pathname).parts:
        return True
    return record.levelno >= WARNING and not record.exc_info  # what it logs with a traceback it raises as well
