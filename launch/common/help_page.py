"""Writes a program's help: its docstring, its options, and every field of its config with the comment in avmae_jax/config."""

import dataclasses
import inspect
import io
import re
import shutil
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Sequence

from absl import flags

from avmae_jax.config import Config
from avmae_jax.settings import Settings, field_types

_WIDTH = 140  # of a line, at most
_COLUMN = 40  # where explanations begin
_STATES = (
    "Exit status: 0 done, 1 not done for a reason that is printed, 3 some of several files failed, 130 stopped by Ctrl-C, 143 by SIGTERM."
)
_FIELDS = "Fields of --config, each set by --config.FIELD=VALUE (None opens one again that may be None), with their defaults:"


def text(doc: str, options: Sequence[flags.Flag]) -> str:
    """Returns the page; the fields of a config are on it if --config is among the options."""
    if sys.argv[0].startswith("avmae "):  # started by avmae_jax/cli.py
        doc = re.sub(r"configs/(\w+)\.py", r"\1", doc.replace("python -m launch.", "avmae "))
    lines = [inspect.cleandoc(doc), "", "Options:", *(line for option in options for line in _entry(_usage(option), _explained(option)))]
    lines += _entry("--help, -h", "print this page")
    if any(option.name == "config" for option in options):
        lines += ["", _FIELDS]
        lines += _fields(Config())
    return "\n".join([*lines, "", _STATES])


def comments(group: type[Settings]) -> dict[str, str]:
    """Returns the comment that stands beside each field in the source of a group of settings, or of the class that it inherits from."""
    found, name = {}, ""
    sources = "\n".join(inspect.getsource(each) for each in group.__mro__ if issubclass(each, Settings) and each is not Settings)
    for token in tokenize.generate_tokens(io.StringIO(sources).readline):
        if token.type == tokenize.NAME and not token.line[: token.start[1]].strip():
            name = token.string
        elif token.type == tokenize.COMMENT and name in field_types(group):
            found.setdefault(name, token.string.lstrip("# "))
    return found


def _fields(group: Settings) -> Iterator[str]:
    about = comments(type(group))
    for field in dataclasses.fields(group):  # pyright: ignore[reportArgumentType]
        value = getattr(group, field.name)
        if isinstance(value, Settings):
            yield from ("", f"  {field.name}: {inspect.cleandoc(type(value).__doc__ or '').splitlines()[0]}", *_fields(value))
        else:
            kind = getattr(field.type, "__name__", None) if not hasattr(field.type, "__args__") else str(field.type)
            yield from _entry(f"{group.dotted(field.name)}: {kind} = {value!r}", about.get(field.name, ""))


def _usage(option: flags.Flag) -> str:
    if option.boolean:
        return f"--[no]{option.name}"
    if isinstance(option.parser, flags.EnumParser):
        return f"--{option.name}={'|'.join(option.parser.enum_values)}"
    if option.name == "config":
        return "--config=FILE"
    kinds = {"int": "N", "float": "X", "string": "TEXT", "multi string": "TEXT", "comma separated list of strings": "A,B,..."}
    return f"--{option.name}={kinds.get(option.flag_type(), 'VALUE')}"


def _explained(option: flags.Flag) -> str:
    again = "; may be repeated" if isinstance(option, flags.MultiFlag) else ""
    default, about = option.default, (option.help or "").split(">: ")[-1]  # absl puts an enum's choices before the text
    if option.name == "config" or default in (None, "", []):
        return f"{about}{again}"
    shown = ",".join(default) if isinstance(default, list) else str(default).lower() if option.boolean else default
    return f"{about}{again} (default: {shown})"


def _entry(name: str, explained: str) -> list[str]:
    width = min(_WIDTH, shutil.get_terminal_size((120, 24)).columns)
    indent = " " * (_COLUMN + 2)
    wrapped = textwrap.wrap(explained, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    if len(name) + 2 < _COLUMN and wrapped:
        return [f"  {name:{_COLUMN}}{wrapped[0].lstrip()}", *wrapped[1:]]
    return [f"  {name}", *wrapped]
