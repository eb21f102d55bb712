"""Small files that change a model: LoRA and its kin, embeddings, hypernetworks.

Reading order: `kinds.py` (what each kind does to a weight), `lora_file.py` (which kinds a file
holds), `lora_keys.py` (which weight each is for), `lora.py` (all of it put on a bundle),
`lora_library.py` (which files there are); `embedding*.py` and `hypernetwork*.py` are the same for
their kinds, `controlnet*.py` for what steers by a picture, and `adapters.py` is what a run calls.
Nothing here ever writes to a model's weights: `memory.component` takes patches.
"""
