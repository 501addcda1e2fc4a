"""Turns media files into batches."""
