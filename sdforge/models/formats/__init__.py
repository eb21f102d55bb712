"""File formats other than safetensors, each read to the same kind of header. No torch here.

`pickles.py` (.ckpt, .pt, .bin) uses `pickle_machine.py` and `archive.py`; none of them runs
anything that a file holds. `checkpoint.read_header` calls what fits a file.
"""
