"""Checks against the original implementation."""
