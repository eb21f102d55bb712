"""From noise to clean latents: samplers (update rules), schedules (sigmas), noise and guidance.

Needs torch and nothing else of ours but `core`; the model arrives as a callable. Reading order:
`names.py` (what there is, without torch), `sampler.py` (what a sampler is), `one_step.py` and its
siblings (the samplers, one manner a file), `sigmas.py`, `flow.py`, `noise.py`, `guidance.py`;
`registry.py` gathers it all.
"""
