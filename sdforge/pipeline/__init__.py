"""One request → pictures, on the calling thread.

Reading order: `context.py` (what a run carries), `generate.py` (the spine), `passes.py` (what walks
there are), `prompts.py` (the texts of a batch), `conditioning.py` (texts → tensors over time, with
a cache), `denoise.py` (one pass), `refiner.py` (another checkpoint for its end),
`prompt_denoiser.py` and `masked_denoiser.py` (what the sampler calls), `img2img.py`, `inpaint.py`
and `hires.py` (what passes start with), `first_pass.py` (first passes that are kept), `decode.py`
(latents → pixels), `preview.py` (what a running batch looks like).
"""
