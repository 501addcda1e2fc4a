"""Stores clips in shards and reads them back."""
