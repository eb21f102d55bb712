"""Run the public Python client `webuiapi` over its whole surface against a live server.

`python scripts/api_clients/webuiapi_surface.py PORT`; one line per call, exit status 1 when any of
them failed that is not known to be missing here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import webuiapi
from PIL import Image

SMALL = {"prompt": "a red apple", "steps": 2, "width": 64, "height": 64}
READERS = (
    "get_options get_cmd_flags get_progress get_samplers get_schedulers get_sd_vae get_upscalers "
    "get_latent_upscale_modes get_loras get_sd_models get_hypernetworks get_face_restorers "
    "get_realesrgan_models get_prompt_styles get_scripts get_embeddings get_memory "
    "refresh_checkpoints interrupt skip util_get_model_names util_get_current_model "
    "util_get_sampler_names util_get_scheduler_names util_wait_for_ready controlnet_version "
    "controlnet_model_list controlnet_module_list"
).split()
MISSING = ("interrogate",)


def calls(api: Any) -> dict[str, Callable[[], Any]]:
    """Return what to call, by name."""
    picture, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    unit = webuiapi.ControlNetUnit(image=picture, module="canny", model="None")
    latent = webuiapi.HiResUpscaler.Latent
    over = SMALL | {"images": [picture]}
    return {
        "txt2img": lambda: api.txt2img(**SMALL),
        "txt2img with hires fix": lambda: api.txt2img(
            **SMALL, enable_hr=True, hr_scale=1.5, hr_upscaler=latent
        ),
        "txt2img with a ControlNet unit": lambda: api.txt2img(**SMALL, controlnet_units=[unit]),
        "img2img": lambda: api.img2img(**over),
        "img2img with a mask": lambda: api.img2img(**over, mask_image=mask),
        "extra_single_image": lambda: api.extra_single_image(picture, upscaler_1="Lanczos"),
        "extra_batch_images": lambda: api.extra_batch_images([picture], upscaler_1="Lanczos"),
        "png_info": lambda: api.png_info(picture),
        "interrogate": lambda: api.interrogate(picture),
        "controlnet_detect": lambda: api.controlnet_detect(images=[picture], module="canny"),
        "set_options": lambda: api.set_options({"CLIP_stop_at_last_layers": 1}),
        "util_set_model": lambda: api.util_set_model(api.util_get_model_names()[0]),
        **{name: getattr(api, name) for name in READERS},
    }


def main() -> int:
    """Call everything; return the exit status."""
    api = webuiapi.WebUIApi(host="127.0.0.1", port=int(sys.argv[1]))
    failed = 0
    for name, call in calls(api).items():
        try:
            call()
        except Exception as error:  # noqa: BLE001 - it is told, and the next one is tried
            failed += name not in MISSING
            print(f"FAIL {name}: {error}"[:300])
        else:
            print(f"ok   {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
