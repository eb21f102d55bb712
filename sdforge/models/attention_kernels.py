"""How U-Nets compute attention: torch's own kernel, its slices and chunks, or a package's.

All compute softmax(q kᵀ / √width) v. Slices and chunks hold fewer scores at once, for cards on
which torch has only the kernel that writes all of them. A package's kernel counts for a kind of
input only when a call on random numbers has given what torch gives: some packages import well and
have no kernel for the card, or for this width of head.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from sdforge.models.attention import Attend, DirectAttention, attend_by_torch

log = logging.getLogger(__name__)

# Query places in a slice: at 4096 places and 8 heads in fp16, 64 MiB of scores a row.
_SLICE = 1024
# Keys in a chunk where no flag says how many, as in A1111's default for its largest pictures.
_KEY_CHUNK = 4096
# How far a kernel's answer to random numbers may lie from torch's: rounding in 16 bits is some
# 1e-3; SageAttention multiplies in 8 bits.
_EXACT, _COARSE = 0.02, 0.2
# Neither a power of two nor alike for queries and keys: kernels with holes in them show it.
_PROBE_QUERIES, _PROBE_KEYS = 70, 77


def chosen_kernel(flags: Mapping[str, object]) -> Attend | None:
    """Return the kernel that A1111's and Forge's flags ask for; None for torch's own.

    A package goes before slices and chunks: it takes less memory than either.
    """
    kernel = _by_flags(flags)
    if flags.get("force_upcast_attention"):
        return partial(_upcast, kernel or attend_by_torch)
    return kernel


def use_kernel(network: nn.Module, kernel: Attend) -> int:
    """Let a network's attentions use a kernel, in place; return how many can.

    Those of diffusers' transformers keep torch's, which has kernels for all that they do.
    """
    found = [one for one in network.modules() if isinstance(one, DirectAttention)]
    for attention in found:
        attention.attend = kernel
    return len(found)


class TriedKernel:
    """A package's kernel, where it works; torch's elsewhere, and where there is a mask."""

    def __init__(self, name: str, load: Callable[[], Attend], *, tolerance: float, trusted: bool):
        """Import nothing yet. `trusted` spares the trial: errors then end the job."""
        self._name = name
        self._load = load
        self._tolerance = tolerance
        self._trusted = trusted
        self._kernel: Attend | None = None
        # By kind of device, type of numbers and width of a head.
        self._works: dict[tuple[str, torch.dtype, int], bool] = {}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return what `attend_by_torch` does."""
        if mask is not None or not self.works(query):
            return attend_by_torch(query, key, value, mask)
        return self._loaded()(query, key, value, None)

    def works(self, like: Tensor) -> bool:
        """Return whether it computes such inputs; tried once for each kind of them."""
        kind = like.device.type, like.dtype, like.shape[-1]
        if kind not in self._works:
            self._works[kind] = self._trusted or self._try(like)
        return self._works[kind]

    def _try(self, like: Tensor) -> bool:
        where = f"on {like.device.type} for {like.dtype} and heads of {like.shape[-1]}"
        query, key, value = (
            torch.randn(1, 2, places, like.shape[-1], generator=torch.Generator().manual_seed(seed))
            .to(like.device, like.dtype)
            for seed, places in enumerate((_PROBE_QUERIES, _PROBE_KEYS, _PROBE_KEYS))
        )  # fmt: skip
        try:
            found = self._loaded()(query, key, value, None)
            off = float((found - attend_by_torch(query, key, value, None)).abs().max())
        except Exception as error:  # noqa: BLE001 (packages raise whatever they like)
            log.warning("%s is not used %s: %s", self._name, where, str(error).split("\n")[0])
            return False
        if not off <= self._tolerance:
            log.warning("%s is not used %s: it is off by %.3g", self._name, where, off)
            return False
        log.info("attention %s by %s", where, self._name)
        return True

    def _loaded(self) -> Attend:
        if self._kernel is None:
            self._kernel = self._load()
        return self._kernel


