"""Reads XLA_FLAGS, which XLA reads once, when JAX starts its devices."""

import os

from avmae_jax.errors import ConfigError

EXCLUDE = "--xla_gpu_exclude_nondeterministic_ops"
STRONGER = "--xla_gpu_deterministic_ops"  # excludes the same, and chooses kernels without timing them
_TRUE = ("", "true", "1")


def flags() -> dict[str, str]:
    """Returns the value of each flag by its name, "" where none is written; a file that the variable may name instead isn't read."""
    return {name: value for name, _, value in (flag.partition("=") for flag in os.environ.get("XLA_FLAGS", "").split())}


def add(*given: str) -> None:
    """Adds flags, each as --NAME=VALUE; to be called before anything asks JAX for its devices.

    Raises:
      ConfigError: if the variable names a file, to which none can be added.
    """
    text = os.environ.get("XLA_FLAGS", "").strip()
    if given and text and not text.startswith("-"):
        raise ConfigError(f"XLA_FLAGS names the file {text}, to which {given[0]} can't be added; write its flags into the variable itself")
    os.environ["XLA_FLAGS"] = " ".join([text, *given]).strip()


def is_set(name: str) -> bool:
    """Returns whether a flag is given and true."""
    return flags().get(name, "false").lower() in _TRUE


def exclude_nondeterministic() -> bool:
    """Returns whether GPUs are told to compute the same to the last bit every time."""
    return is_set(EXCLUDE) or is_set(STRONGER)


def missing_exclusion() -> list[str]:
    """Returns the flag that train.deterministic needs of GPUs and that XLA_FLAGS lacks; nothing where they repeat already.

    Raises:
      ConfigError: if XLA_FLAGS has it turned off.
    """
    if exclude_nondeterministic():
        return []
    if (value := flags().get(EXCLUDE)) is not None:
        raise ConfigError(f"train.deterministic is True, but XLA_FLAGS has {EXCLUDE}={value}; leave one of them out")
    return [f"{EXCLUDE}=true"]
