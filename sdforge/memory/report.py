"""Who holds how many bytes: plain records for the API and the page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ComponentReport:
    """Bytes of one component, and how it is placed."""

    name: str
    role: str
    host_bytes: int
    device_bytes: int
    placement: str


@dataclass(frozen=True, kw_only=True)
class MemoryReport:
    """Who holds how many bytes, and the last plan in words.

    `own_bytes` is what the driver counts; `held_weights_bytes` (copies), `ring_bytes` (for
    streaming) and `cast_bytes` (decoded weights of one unit) are what weights take of it;
    `pinned_bytes` is page-locked host memory; `activation_bytes` the most that the last stage took
    beside weights; `weights_bytes` what the budget allows.
    """

    device: str
    total_bytes: int
    own_bytes: int
    peak_bytes: int
    foreign_bytes: int
    inference_bytes: int
    weights_bytes: int
    held_weights_bytes: int
    ring_bytes: int
    cast_bytes: int
    pinned_bytes: int
    activation_bytes: int
    streamed_misses: int
    mode: str
    components: tuple[ComponentReport, ...]
    last_plan: str
