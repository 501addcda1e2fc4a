"""Holds the programs: thin mains over avmae_jax."""

import sys

from avmae_jax import ctrl_c

if sys.argv[0] == "-m":  # what Python sets while it locates the program of `python -m`; whoever imports this keeps their own handler
    ctrl_c.install()
