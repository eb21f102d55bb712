"""Dynamic thresholding ("CFG-Fix"): a strong CFG scale in the range of values of a gentle one.

See `sampling.guidance_rules.mimicked`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.core.fields import Field
from sdforge.extensions.values import ENABLED, number
from sdforge.extensions.wrapping import Combined

if TYPE_CHECKING:
    from torch import Tensor

MODES = (
    "Constant", "Linear Down", "Cosine Down", "Half Cosine Down", "Linear Up", "Cosine Up",
    "Half Cosine Up", "Power Up", "Power Down", "Linear Repeating", "Cosine Repeating", "Sawtooth",
)  # fmt: skip


def _choice(name: str, default: str, label: str, options: tuple[str, ...], help: str) -> Field:
    return Field(
        name=name, kind=str, default=default, label=label, api=name, options=options, help=help
    )


class DynamicThresholding(Extension):
    """High CFG scales without burnt colours."""

    name = "dynamic_thresholding"
    label = "Dynamic Thresholding (CFG-Fix)"
    aliases = (
        "DynamicThresholding (CFG-Fix) Integrated",
        "Dynamic Thresholding (CFG Scale Fix)",
    )
    order = 10
    help = "High CFG scales without burnt colours."
    # Order of arguments and defaults are Forge's.
    fields = (
        ENABLED,
        number("mimic_scale", 7.0, 0, 100, "Mimicked CFG scale", "Whose range to keep.", step=0.5),
        number(
            "threshold_percentile", 1.0, 0, 1, "Top percentile", "Share of values kept uncut."
        ),
        _choice("mimic_mode", "Constant", "Mimic mode", MODES, "How that scale runs."),
        number("mimic_scale_min", 0.0, 0, 100, "Least mimicked scale", step=0.5),
        _choice("cfg_mode", "Constant", "CFG mode", MODES, "How the CFG scale runs."),
        number("cfg_scale_min", 0.0, 0, 100, "Least CFG scale", step=0.5),
        number("sched_val", 1.0, 0, 100, "Mode value", "Power, or repeats, of the modes."),
        _choice(
            "separate_feature_channels", "enable", "Separate channels", ("enable", "disable"),
            "One range per latent channel.",
        ),
        _choice(
            "scaling_startpoint", "MEAN", "Scale around", ("MEAN", "ZERO"), "Centre of the range."
        ),
        _choice(
            "variability_measure", "AD", "Measure", ("AD", "STD"),
            "Range by largest distance or by standard deviation.",
        ),
        number("interpolate_phi", 1.0, 0, 1, "Share", "How much of the result counts."),
    )  # fmt: skip

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser with its combination replaced."""
        from sdforge.sampling.guidance_rules import mimicked

        def combine(x: Tensor, sigma: float, cond: Tensor, uncond: Tensor) -> Tensor:
            passed = context.fraction(sigma)
            power = values["sched_val"]
            return mimicked(
                cond,
                uncond,
                cfg_scale=scale_at(
                    values["cfg_mode"], denoiser.cfg_scale, values["cfg_scale_min"], passed, power
                ),
                mimic_scale=scale_at(
                    values["mimic_mode"],
                    values["mimic_scale"],
                    values["mimic_scale_min"],
                    passed,
                    power,
                ),
                percentile=values["threshold_percentile"],
                by_channel=values["separate_feature_channels"] == "enable",
                around_mean=values["scaling_startpoint"] == "MEAN",
                by_deviation=values["variability_measure"] == "STD",
                amount=values["interpolate_phi"],
            )

        return Combined(denoiser, combine)


def scale_at(mode: str, scale: float, least: float, passed: float, power: float) -> float:
    """Return a scale at the share `passed` of the steps; it runs between `least` and `scale`."""
    down = 1 - passed
    waves = passed * power
    shares = {
        "Constant": 1.0,
        "Linear Down": down,
        "Half Cosine Down": math.cos(passed * math.pi / 2),
        "Cosine Down": (math.cos(passed * math.pi) + 1) / 2,
        "Linear Up": passed,
        "Half Cosine Up": 1 - math.cos(passed * math.pi / 2),
        "Cosine Up": (1 - math.cos(passed * math.pi)) / 2,
        "Power Up": passed**power,
        "Power Down": 1 - passed**power,
        "Linear Repeating": abs(1 - 2 * (waves % 1)),
        "Cosine Repeating": (math.cos(waves * 2 * math.pi) + 1) / 2,
        "Sawtooth": waves % 1,
    }
    share = shares[mode]
    return scale if mode == "Constant" else least + (scale - least) * share
