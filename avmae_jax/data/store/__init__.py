"""Clips to shards and back."""
