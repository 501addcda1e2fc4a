"""Reads XLA_FLAGS, which XLA reads once, when JAX starts its devices."""

import os

EXCLUDE = "--xla_gpu_exclude_nondeterministic_ops"
STRONGER = "--xla_gpu_deterministic_ops"  # excludes the same, and chooses kernels without timing them
_TRUE = ("", "true", "1")


def flags() -> dict[str, str]:
    """Returns the value of each flag by its name, "" where none is written; a file that the variable may name instead isn't read."""
    return {name: value for name, _, value in (flag.partition("=") for flag in os.environ.get("XLA_FLAGS", "").split())}


def add(*given: str) -> None:
    """Adds flags, each as --NAME=VALUE; to be called before anything asks JAX for its devices."""
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *given]).strip()


def is_set(name: str) -> bool:
    """Returns whether a flag is given and true."""
    return flags().get(name, "false").lower() in _TRUE


def exclude_nondeterministic() -> bool:
    """Returns whether GPUs are told to compute the same to the last bit every time."""
    return is_set(EXCLUDE) or is_set(STRONGER)
