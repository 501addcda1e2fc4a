"""Measurements of launch.benchmark."""
