"""Which clips a data set consists of."""
