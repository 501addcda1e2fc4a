"""Decodes media files to clips."""
