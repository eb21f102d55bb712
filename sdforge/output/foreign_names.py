"""What other programs call samplers, schedules and upscalers, in our words.

A name that no table has stays as it is: whoever reads the infotext says that it is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

# ComfyUI's names, which Fooocus shares; those ending in "_gpu" draw their noise elsewhere.
_SAMPLERS: Mapping[str, str] = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "euler_cfg_pp": "Euler CFG++",
    "euler_ancestral_cfg_pp": "Euler a CFG++",
    "heun": "Heun",
    "heunpp2": "HeunPP2",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "lms": "LMS",
    "dpm_fast": "DPM fast",
    "dpm_adaptive": "DPM adaptive",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_cfg_pp": "DPM++ 2M CFG++",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "lcm": "LCM",
    "ipndm": "IPNDM",
    "ipndm_v": "IPNDM_V",
    "deis": "DEIS",
    "res_multistep": "RES Multistep",
    "res_multistep_ancestral": "RES Multistep a",
    "res_multistep_cfg_pp": "RES Multistep CFG++",
    "gradient_estimation": "Gradient Estimation",
    "er_sde": "ER SDE",
    "sa_solver": "SA-Solver",
    "uni_pc": "UniPC",
    "uni_pc_bh2": "UniPC",
    "tcd": "TCD",
}
_SCHEDULES: Mapping[str, str] = {
    "normal": "Normal",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "ddim_uniform": "DDIM",
    "beta": "Beta",
    "kl_optimal": "KL Optimal",
    "turbo": "Turbo",
    "align_your_steps": "Align Your Steps",
    "native": "Uniform",
}
# InvokeAI's "schedulers" are samplers, with the schedule as an ending.
_INVOKE: Mapping[str, str] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "deis": "DEIS",
    "lms": "LMS",
    "pndm": "PLMS",
    "plms": "PLMS",
    "heun": "Heun",
    "euler": "Euler",
    "euler_a": "Euler a",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "dpm_2": "DPM2",
    "dpm_2_a": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "er_sde": "ER SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
    "tcd": "TCD",
}
# NovelAI's, after their "k_".
_NOVELAI: Mapping[str, str] = {**_SAMPLERS, "plms": "PLMS"}
# ComfyUI's ways to enlarge latents.
_LATENT: Mapping[str, str] = {
    "nearest-exact": "Latent (nearest-exact)",
    "bilinear": "Latent",
    "bicubic": "Latent (bicubic)",
    "bislerp": "Latent (bicubic)",
    "area": "Latent (antialiased)",
}


def sampler(name: str) -> str:
    """Return our name of a sampler of ComfyUI or Fooocus."""
    return _SAMPLERS.get(name.removesuffix("_gpu"), name)


def schedule(name: str) -> str:
    """Return our label of a schedule of ComfyUI, Fooocus or NovelAI."""
    return _SCHEDULES.get(name, name)


def invoke_sampler(name: str) -> tuple[str, str]:
    """Return our sampler and schedule of a scheduler of InvokeAI; "" for its usual schedule."""
    old = name.removeprefix("k_")
    bare = old.removesuffix("_k")
    return _INVOKE.get(bare, bare), "Karras" if bare != old else ""


def novelai_sampler(name: str) -> str:
    """Return our name of a sampler of NovelAI."""
    return _NOVELAI.get(name.removeprefix("k_"), "Euler a")


def latent_upscaler(method: str) -> str:
    """Return our name of a way of ComfyUI to enlarge latents."""
    return _LATENT.get(method, "Latent")
