"""Measures trained models: metrics, rankings and evaluations into a folder."""
