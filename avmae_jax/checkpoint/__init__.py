"""Saves and restores the steps of a run; the only folder that uses Orbax."""
