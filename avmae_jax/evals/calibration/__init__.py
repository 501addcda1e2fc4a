"""Fits and rates how far the probabilities of a classifier can be trusted."""
