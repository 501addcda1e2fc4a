"""Weights in and out of files: the original's, ViT's and this project's own."""
