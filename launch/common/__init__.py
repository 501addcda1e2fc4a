"""Holds what several programs share."""
