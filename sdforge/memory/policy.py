"""What the memory modes mean to the planner: one table, no torch.

The words are A1111's and Forge's. A policy changes where weights are, never the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum


class MemoryMode(StrEnum):
    """Kinds of placement; `MODE_OF_SETTING` says which words of users mean which."""

    NORMAL = "normal"
    MEDVRAM = "medvram"
    LOWVRAM = "lowvram"
    NOVRAM = "novram"
    HIGHVRAM = "highvram"
    OFFLOAD = "offload"


# Values of the setting `memory_mode`: A1111's and Forge's flags. The engine replaces 'auto' by what
# suits the card before a job runs.
MODE_OF_SETTING = {
    "auto": MemoryMode.NORMAL,
    "normal": MemoryMode.NORMAL,
    "medvram": MemoryMode.MEDVRAM,
    "medvram-sdxl": MemoryMode.MEDVRAM,
    "lowvram": MemoryMode.LOWVRAM,
    "always-gpu": MemoryMode.HIGHVRAM,
    "always-high-vram": MemoryMode.HIGHVRAM,
    "always-normal-vram": MemoryMode.NORMAL,
    "always-low-vram": MemoryMode.MEDVRAM,
    "always-no-vram": MemoryMode.NOVRAM,
    "always-cpu": MemoryMode.NORMAL,
    "always-offload-from-vram": MemoryMode.OFFLOAD,
}


class BudgetRule(StrEnum):
    """What limits weights: the budget with the user's reserve, or the device alone."""

    RESERVE = "reserve"
    DEVICE = "device"


@dataclass
class Pressure:
    """What out-of-memory errors of this job taught; the next job begins without it.

    `limits` are the most bytes for a component, by key; those in `streaming` keep nothing;
    `vae_skip` counts the VAE's ways to work that failed.
    """

    limits: dict[str, int] = field(default_factory=dict)
    streaming: set[str] = field(default_factory=set)
    vae_skip: int = 0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How to place weights.

    Attributes:
        mode: the mode's name.
        budget_rule: what limits weights.
        one_at_a_time: whether a component leaves when another one comes.
        streams: whether no unit stays, even where there is room.
        keeps: whether anything stays on the device after its stage.
        ring_units: the ring's size in largest units.
        always_tiles: whether the VAE never works in one piece.
        cond_batching: cond and uncond in one batch; None lets the plan decide.
        can_stream: false where device and host share one memory.
        cpu_roles: components that compute on the host.
        offload_layers: parts of the denoiser that never stay, by the beginnings of their names.
        weight_limit: most bytes for the active component; out-of-memory errors set it.
        vae_skip: how many of the VAE's ways to work have failed.
    """

    mode: MemoryMode = MemoryMode.NORMAL
    budget_rule: BudgetRule = BudgetRule.RESERVE
    one_at_a_time: bool = False
    streams: bool = False
    keeps: bool = True
    ring_units: int = 3
    always_tiles: bool = False
    cond_batching: bool | None = None
    can_stream: bool = True
    cpu_roles: frozenset[str] = frozenset()
    offload_layers: tuple[str, ...] = ()
    weight_limit: int | None = None
    vae_skip: int = 0


DEFAULT_POLICY = Policy()

POLICIES: dict[MemoryMode, Policy] = {
    MemoryMode.NORMAL: DEFAULT_POLICY,
    MemoryMode.MEDVRAM: Policy(mode=MemoryMode.MEDVRAM, one_at_a_time=True),
    MemoryMode.LOWVRAM: Policy(mode=MemoryMode.LOWVRAM, one_at_a_time=True, streams=True),
    # Forge's NeverOOM and --always-no-vram: as little as possible at any price.
    MemoryMode.NOVRAM: Policy(
        mode=MemoryMode.NOVRAM,
        one_at_a_time=True,
        streams=True,
        keeps=False,
        ring_units=1,
        always_tiles=True,
        cond_batching=False,
    ),
    MemoryMode.HIGHVRAM: Policy(
        mode=MemoryMode.HIGHVRAM, budget_rule=BudgetRule.DEVICE, cond_batching=True
    ),
    MemoryMode.OFFLOAD: Policy(mode=MemoryMode.OFFLOAD, keeps=False),
}

# A1111's medvram-sdxl counts for models from here on: SD 1.x and 2.x have 0.86, SDXL 2.57 billion
# parameters in the denoiser, and its second text encoder alone has 0.69.
LARGE_PARAMETERS = {"denoiser": 1_200_000_000, "text_encoder": 500_000_000}


def policy_for(
    mode: MemoryMode,
    *,
    can_stream: bool = True,
    cpu_roles: frozenset[str] = frozenset(),
    keeps: bool = True,
) -> Policy:
    """Return a mode's policy on a device.

    Args:
        mode: the mode.
        can_stream: whether the device has memory of its own; where it shares the host's, streaming
            saves nothing.
        cpu_roles: roles that compute on the host (`--vae-in-cpu`).
        keeps: false for `--always-offload-from-vram`.
    """
    policy = POLICIES[mode]
    return replace(
        policy,
        can_stream=can_stream,
        streams=policy.streams and can_stream,
        cpu_roles=cpu_roles,
        keeps=policy.keeps and keeps,
    )


def choose_mode(setting: str) -> tuple[MemoryMode, bool]:
    """Return the mode that the setting `memory_mode` means, and whether for large models only."""
    return MODE_OF_SETTING[setting], setting == "medvram-sdxl"
