"""Metrics, rankings and evaluations of trained models."""
