"""The grammar of prompts, from what was typed to chunks of weighted tokens; text only, no torch.

In order: `comments.py`, `styles.py` and `wildcards.py` (put together in `pictures.py`) make each
picture's prompt; `networks.py` takes `<lora:…>` out; `composition.py` splits at `AND`;
`schedule.py` reads `[a:b:0.5]`; `syntax.py` reads weights; `tokens.py` cuts chunks. `counting.py`
counts.
"""
