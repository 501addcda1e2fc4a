"""Applies trained models to media and clips."""
