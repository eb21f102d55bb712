"""The store's rules on small real components; memory and time are told, not measured."""

import threading
import weakref
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import nn

from sdforge.core.errors import OutOfMemory, SdforgeError
from sdforge.memory.arena import Arena
from sdforge.memory.component import Component
from sdforge.memory.holdings import Holding, HostState, Limits, Reserved
from sdforge.memory.pressure import HostMemory
from sdforge.memory.store import HostStore

KIB = 1024
MIB = 1024 * KIB


def a_component(role: str = "denoiser", size: int = MIB) -> Component:
    arena = Arena(size)
    with torch.device("meta"):
        module = nn.Linear(1, 1, bias=False).requires_grad_(False)
    tensor = arena.allocate((size // 4,), torch.float32).fill_(1.0)
    module.weight = nn.Parameter(tensor, requires_grad=False)
    return Component(role=role, name="m", fingerprint="f", module=module, arenas=(arena,))


@dataclass
class Machine:
    """A machine whose memory is what is left beside the store, and whose clock ticks by use."""

    total: int = 1000 * MIB
    others: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.store = HostStore(self.release, read_memory=self.memory, clock=self.tick)
        self.store.configure(Limits(holdings=10, host_bytes=self.total))

    def release(self, *components: Component) -> None:
        for component in components:
            component.release()

    def memory(self) -> HostMemory:
        available = self.total - self.others - self.store.host_bytes
        return HostMemory(total=self.total, available=max(available, 0))

    def tick(self) -> float:
        self.now += 1
        return self.now

    def load(self, title: str, **parts: int) -> Holding:
        """Load a checkpoint of parts (key → bytes); those held already are used."""
        held = [key for key in parts if self.store.component(key)]
        needed = sum(size for key, size in parts.items() if key not in held)
        with self.store.loading(needed, reused=held):
            for key, size in parts.items():
                if key not in held:
                    self.store.load(key, key, title, lambda size=size: a_component(size=size))
            return self.store.hold(title, title, list(parts), object())

    def reserve(self, *keep: str, **parts: int) -> bool:
        """Set memory aside for parts (key → bytes); those held already are used."""
        held = [key for key in parts if self.store.component(key)]
        ahead = [
            Reserved(key=key, role=key, name="ahead", host_bytes=size)
            for key, size in parts.items()
            if key not in held
        ]
        return self.store.reserve(ahead, reused=held, keep=keep)


def titles(machine: Machine) -> list[str]:
    return [holding.title for holding in machine.store.holdings()]


def test_a_checkpoint_is_held_until_it_is_evicted() -> None:
    machine = Machine()
    holding = machine.load("a", unet=2 * MIB, vae=MIB)
    component = machine.store.component("unet")
    assert component is not None and component.module.weight[0] == 1.0
    assert machine.store.holding("a") is holding
    assert machine.store.host_bytes == 3 * MIB
    assert machine.store.evict(holding) == 3 * MIB
    assert machine.store.holding("a") is None
    assert machine.store.component("unet") is None
    assert component.is_released


def test_a_part_of_two_checkpoints_leaves_with_the_second() -> None:
    machine = Machine()
    first, other = machine.load("a", u1=2 * MIB, vae=MIB), machine.load("b", u2=2 * MIB, vae=MIB)
    assert machine.store.host_bytes == 5 * MIB
    rows = {row.role: row.checkpoints for row in machine.store.report().components}
    assert rows == {"u1": ("a",), "vae": ("a", "b"), "u2": ("b",)}
    assert machine.store.evict(first) == 2 * MIB
    assert machine.store.evict(other) == 3 * MIB


def test_the_least_recently_used_checkpoint_leaves_at_the_limit() -> None:
    machine = Machine()
    machine.store.configure(Limits(holdings=2, host_bytes=machine.total))
    machine.load("a", ua=MIB)
    machine.load("b", ub=MIB)
    machine.store.holding("a")
    machine.load("c", uc=MIB)
    assert titles(machine) == ["a", "c"]


def test_room_is_made_before_the_new_checkpoint_is_read() -> None:
    machine = Machine()
    machine.store.configure(Limits(host_bytes=4 * MIB))
    machine.load("a", ua=2 * MIB)
    machine.load("b", ub=2 * MIB)

    def make() -> Component:
        assert machine.store.host_bytes == 2 * MIB
        return a_component(size=2 * MIB)

    with machine.store.loading(2 * MIB):
        machine.store.load("uc", "denoiser", "c", make)
        machine.store.hold("c", "c", ["uc"], object())
    assert titles(machine) == ["b", "c"]


def test_a_checkpoint_larger_than_the_budget_is_held_alone_and_flagged() -> None:
    machine = Machine()
    machine.store.configure(Limits(host_bytes=4 * MIB))
    machine.load("a", ua=2 * MIB)
    machine.load("large", ul=6 * MIB)
    assert titles(machine) == ["large"]
    assert machine.store.report().is_over_budget


def test_what_is_wanted_soon_leaves_last() -> None:
    machine = Machine()
    machine.store.configure(Limits(holdings=2, host_bytes=machine.total))
    machine.load("a", ua=MIB)
    machine.load("b", ub=MIB)
    machine.store.protect(["a"])
    machine.load("c", uc=MIB)
    assert titles(machine) == ["a", "c"]
    machine.load("d", ud=MIB)
    assert titles(machine) == ["a", "d"]


def test_a_checkpoint_that_frees_nothing_is_not_dropped_for_bytes() -> None:
    machine = Machine()
    machine.store.configure(Limits(host_bytes=4 * MIB))
    machine.load("a", shared=MIB)
    machine.load("b", shared=MIB, ub=2 * MIB)
    machine.load("c", uc=3 * MIB)
    assert titles(machine) == ["a", "c"]


def test_a_leased_checkpoint_stays_and_leaves_when_the_lease_ends() -> None:
    machine = Machine()
    holding = machine.load("a", ua=MIB)
    with machine.store.lease(holding), machine.store.lease(holding):
        assert machine.store.evict_all() == 0
        assert machine.store.component("ua") is not None
        assert machine.store.holding("a") is None  # nobody new gets it
    assert machine.store.component("ua") is None


def test_a_checkpoint_loaded_again_while_its_old_self_is_leased_stays() -> None:
    machine = Machine()
    old = machine.load("a", ua=MIB)
    with machine.store.lease(old):
        machine.store.evict(old)
        new = machine.load("a", ua=MIB)
    assert machine.store.holding("a") is new
    assert machine.store.component("ua") is not None


def test_a_load_that_fails_leaves_nothing_of_itself_and_all_else() -> None:
    machine = Machine()
    machine.load("a", ua=MIB, vae=MIB)

    def fail() -> Component:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), machine.store.loading(2 * MIB, reused=["vae"]):
        made = machine.store.load("ub", "denoiser", "b", lambda: a_component(size=MIB))
        machine.store.load("tb", "text_encoder", "b", fail)
    assert made.is_released
    assert machine.store.host_bytes == 2 * MIB
    assert [row.state for row in machine.store.report().components] == [HostState.HOST] * 2
    machine.load("b", ub=MIB, tb=MIB, vae=MIB)
    assert titles(machine) == ["a", "b"]


def test_a_checkpoint_too_large_for_the_machine_is_refused_and_none_is_dropped() -> None:
    machine = Machine(total=100 * MIB, others=90 * MIB)
    machine.load("a", ua=2 * MIB)
    wanted = r"needs 20 MiB of main memory, 10 MiB can be had \(8 available, 0 swap, 2 of other"
    with pytest.raises(OutOfMemory, match=wanted), machine.store.loading(20 * MIB):
        pass
    assert titles(machine) == ["a"]


def test_a_component_is_never_held_twice() -> None:
    machine = Machine()
    machine.load("a", ua=MIB)
    with pytest.raises(SdforgeError, match="twice"), machine.store.loading(MIB):
        machine.store.load("ua", "denoiser", "a", a_component)
    with pytest.raises(SdforgeError, match="outside"):
        machine.store.load("ub", "denoiser", "a", a_component)


def test_pressure_makes_all_but_the_newest_leave_as_far_as_needed() -> None:
    machine = Machine(total=100 * MIB)
    for name in "abcd":
        machine.load(name, **{f"u{name}": 4 * MIB})
    assert not machine.store.wants_tending()
    machine.others = 76 * MIB  # 8 are available: up to 15 it takes two
    assert machine.store.wants_tending()
    assert machine.store.tend()
    assert titles(machine) == ["c", "d"]
    assert not machine.store.wants_tending()
    machine.others = 100 * MIB
    assert machine.store.tend()
    assert titles(machine) == ["d"]
    assert not machine.store.wants_tending()


def test_a_leased_checkpoint_survives_any_pressure() -> None:
    machine = Machine(total=100 * MIB)
    first = machine.load("a", ua=4 * MIB)
    machine.load("b", ub=4 * MIB)
    machine.others = 100 * MIB
    with machine.store.lease(first):
        machine.store.tend()
    assert titles(machine) == ["a"]


def test_models_leave_when_nobody_draws_for_long_enough() -> None:
    machine = Machine()
    machine.store.configure(Limits(host_bytes=machine.total, idle_seconds=100))
    holding = machine.load("a", ua=MIB)
    assert not machine.store.tend()
    with machine.store.lease(holding):
        machine.now += 1000
        assert not machine.store.wants_tending()
    assert not machine.store.wants_tending()
    machine.now += 1000
    assert machine.store.wants_tending()
    assert machine.store.tend()
    assert titles(machine) == []


def test_a_module_that_somebody_keeps_is_counted_until_it_is_let_go() -> None:
    machine = Machine()
    holding = machine.load("a", ua=MIB)
    component = machine.store.component("ua")
    assert component is not None
    held = component.module
    view = held.weight[:10]
    machine.store.evict(holding)
    assert machine.store.report().leaked_handles == 1
    assert held.weight.numel() == 0
    assert view.sum() == 0  # its pages are gone
    gone = weakref.ref(held)
    del held
    assert gone() is None
    assert machine.store.report().leaked_handles == 0


def test_reports_may_be_asked_for_while_models_come_and_go() -> None:
    machine, stop, faults = Machine(), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                machine.store.report()
                machine.store.wants_tending()
            except Exception as error:  # noqa: BLE001
                faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for round_ in range(30):
        machine.store.evict(machine.load("a", **{f"u{round_}": 4 * KIB, "vae": 4 * KIB}))
    stop.set()
    reader.join()
    assert faults == []


def test_memory_set_aside_counts_and_is_taken_over_by_the_load() -> None:
    machine = Machine()
    machine.load("a", ua=MIB, vae=MIB)
    assert machine.reserve("a", ub=2 * MIB, vae=MIB)
    assert machine.store.host_bytes == 4 * MIB
    rows = {row.role: (row.state, row.checkpoints) for row in machine.store.report().components}
    assert rows["ub"] == ("loading", ())
    assert machine.store.component("ub") is None
    made = a_component(size=2 * MIB)
    with machine.store.loading(0, reused=["vae"]):
        machine.store.load("ub", "ub", "b", lambda: made)
        machine.store.hold("b", "b", ["ub", "vae"], object())
    machine.store.drop_reserved()
    assert machine.store.component("ub") is made
    assert machine.store.host_bytes == 4 * MIB


def test_memory_set_aside_is_given_back_with_what_was_made_of_it() -> None:
    machine = Machine()
    machine.load("a", ua=MIB)
    assert machine.reserve("a", ub=MIB, tb=MIB)
    assert machine.store.wants_tending() is False
    made = a_component()
    machine.store.drop_reserved([made])
    assert made.is_released
    assert machine.store.host_bytes == MIB
    machine.load("b", ub=MIB, tb=MIB)


def test_what_is_read_ahead_drives_out_only_what_nobody_is_waiting_for() -> None:
    machine = Machine()
    machine.store.configure(Limits(host_bytes=6 * MIB, holdings=4))
    machine.load("old", uo=2 * MIB)
    machine.load("soon", us=2 * MIB)
    machine.load("now", un=2 * MIB)
    machine.store.protect(["soon"])
    assert not machine.reserve("now", ub=3 * MIB)
    assert titles(machine) == ["old", "soon", "now"]
    assert machine.reserve("now", ub=2 * MIB)
    assert titles(machine) == ["soon", "now"]
    machine.store.drop_reserved()
    with machine.store.lease(machine.load("old", uo=2 * MIB)):
        assert not machine.reserve("now", ub=MIB)


def test_what_is_read_ahead_counts_as_a_checkpoint_and_leaves_the_machine_some_memory() -> None:
    machine = Machine(total=100 * MIB)
    machine.store.configure(Limits(host_bytes=machine.total, holdings=1))
    machine.load("now", un=MIB)
    assert not machine.reserve("now", ub=MIB)
    machine.store.configure(Limits(host_bytes=machine.total, holdings=2))
    machine.others = 80 * MIB
    assert not machine.reserve("now", ub=5 * MIB)  # 15 are to stay free
    assert machine.reserve("now", ub=4 * MIB)
    machine.others = 100 * MIB
    assert machine.store.wants_tending()


class StoreRules(RuleBasedStateMachine):
    """Whatever is asked in whatever order, the store keeps its promises."""

    BUDGET, MOST = 8 * KIB, 3

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.store = self.machine.store
        self.store.configure(Limits(holdings=self.MOST, host_bytes=self.BUDGET))
        self.leases: list[tuple[Holding, object]] = []

    @rule(
        title=st.sampled_from("abcde"),
        parts=st.dictionaries(
            st.sampled_from(["u", "v", "w", "x", "y"]), st.just(2 * KIB), min_size=1, max_size=5
        ),
    )
    def load(self, title: str, parts: dict[str, int]) -> None:
        if self.store.holding(title) is None:
            self.store.drop_reserved()
            self.machine.load(title, **parts)
            assert self.store.holding(title) is not None
            if not self.leases:
                self.limits_are_kept_but_for_one_alone()

    @rule(
        parts=st.sets(st.sampled_from(["u", "v", "w", "x", "y"]), min_size=1),
        keep=st.sets(st.sampled_from("abcde")),
    )
    def reserve(self, parts: set[str], keep: set[str]) -> None:
        self.store.drop_reserved()
        before = {h.key for h in self.store.holdings() if h.key in keep or h.leases}
        is_there = self.machine.reserve(*keep, **dict.fromkeys(parts, 2 * KIB))
        assert before <= {h.key for h in self.store.holdings()}
        if is_there:
            assert len(self.store.holdings()) < self.MOST
            assert self.store.host_bytes <= self.BUDGET

    @rule()
    def take_over(self) -> None:
        keys = sorted(self.store._reserved)
        if keys and self.store.holding("ahead") is None:
            with self.store.loading(0):
                for key in keys:
                    self.store.load(key, key, "f", lambda: a_component(size=2 * KIB))
                self.store.hold("ahead", "ahead", keys, object())
            assert not self.store._reserved

    def limits_are_kept_but_for_one_alone(self) -> None:
        held = self.store.holdings()
        assert len(held) <= self.MOST
        assert self.store.host_bytes <= self.BUDGET or all(
            self.store._freed_by([h], ()) == 0 for h in held[:-1]
        )

    @rule(parts=st.sets(st.sampled_from(["u", "v", "w", "x", "y"]), min_size=1))
    def fail(self, parts: set[str]) -> None:
        self.store.drop_reserved()
        held = [key for key in sorted(parts) if self.store.component(key)]
        try:
            with self.store.loading(2 * KIB * (len(parts) - len(held)), reused=held):
                for key in sorted(parts - set(held)):
                    self.store.load(key, key, "f", lambda: a_component(size=2 * KIB))
                raise RuntimeError
        except RuntimeError:
            pass

    @precondition(lambda self: self.store.holdings())
    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        holding = data.draw(st.sampled_from(self.store.holdings()))
        lease = self.store.lease(holding)
        lease.__enter__()
        self.leases.append((holding, lease))

    @precondition(lambda self: self.leases)
    @rule()
    def end_lease(self) -> None:
        _, lease = self.leases.pop(0)
        lease.__exit__(None, None, None)  # type: ignore[attr-defined]

    @precondition(lambda self: self.store.holdings())
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        self.store.evict(data.draw(st.sampled_from(self.store.holdings())))

    def teardown(self) -> None:
        while self.leases:
            self.end_lease()

    @invariant()
    def leased_parts_are_alive(self) -> None:
        for holding, _ in self.leases:
            for key in holding.slots:
                component = self.store.component(key)
                assert component is not None and not component.is_released

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        used = {key for holding in self.store.holdings() for key in holding.slots}
        used |= {key for holding, _ in self.leases for key in holding.slots}
        assert set(self.store._slots) == used | self.store._reserved
        assert {self.store._slots[key].state for key in used} <= {HostState.HOST}


StoreRules.TestCase.settings = settings(max_examples=2000, stateful_step_count=20, deadline=None)
TestStoreRules = StoreRules.TestCase
