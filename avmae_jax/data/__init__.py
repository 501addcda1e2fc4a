"""From media files to batches."""
