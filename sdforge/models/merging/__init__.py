"""Merging checkpoints: `plan.py` decides from headers, `write.py` mixes and writes piece by piece.

`metadata.py` says in the new file what went in, `command.py` is `python -m sdforge merge`.
"""
