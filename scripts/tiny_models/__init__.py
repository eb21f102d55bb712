"""Tiny models of every family: shapes and files, for `scripts/make_tiny_checkpoints.py`."""
