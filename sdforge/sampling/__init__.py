"""From noise to clean latents: samplers (update rules), schedules (sigmas), noise and guidance.

Needs torch and nothing else of ours but `core`; the model arrives as a callable. Reading order:
`names.py` (what there is, without torch), `sampler.py` (what a sampler is), `one_step.py`,
`multi_step.py`, `sigmas.py`, `noise.py`, `guidance.py`; `registry.py` gathers it all.
"""
