"""A media file to clips."""
