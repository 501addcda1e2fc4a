"""Holds the programs: thin mains over avmae_jax."""
