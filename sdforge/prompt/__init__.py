"""Prompt text into chunks of weighted tokens; text only, no torch.

`syntax.py` reads the grammar, `tokens.py` cuts its result into what a text encoder takes.
"""
