"""Measures what frozen features and classical statistics can tell: baselines and probes, through scikit-learn."""
