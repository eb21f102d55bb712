"""Plain data that every layer shares: requests, results, settings, events, errors.

Imports nothing of ours; only `device.py` touches torch, and only when asked to probe. Reading
order: `fields.py` (the table of parameters), `request.py`, `settings.py`, `result.py`, `events.py`,
`errors.py`, `registry.py`, `paths.py`, `device.py`.
"""