def attend_in_slices(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, places: int = _SLICE
) -> Tensor:
    """Attend for so many query places at a time; the same numbers, up to rounding."""
    parts = query.split(places, dim=-2)
    masks: Iterator[Tensor | None] = iter([None] * len(parts))
    if mask is not None:
        masks = iter(mask.split(places, dim=-2) if mask.shape[-2] > 1 else [mask] * len(parts))
    return torch.cat([attend_by_torch(part, key, value, next(masks)) for part in parts], dim=-2)


def attend_in_chunks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    places: int = _SLICE,
    keys: int = _KEY_CHUNK,
) -> Tensor:
    """Attend in chunks of queries and of keys: memory grows with neither's number.

    Sums go on from chunk to chunk, scaled to the greatest score so far, in fp32. Rabe and Staats
    2021, arXiv:2112.05682.
    """
    if mask is not None:
        return attend_in_slices(query, key, value, mask, places=places)
    scale = 1 / math.sqrt(query.shape[-1])
    answers = []
    for part in query.split(places, dim=-2):
        total = torch.zeros(*part.shape[:-1], value.shape[-1], device=part.device)
        weight = torch.zeros(*part.shape[:-1], 1, device=part.device)
        greatest = torch.full_like(weight, -math.inf)
        pairs = zip(key.split(keys, dim=-2), value.split(keys, dim=-2), strict=True)
        for some_keys, some_values in pairs:
            scores = (part @ some_keys.transpose(-1, -2)).float() * scale
            now = torch.maximum(greatest, scores.amax(dim=-1, keepdim=True))
            shares, shrink = torch.exp(scores - now), torch.exp(greatest - now)
            weight = weight * shrink + shares.sum(dim=-1, keepdim=True)
            total = total * shrink + (shares.to(value.dtype) @ some_values).float()
            greatest = now
        answers.append((total / weight).to(value.dtype))
    return torch.cat(answers, dim=-2)


def attend_exactly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attend by torch's kernels that give the same numbers each time, so not the lean one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        return attend_by_torch(query, key, value, mask)


def _upcast(
    kernel: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    wide = None if mask is None else mask.float()
    return kernel(query.float(), key.float(), value.float(), wide).to(value.dtype)


def _by_flags(flags: Mapping[str, object]) -> Attend | None:
    trusted = bool(flags.get("force_enable_xformers"))
    if flags.get("use_sage_attention"):
        return TriedKernel("SageAttention", _sage, tolerance=_COARSE, trusted=False)
    if flags.get("use_flash_attention"):
        return TriedKernel("FlashAttention", _flash, tolerance=_EXACT, trusted=False)
    if (flags.get("xformers") or trusted) and not flags.get("disable_xformers"):
        return TriedKernel("xformers", _xformers, tolerance=_EXACT, trusted=trusted)
    if flags.get("attention_quad") or flags.get("opt_sub_quad_attention"):
        places = flags.get("sub_quad_q_chunk_size") or _SLICE
        keys = flags.get("sub_quad_kv_chunk_size") or _KEY_CHUNK
        return partial(attend_in_chunks, places=_count(places), keys=_count(keys))
    if any(flags.get(name) for name in _SLICING):
        return attend_in_slices
    return attend_exactly if flags.get("opt_sdp_no_mem_attention") else None


_SLICING = (
    "attention_split", "opt_split_attention", "opt_split_attention_v1",
    "opt_split_attention_invokeai",
)  # fmt: skip


def _count(value: object) -> int:
    return max(int(str(value)), 1)


def _xformers() -> Attend:
    from xformers.ops import memory_efficient_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        # It has heads behind places.
        swapped = (one.transpose(1, 2) for one in (query, key, value))
        answer: Tensor = memory_efficient_attention(*swapped)
        return answer.transpose(1, 2)

    return attend


def _flash() -> Attend:
    from flash_attn import flash_attn_func

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        answer: Tensor = flash_attn_func(*(one.transpose(1, 2) for one in (query, key, value)))
        return answer.transpose(1, 2)

    return attend


def _sage() -> Attend:
    from sageattention import sageattn

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        whole = (one.contiguous() for one in (query, key, value))
        answer: Tensor = sageattn(*whole, tensor_layout="HND", is_causal=False)
        return answer

    return attend
