"""Decide where weights go for the next stage: a pure function, printable, no torch.

`plan()` says what of the active component lies on the device, what streams, what leaves, whether
cond and uncond run as one batch and in how many pieces the VAE works; `manager.py` carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sdforge.memory.budget import MIB, Budget
from sdforge.memory.interleave import choose_streamed
from sdforge.memory.placement import (
    ComponentState,
    Placement,
    PlanError,
    ResidencyPlan,
    Work,
)
from sdforge.memory.policy import DEFAULT_POLICY, BudgetRule, Policy
from sdforge.memory.vae_mode import VaeKind, VaeMode

# A placement that keeps this share of what a fresh plan would keep is left as it is.
GOOD_ENOUGH = 0.95


@dataclass(kw_only=True)
class _Draft:
    """A plan in the making: the budget with one choice of working bytes."""

    active: ComponentState
    others: Sequence[ComponentState]
    policy: Policy
    budget: Budget
    reasons: list[str] = field(default_factory=list)

    @property
    def leased_bytes(self) -> int:
        """What components take that must stay."""
        return sum(other.held_bytes for other in self.others if other.is_leased)

    def room(self, working_bytes: int) -> int:
        """Return what weights may take in all when activations take `working_bytes`."""
        budget = replace(self.budget, working_bytes=working_bytes)
        if self.policy.budget_rule is BudgetRule.DEVICE:
            return replace(budget, working_bytes=0).physical_bytes
        return budget.weights_bytes

    def own_room(self, working_bytes: int) -> int:
        """Return what the active component may take."""
        room = max(self.room(working_bytes) - self.leased_bytes, 0)
        limit = self.policy.weight_limit
        return room if limit is None else min(room, limit)


def plan(
    active: ComponentState,
    others: Sequence[ComponentState],
    budget: Budget,
    policy: Policy = DEFAULT_POLICY,
    work: Work | None = None,
) -> ResidencyPlan:
    """Place `active` for its stage and decide what of the others stays on the device.

    The active component comes first; others leave when the policy keeps one component only, or,
    least recently used first and only as much as needed, when the budget is short. A leased
    component never leaves. A plan may exceed the budget (`fits` is then false) where even the least
    does: the caller tries, since estimates of activations err on the safe side.

    Raises:
        PlanError: the least that running `active` takes exceeds the device.
    """
    work = work or Work(working_bytes=budget.working_bytes)
    draft = _Draft(active=active, others=others, policy=policy, budget=budget)
    if active.role in policy.cpu_roles:
        return _on_cpu(draft, work)
    _check_possible(draft)
    beside_weights = _activation_room(draft) - _least_weights(draft)
    vae_mode, working, leaner = _choose_vae(draft, work, beside_weights)
    cond_batching, working = _choose_batching(draft, work, working)
    draft.budget = replace(budget, working_bytes=working)
    room = draft.own_room(working)
    resident, ring = _choose_units(draft, room)
    staying = sum(unit.bytes for unit in active.units if unit.index in resident)
    cast = active.cast_bytes
    own = active.bytes_with(resident) + ring + cast
    keeping = _choose_others(draft, draft.room(working) - own)
    keeping[active.key] = resident
    placements = {active.key: _placement(active, resident)}
    for other in others:
        stays = other.is_resident and other.key in keeping
        placements[other.key] = _placement(other, keeping[other.key]) if stays else Placement.HOST
    held = sum(other.bytes_with(keeping[other.key]) for other in others if other.key in keeping)
    result = ResidencyPlan(
        active=active.key,
        mode=policy.mode,
        placements=placements,
        resident=keeping,
        evict=tuple(o.key for o in others if o.is_resident and o.key not in keeping),
        resident_bytes=active.bytes_with(resident) + held,
        ring_bytes=ring,
        cast_bytes=cast,
        streamed_bytes=active.unit_bytes - staying,
        own_bytes=own,
        streamable_bytes=staying if policy.can_stream else 0,
        budget=draft.budget,
        vae_mode=vae_mode,
        leaner_vae_modes=leaner,
        cond_batching=cond_batching,
        reasons=tuple(draft.reasons) or ("fits",),
    )
    return result if result.fits else replace(result, reasons=(*result.reasons, "over the budget"))


def _on_cpu(draft: _Draft, work: Work) -> ResidencyPlan:
    """Leave the device as it is: the component computes where its masters lie."""
    staying = {other.key: other.resident for other in draft.others if other.is_resident}
    vae_mode, _, leaner = _choose_vae(draft, work, draft.budget.total_bytes)
    return ResidencyPlan(
        active=draft.active.key,
        mode=draft.policy.mode,
        placements={
            draft.active.key: Placement.CPU,
            **{
                other.key: _placement(other, other.resident)
                if other.is_resident
                else Placement.HOST
                for other in draft.others
            },
        },
        resident=staying,
        evict=(),
        resident_bytes=sum(other.held_bytes for other in draft.others),
        ring_bytes=0,
        cast_bytes=0,
        streamed_bytes=0,
        own_bytes=0,
        streamable_bytes=0,
        budget=replace(draft.budget, working_bytes=0),
        vae_mode=vae_mode,
        leaner_vae_modes=leaner,
        cond_batching=True,
        reasons=("computes on the CPU as told",),
    )


def _check_possible(draft: _Draft) -> None:
    """Refuse what cannot run even with nothing else on the device and no activations."""
    active, policy = draft.active, draft.policy
    there_is = replace(draft.budget, working_bytes=0).physical_bytes - draft.leased_bytes
    least = active.floor_bytes if policy.can_stream else active.total_bytes
    if least <= there_is:
        return
    alternatives = ["close other programs that use the device"]
    if not policy.can_stream and active.units and active.floor_bytes <= there_is:
        alternatives.insert(0, "a memory mode that streams (--lowvram)")
    alternatives.append("weights in fewer bits (fp8, GGUF)")
    alternatives.append("computing on the CPU (--always-cpu)")
    raise PlanError(
        f"the {active.key} needs {least / MIB:.0f} MiB on the device at the least, and "
        f"{max(there_is, 0) / MIB:.0f} MiB can be had",
        alternatives,
    )


def _least_weights(draft: _Draft) -> int:
    """What the active component takes in the leanest form that the policy likes."""
    return draft.active.floor_bytes if draft.policy.streams else draft.active.total_bytes


def _choose_vae(draft: _Draft, work: Work, room: int) -> tuple[VaeMode, int, int]:
    """Return the first way for the VAE to work whose activations fit `room`, else the last.

    With it come its activations and how many leaner ways there are.
    """
    usable = [
        option
        for option in work.vae_options
        if option.mode.kind is VaeKind.TILED or not draft.policy.always_tiles
    ]
    options = usable or list(work.vae_options)
    if not options:
        return VaeMode(), work.working_bytes, 0
    first = min(draft.policy.vae_skip, len(options) - 1)
    last = len(options) - 1
    chosen = next((i for i in range(first, last) if options[i].working_bytes <= room), last)
    option = options[chosen]
    if option is not work.vae_options[0]:
        draft.reasons.append(f"the VAE works {option.mode.describe()}")
    return option.mode, option.working_bytes, last - chosen


def _activation_room(draft: _Draft) -> int:
    """What this stage's weights and activations may take together."""
    return replace(draft.budget, working_bytes=0).physical_bytes - draft.leased_bytes


