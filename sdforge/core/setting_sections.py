"""The pages of the Settings tab: A1111's sections by group, in its order, with their titles."""

from __future__ import annotations

from collections.abc import Iterable

# Group, section, title.
_SECTIONS = (
    ("Saving images", "saving-images", "Saving images/grids"),
    ("Saving images", "saving-paths", "Paths for saving"),
    ("Saving images", "saving-to-dirs", "Saving to a directory"),
    ("Stable Diffusion", "sd", "Stable Diffusion"),
    ("Stable Diffusion", "sdxl", "Stable Diffusion XL"),
    ("Stable Diffusion", "sd3", "Stable Diffusion 3"),
    ("Stable Diffusion", "vae", "VAE"),
    ("Stable Diffusion", "img2img", "img2img"),
    ("Stable Diffusion", "optimizations", "Optimizations"),
    ("Stable Diffusion", "compatibility", "Compatibility"),
    ("Stable Diffusion", "extra_networks", "Extra Networks"),
    ("Stable Diffusion", "lora", "Lora"),
    ("Stable Diffusion", "sampler-params", "Sampler parameters"),
    ("Stable Diffusion", "control_net", "ControlNet"),
    ("User interface", "prompt", "Prompts"),
    ("User interface", "ui", "User interface"),
    ("User interface", "infotext", "Infotext"),
    ("Postprocessing", "upscaling", "Upscaling"),
    ("Postprocessing", "face-restoration", "Face restoration"),
    ("Postprocessing", "postprocessing", "Postprocessing"),
    ("Postprocessing", "ADetailer", "ADetailer"),
    ("Postprocessing", "interrogate", "Interrogate"),
    ("System", "forge", "Memory and precision"),
    ("System", "system", "System"),
    ("System", "API", "API"),
    ("System", "limits", "Limits"),
)
_OTHER_GROUP = "Other"


def sections(used: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return (group, section, title) of the sections that are used, in order.

    One that has no title yet comes last, named after its id.
    """
    wanted = dict.fromkeys(used)
    known = [row for row in _SECTIONS if row[1] in wanted]
    for _, section, _ in known:
        del wanted[section]
    return known + [(_OTHER_GROUP, one, one.replace("-", " ").capitalize()) for one in wanted]
