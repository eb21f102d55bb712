"""Pictures before and after the models: decoding, resizing, masks, colours, upscalers by name.

Pillow and NumPy only, no torch and nothing of jobs: the API decodes with it what clients send, the
pipeline prepares and finishes pictures with it. Pixels are RGB, 8 bits a channel.
"""
