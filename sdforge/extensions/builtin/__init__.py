"""The extensions that ship, one file each."""

from __future__ import annotations

from sdforge.core.extension import Extension
from sdforge.extensions.builtin.adetailer import ADetailer
from sdforge.extensions.builtin.cfg_rescale import CfgRescale
from sdforge.extensions.builtin.cfg_zero import CfgZero
from sdforge.extensions.builtin.dynamic_thresholding import DynamicThresholding
from sdforge.extensions.builtin.freeu import FreeU
from sdforge.extensions.builtin.img2img_alternative import Img2imgAlternative
from sdforge.extensions.builtin.kohya_hrfix import KohyaHrFix
from sdforge.extensions.builtin.loopback import Loopback
from sdforge.extensions.builtin.outpainting_mk2 import OutpaintingMk2
from sdforge.extensions.builtin.perp_neg import PerpNeg
from sdforge.extensions.builtin.perturbed_attention import PerturbedAttention
from sdforge.extensions.builtin.poor_mans_outpainting import PoorMansOutpainting
from sdforge.extensions.builtin.projected_guidance import AdaptiveProjectedGuidance
from sdforge.extensions.builtin.sd_upscale import SdUpscale
from sdforge.extensions.builtin.self_attention import SelfAttentionGuidance
from sdforge.extensions.builtin.soft_inpainting import SoftInpainting
from sdforge.extensions.builtin.token_merging import TokenMerging

BUILTIN: tuple[type[Extension], ...] = (
    ADetailer,
    FreeU,
    KohyaHrFix,
    PerturbedAttention,
    SelfAttentionGuidance,
    DynamicThresholding,
    CfgRescale,
    AdaptiveProjectedGuidance,
    CfgZero,
    PerpNeg,
    TokenMerging,
    SoftInpainting,
    SdUpscale,
    Loopback,
    Img2imgAlternative,
    OutpaintingMk2,
    PoorMansOutpainting,
)
