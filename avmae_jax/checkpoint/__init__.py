"""The only Orbax: saving and restoring the steps of a run."""
