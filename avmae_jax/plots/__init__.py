"""Draws every plot; the only package that imports matplotlib."""