def _choose_batching(draft: _Draft, work: Work, working: int) -> tuple[bool, int]:
    """Say whether cond and uncond share a batch, and what activations then take.

    Streaming is paid once per forward, so a pair in one batch is worth more there, not less; apart
    is chosen where it saves the streaming altogether, or where a batch does not fit at all.
    """
    apart = work.split_bytes
    if apart is None or apart >= working:
        return True, working
    batching = draft.policy.cond_batching
    total = draft.active.total_bytes + draft.active.cast_bytes
    if batching is None and draft.policy.streams:
        batching = working + draft.active.floor_bytes <= _activation_room(draft)
    elif batching is None and total <= draft.own_room(working):
        batching = True
    elif batching is None and total <= draft.own_room(apart):
        batching = False
    elif batching is None:
        batching = working + draft.active.floor_bytes <= _activation_room(draft)
    if batching:
        return True, working
    draft.reasons.append("cond and uncond run apart")
    return False, apart


def _choose_units(draft: _Draft, room: int) -> tuple[frozenset[int], int]:
    """Return the active component's resident units and the bytes of its ring."""
    active, policy = draft.active, draft.policy
    everything = frozenset(unit.index for unit in active.units)
    if not active.units or not policy.can_stream:
        return everything, 0
    told = _told_to_stream(draft)
    fits = active.total_bytes + active.cast_bytes <= room
    if fits and not told and not policy.streams:
        return everything, 0
    after_root = room - active.fixed_bytes - active.cast_bytes
    largest = active.largest_unit
    ring = max(min(after_root, policy.ring_units * largest, active.unit_bytes), largest)
    if after_root < largest:
        draft.reasons.append("the least there can be: root and one unit")
    if policy.streams:
        draft.reasons.append(f"{policy.mode.value} streams")
        return frozenset(), ring
    if not fits:
        draft.reasons.append("does not fit as a whole")
    order = sorted(active.stream_order, key=lambda index: index not in told)
    streamed = told | choose_streamed(active.units, order, max(after_root - ring, 0))
    return _settled(active, everything - streamed, after_root - ring, told), ring


