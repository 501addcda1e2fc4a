"""Puts a run on one HTML page."""
