"""Applying trained models to media and clips."""
