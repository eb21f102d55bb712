"""From files to networks: find checkpoints, recognise them, load them, run their parts.

Reading order: `checkpoint.py` and `formats/` (headers), `opening.py` (the same names in all of
them), `architectures.py`, `parts.py`, `detect.py` and `families/` (what is in a file),
`library.py` (which files there are), `key_map.py`, `wanted.py`, `weights.py` and `loader.py`
(headers to components), `read_ahead.py` (the same, ahead), `bundle.py` (a loaded checkpoint), then
its parts `tokenizers.py`, `text_encoder.py`, `denoiser.py`, `vae.py`, `preview.py`.

`checkpoint`, `detect`, `library`, `hashes` and `tokenizers` load no torch, so that listings answer
at once. diffusers and transformers are imported inside functions of `families/` only.
"""