def _told_to_stream(draft: _Draft) -> frozenset[int]:
    """Return the units of the denoiser that `offload_layers` names, and say so."""
    active, names = draft.active, draft.policy.offload_layers
    if active.role != "denoiser":
        return frozenset()
    found: set[int] = set()
    for name in names:
        inside = {u.index for u in active.units if f"{u.name}.".startswith(f"{name}.")}
        what = "never stays" if inside else "is no part of this denoiser"
        draft.reasons.append(f"{name} {what} (offload_layers)")
        found |= inside
    return frozenset(found)


def _settled(
    active: ComponentState, chosen: frozenset[int], room: int, told: frozenset[int]
) -> frozenset[int]:
    """Keep the units that lie there now when they are nearly as good as the chosen ones."""
    now = active.resident
    if not active.is_resident or not active.is_settled or not now or now & told:
        return chosen
    sizes = {unit.index: unit.bytes for unit in active.units}
    kept = sum(sizes[index] for index in now)
    best = sum(sizes[index] for index in chosen)
    return now if GOOD_ENOUGH * best <= kept <= room else chosen


def _choose_others(draft: _Draft, room: int) -> dict[str, frozenset[int]]:
    """Return which units of which other components stay within `room` bytes."""
    staying = [other for other in draft.others if other.is_resident]
    keeping = {other.key: other.resident for other in staying}
    if draft.policy.one_at_a_time:
        leaving = [other for other in staying if not other.is_leased]
        if leaving:
            draft.reasons.append(f"{draft.policy.mode.value} keeps one component on the device")
        for other in leaving:
            del keeping[other.key]
        return keeping
    free = room - sum(other.held_bytes for other in staying)
    for other in sorted(staying, key=lambda state: state.last_used):
        if free >= 0:
            break
        if other.is_leased:
            continue
        kept = _trimmed(other, -free)
        if kept:
            keeping[other.key] = kept
            free += other.held_bytes - other.bytes_with(kept)
            draft.reasons.append(f"part of {other.key} leaves to make room")
        else:
            del keeping[other.key]
            free += other.held_bytes
            draft.reasons.append(f"{other.key} leaves to make room")
    return keeping


def _trimmed(state: ComponentState, bytes_to_free: int) -> frozenset[int]:
    """Return the units that may stay when so many bytes must go; none when all must."""
    sizes = {unit.index: unit.bytes for unit in state.units}
    kept = set(state.resident)
    freed = 0
    for index in state.stream_order:
        if freed >= bytes_to_free:
            return frozenset(kept)
        if index in kept:
            kept.remove(index)
            freed += sizes[index]
    return frozenset(kept) if freed >= bytes_to_free else frozenset()


def _placement(state: ComponentState, resident: frozenset[int]) -> Placement:
    if len(resident) == len(state.units):
        return Placement.RESIDENT
    return Placement.PARTIAL if resident else Placement.STREAM
