"""One request → pictures, on the calling thread.

Reading order: `context.py` (what a run carries), `generate.py` (the spine), `conditioning.py`
(prompts → tensors, with a cache), `denoise.py` (noise → latents), `decode.py` (latents → pixels),
`preview.py` (what a running batch looks like).
"""
