"""CAV-MAE in JAX: learning from sound and picture."""
