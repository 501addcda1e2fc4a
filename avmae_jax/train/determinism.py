"""Makes GPUs repeat a run to the last bit: train.deterministic sets what XLA reads once, when JAX starts its devices.

Two things differ from one start to the next otherwise. Some kernels add in the order in which their threads arrive, among them cuDNN's
gradient of attention: these are excluded, and models/attention.py does without cuDNN. And XLA times several kernels for a product and
takes the fastest, which may be another one the next time: what it chose is kept in the run's folder. Both flags are those of jax 0.10 to
0.12.
"""

from pathlib import Path

import jax
from absl import logging
from jax._src import distributed, xla_bridge  # nothing public tells whether devices have been started without starting them

from avmae_jax.config import Config
from avmae_jax.errors import ConfigError
from avmae_jax.xla_flags import EXCLUDE, STRONGER, add, flags, is_set, missing_exclusion

_KERNELS = "autotuning_{}.txt"  # in the run's folder: the kernels that XLA chose in a process
_KEEP, _TAKE = "--xla_gpu_dump_autotune_results_to", "--xla_gpu_load_autotune_results_from"


def prepare_devices(config: Config) -> None:
    """Adds the flags of train.deterministic to XLA_FLAGS; to be called before anything asks JAX for its devices.

    Raises:
      ConfigError: if a GPU runs without them already, or XLA_FLAGS says otherwise.
    """
    if not config.train.deterministic:
        return
    exclusion, choice = missing_exclusion(), _choice(Path(config.train.workdir).expanduser().absolute())
    if not xla_bridge.backends_are_initialized():
        add(*exclusion, *choice)
    elif jax.default_backend() != "gpu":
        return
    elif not exclusion and choice:
        logging.warning(
            "the kernels that XLA chooses aren't kept, since JAX uses the GPU already: a resumed run may differ from this one in its last "
            "bits; train in a new process"
        )
    elif exclusion:
        raise ConfigError(
            "train.deterministic is True, but JAX uses the GPU already and has read its flags; train in a new process, "
            f"or start this one with XLA_FLAGS={EXCLUDE}=true"
        )


def note_devices(config: Config) -> None:
    """Logs that train.deterministic changes nothing, where the devices are no GPUs."""
    if config.train.deterministic and (platform := jax.default_backend()) != "gpu":
        logging.info("train.deterministic changes nothing on a %s, which repeats a run to the last bit by itself", platform.upper())


def _choice(workdir: Path) -> list[str]:
    """Returns the flags, where they are missing, by which XLA keeps its choice of kernels and takes it again."""
    if is_set(STRONGER):
        return []
    given, kept = flags(), workdir / _KERNELS.format(distributed.global_state.process_id)
    wanted = {_KEEP: _quoted(kept)}
    if _is_whole(kept):  # XLA ends the program for a file that it can't read
        wanted[_TAKE] = _quoted(kept)
    return [f"{flag}={value}" for flag, value in wanted.items() if flag not in given]


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)


def _is_whole(kept: Path) -> bool:
    """Returns whether a file with the choice of kernels exists and was written to its end; logs if it wasn't."""
    if not kept.exists():
        return False
    whole = kept.read_text(encoding="utf-8", errors="replace").rstrip().endswith("}")
    if not whole:
        logging.warning("%s was not written to its end; kernels are chosen anew, so the run may differ in its last bits from here", kept)
    return whole
