"""sdforge: a local image-generation server for Stable-Diffusion-type models."""

__version__ = "0.1.0"
