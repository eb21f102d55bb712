"""The HTTP API: A1111's routes, our own, and what the page polls, over one engine.

Nothing is computed here: a request becomes a job (`translate.py`), and a finished job an answer
(`generation_response.py`). Reading order: `app.py`, `security.py`, `errors.py`, `schemas.py`,
`translate.py`, `waiting.py`, `sdapi/`, `jobs.py`, `internal.py`. Importing it loads no torch.
"""
