"""Reads and writes weights: files of the original, of image MAEs and ASTs, and this project's own."""
