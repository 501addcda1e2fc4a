"""Defines the options that all programs share that train one run."""

from absl import flags

from . import cli, hosts_flags


def define(values: flags.FlagValues = flags.FLAGS, argv: list[str] | None = None) -> None:
    """Defines --config, the options of hosts_flags, and --profile."""
    cli.define_config(values, argv)
    hosts_flags.define(values)
    about = "steps to record for TensorBoard and Perfetto, into WORKDIR/profile; the first three after a start are left out"
    flags.DEFINE_integer("profile", None, about, lower_bound=1, flag_values=values)


def profile(values: flags.FlagValues = flags.FLAGS) -> int:
    """Returns the number of steps to record; 0: none."""
    return values["profile"].value or 0
