"""Lets a program that trains join its other processes, on this host and on others, by environment variables."""

import faulthandler
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from absl import flags, logging

from avmae_jax.files import printable

from . import cli, kept_programs
from .model_flags import one_line_errors


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the options of `joined`."""
    about = "auto: train together with the processes that SLURM, mpirun, an indexed job or JAX_COORDINATOR_ADDRESS names; off: alone"
    flags.DEFINE_enum("hosts", "auto", ["auto", "off"], about, flag_values=values)
    about = "seconds to wait for the other processes at the start"
    flags.DEFINE_integer("hosts_timeout", 300, about, lower_bound=1, upper_bound=86_400, flag_values=values)


@contextmanager
def joined() -> Iterator[bool]:
    """Joins the other processes for the block; ends this one with the block's error without waiting for them.

    A process that is alone keeps compiled programs as every program does; train/hosts.py says where several keep them.

    Yields:
      Whether this process is the one that reports on the screen.
    """
    if flags.FLAGS.hosts == "off":
        kept_programs.cache_programs()
        yield True
        return
    from avmae_jax.train import hosts, joining

    with one_line_errors():
        several = joining.join(flags.FLAGS.hosts_timeout)
    if not several:
        kept_programs.cache_programs()
        yield True
        return
    kept_programs.explain_failures()
    faulthandler.disable()  # JAX aborts a process when the first one is gone: every thread's traceback would hide the sentence
    if not hosts.is_first():
        logging.set_verbosity(logging.WARNING)
    try:
        yield hosts.is_first()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(printable(end.code), file=sys.stderr)
        joining.leave(end.code if isinstance(end.code, int) else cli.FAILED)
    except Exception:
        traceback.print_exc()
        joining.leave(cli.FAILED)
    finally:
        joining.release()
