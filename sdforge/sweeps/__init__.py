"""Sweeps: one request drawn many times with some of its values varied, as a grid that can resume.

Words: an **axis** is what varies, its **values** are what it varies over; a **cell** is one
combination of values, drawn by one job; equal cells are drawn once. The **manifest** is a sweep as
it was accepted: axes, resolved cells, options, settings. A **hole** is a cell without a picture.

Above are the API and the page; below is the engine, which knows of jobs and nothing of sweeps.
Reading order: `grammar.py` (how values are written), `axis.py` and `axis_table.py` (what can vary),
`request.py` (what somebody asks for), `cells.py` (its cells, in the best order), `manifest.py`,
`store.py` (on disk), `sweeps.py` (the facade), `running.py` and `drawing.py` (cells and their
jobs), `dry_run.py`, `sheets.py` and `report.py` (grid, table, page).
`prompt_matrix.py` and `prompt_lines.py` are sweeps over prompts. Importing this package loads no
torch.
"""
