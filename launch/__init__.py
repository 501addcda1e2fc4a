"""The programs: thin mains over avmae_jax."""
