"""Compares the JAX models with files of values recorded from the originals, one module for each kind of file; see parity/golden.py."""
