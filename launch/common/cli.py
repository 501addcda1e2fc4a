"""Starts a program: prints its help, reads its command line, and turns what a user did wrong into a line.

A program imports jax, Orbax and the like in the functions that use them, so that its help and its complaints come at once.
"""

import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import LogRecord
from pathlib import Path
from types import FrameType
from typing import cast

from absl import app, flags, logging
from ml_collections import config_flags

from avmae_jax import config_files, ctrl_c
from avmae_jax.config import Config
from avmae_jax.errors import ConfigError, RemotePathError, WriteError
from avmae_jax.files import full_disk, printable, require_local

from . import help_page, overrides

DONE, FAILED, SOME_FAILED = 0, 1, 3  # exit states; ctrl_c.STATUS is another one, and help_page.py describes them all
_BACKENDS = "xla_bridge.py"  # file of JAX that raises where a platform has no plugin or no device
_SWALLOWING = ("_xla_gc_callback", "__del__")  # Python drops what is raised in these
_LIBRARIES = ("tensorflow_datasets", "apache_beam")  # which define options
_SOON = 0.01  # seconds
_OPTION = re.compile(r"--?[\w.]+=")  # what stands before an option's value


def run(main: Callable[[list[str]], None], define_flags: Callable[[], None], doc: str | None) -> None:
    """Runs a program's main, or prints its help if --help or -h is given.

    Args:
      main: gets the program's name and the arguments that are no options, which may stand between options.
      define_flags: defines the program's options; all of these, and no others, are in the help.
      doc: the docstring of the program.
    """
    received: list[int] = []
    try:
        with interruptible() as received:
            _run(main, define_flags, doc)
    except KeyboardInterrupt as stopped:
        for process in multiprocessing.active_children():
            process.terminate()
        # not sys.exit: libraries would complain on their way out that the traceback holds their objects
        ctrl_c.end(next(iter(received), signal.SIGINT), *stopped.args)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Lets the first Ctrl-C or SIGTERM raise KeyboardInterrupt in the block; a second one ends the process at once, without a traceback.

    So does the first one during an import, of which nothing has to be cleaned up and which libraries written in C can't be stopped in.

    Yields:
      The signals that have arrived.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)  # SIGALRM, from below, is never the first
        for each in ctrl_c.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if ctrl_c.is_importing(frame):
            ctrl_c.end(received[0])
        if frame and frame.f_code.co_name in _SWALLOWING:
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, _SOON)
            return
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ctrl_c.SIGNALS}
    try:
        yield received
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _run(main: Callable[[list[str]], None], define_flags: Callable[[], None], doc: str | None) -> None:
    options = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    helps = {"--help", "-h"} & {*options}
    before = {*flags.FLAGS}
    try:
        if not helps:
            overrides.require_known_fields(options)
        define_flags()
    except (ConfigError, flags.Error, KeyError, TypeError) as error:
        sys.exit(_line(error))
    if helps:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` may stop before the end
        print(help_page.text(doc or "", [flags.FLAGS[name] for name in flags.FLAGS if name not in before and _is_ours(name)]))
        return
    flags.FLAGS.set_gnu_getopt()
    app.run(lambda argv: _call(main, argv), flags_parser=parse)


def _is_ours(name: str) -> bool:
    """Returns whether an option is the program's, not one that a library defined when it was imported."""
    return str(flags.FLAGS.find_module_defining_flag(name)).split(".", maxsplit=1)[0] not in _LIBRARIES


def define_config(values: flags.FlagValues = flags.FLAGS, argv: list[str] | None = None, recipe: str = "") -> None:
    """Defines --config, a file or a shipped recipe, and --config.FIELD for those fields that `argv`, by default sys.argv, sets.

    Without --config it is the shipped `recipe`; if that is "", the user must give one.
    """
    text = f"a config file, or the name of a shipped recipe: {', '.join(config_files.shipped_names())}"
    default, text = (config_files.shipped(recipe), f"{text}; left out: {recipe}") if recipe else (Config(), text)
    config_flags.DEFINE_config_dataclass("config", default, text, values, argv, config_files.load)


def config(*, required: bool = True, reads: bool = True) -> Config:
    """Returns the config of define_config with the fields given on the command line.

    Args:
      required: whether the user must give one.
      reads: whether the program reads the config's clips; if so, those of the built-in set are announced.

    Raises:
      ConfigError: if it can't work, or the user gave none and it is required.
    """
    if required and flags.FLAGS["config"].using_default_value:
        raise ConfigError(f"give --config, a config file or the name of a shipped recipe: {', '.join(config_files.shipped_names())}")
    chosen = cast(Config, flags.FLAGS["config"].value)
    chosen.validate()
    if reads and chosen.data.source == "builtin":
        words = "for your own clips give --config.data.source=prepared --config.data.path=DATASET, a folder that launch.prepare wrote"
        logging.info("the clips are those of the built-in set, synthetic instruments; %s", words)
    return chosen


def no_arguments(argv: list[str]) -> None:
    """Raises UsageError for an argument that is no option."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; options begin with --, settings are given as --config.train.batch_size=4")


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line for app.run; a wrong option or a path of another machine ends the program with a line."""
    try:
        for part in (part for argument in argv[1:] for part in _OPTION.sub("", argument).split(",")):
            require_local(part)
        kept, opened = overrides.without_opened(argv)
        rest = values(kept)
        for field in opened:
            setattr(cast(Config, values["config"].value).holder(field), field.rpartition(".")[2], None)
        return rest
    except (flags.Error, ConfigError, RemotePathError, KeyError, TypeError) as error:
        sys.exit(_line(error))


def status_of(failed: int, count: int) -> int:
    """Returns the exit status of a program that was given several files."""
    return DONE if not failed else SOME_FAILED if failed < count else FAILED


def _call(main: Callable[[list[str]], None], argv: list[str]) -> None:
    logging.get_absl_handler().addFilter(_make_printable)
    try:
        main(argv)
        sys.stdout.flush()
    except app.UsageError as error:
        print(printable(f"{error}\n{_hint()}"), file=sys.stderr)
        sys.exit(FAILED)
    except SystemExit as end:
        sys.exit(printable(end.code) if isinstance(end.code, str) else end.code)
    except (RuntimeError, AssertionError) as error:
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).name != _BACKENDS:
            raise
        reason = f": {str(error).splitlines()[0]}" if str(error) else ""
        sys.exit(f"JAX finds no device of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}{reason}; unset it or install that plugin")
    except OSError as error:
        full = full_disk(error)
        if not isinstance(error, WriteError | BrokenPipeError) and full is None:
            raise
        _let_go_of_output()
        if isinstance(error, BrokenPipeError):
            sys.exit("the program that reads the output has ended")
        sys.exit(printable(str(WriteError(*full, error.filename or "the output") if full else error)))


def _let_go_of_output() -> None:
    """Sends what can't be written to the standard output nowhere, or Python would try again at exit and complain in lines of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _make_printable(record: LogRecord) -> bool:
    """Takes what a terminal would act on out of a line of the log, in which names of files and classes are."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _line(error: Exception) -> str:
    cause = error.__context__ if isinstance(error.__context__, ConfigError) else error  # absl wraps what a config file raised
    return str(cause) if isinstance(cause, ConfigError | RemotePathError) else f"{error.args[0]}\n{_hint()}"


def _hint() -> str:
    return "--help lists the options"
