"""Finds out which clips a data set consists of."""
