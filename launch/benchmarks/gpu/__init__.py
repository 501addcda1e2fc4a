"""Checks and measures a GPU, part by part: `--gpu-report`."""
