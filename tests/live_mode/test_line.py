"""Superseding, as properties over all orders of wishes, drawings, departures."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sdforge.live.line import Line, Waiting

NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)


class LiveLine(RuleBasedStateMachine):
    """Clients ask, leave and come back; one frame is drawn at a time and takes any time to go.

    The model is the obvious one: for each session the newest wish, what was delivered since it
    came, and how often others were served while it waited.
    """

    def __init__(self) -> None:
        super().__init__()
        self.line: Line[str] = Line()
        self.numbers = 0
        self.newest: dict[str, int] = {}
        self.delivered: dict[str, int] = {}
        self.stale: dict[str, int] = {}
        self.on_its_way: dict[str, int] = {}
        self.drawing: tuple[str, int] | None = None
        self.passed_over: dict[str, int] = {}

    @initialize()
    def everybody_comes(self) -> None:
        for name in NAMES:
            self.come(name)

    @rule(name=names)
    def come(self, name: str) -> None:
        if name in self.line:
            return
        self.line.open(name)
        self.newest[name] = self.delivered[name] = -1
        self.stale[name] = self.passed_over[name] = 0
        self.on_its_way.pop(name, None)

    @rule(name=names)
    def go(self, name: str) -> None:
        self.line.close(name)

    @rule(name=names, backward=st.integers(0, 2))
    def ask(self, name: str, backward: int) -> None:
        """Mostly a newer wish, sometimes one that was overtaken on its way."""
        self.numbers += 1
        number = self.numbers if backward < 2 else self.newest.get(name, -1) - backward + 2
        waited = self.line.waits(name)
        superseded = self.line.ask(name, number, f"{name}{number}")
        if name not in self.line:
            assert superseded is not None
            return
        if number > self.newest[name]:
            assert waited == (superseded is not None)
            self.newest[name], self.stale[name] = number, 0
            if not waited:
                self.passed_over[name] = 0
        else:
            assert superseded is not None and superseded.number == number

    @precondition(lambda self: self.drawing is None)
    @rule()
    def take(self) -> None:
        could = [name for name in NAMES if self.line.waits(name) and name not in self.on_its_way]
        taken = self.line.take()
        assert (taken is not None) == bool(could)
        if taken is None:
            return
        name, waiting = taken
        assert name in could
        assert waiting.number == self.newest[name], "what is drawn is the newest wish"
        assert waiting.wish == f"{name}{waiting.number}"
        self.drawing = name, waiting.number
        for other in could:
            self.passed_over[other] += 1
        self.passed_over[name] = 0
        assert max(self.passed_over.values()) < len(NAMES) + 1, "everybody has a turn"

    @precondition(lambda self: self.drawing is not None)
    @rule(outcome=st.sampled_from(["drawn", "failed", "gave way"]))
    def finish(self, outcome: str) -> None:
        assert self.drawing is not None
        (name, number), self.drawing = self.drawing, None
        if outcome == "failed":
            self.line.failed(name, number)
            return
        if outcome == "gave way":
            was_open = name in self.line
            self.line.put_back(name, Waiting(number, f"{name}{number}"))
            assert self.line.waits(name) or not was_open or self.newest[name] < number
            return
        if self.line.drawn(name, number):
            self.on_its_way[name] = number

    @rule(name=names)
    def shown(self, name: str) -> None:
        number = self.on_its_way.pop(name, None)
        if number is None or name not in self.line:
            return
        assert self.line.shown(name, number)
        assert not self.line.shown(name, number), "once is enough"
        assert number > self.delivered[name], "frames come in the order of their wishes"
        self.delivered[name] = number
        if number < self.newest[name]:
            self.stale[name] += 1

    @invariant()
    def it_never_grows(self) -> None:
        assert len(self.line) <= sum(name in self.line for name in NAMES)

    @invariant()
    def at_most_one_frame_is_older_than_the_newest_wish(self) -> None:
        assert max(self.stale.values(), default=0) <= 1


TestLine = LiveLine.TestCase
TestLine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 50))
def test_of_many_wishes_only_the_newest_is_drawn(count: int) -> None:
    line: Line[int] = Line()
    line.open("a")
    superseded = [line.ask("a", number, number) for number in range(1, count + 1)]
    assert [one.number for one in superseded if one is not None] == list(range(1, count))
    assert len(line) == 1
    taken = line.take()
    assert taken is not None and taken[1].number == count
    assert line.take() is None


def test_a_session_that_left_while_its_frame_was_drawn_gets_nothing_when_it_is_back() -> None:
    line: Line[str] = Line()
    line.open("a")
    line.ask("a", 1, "old")
    line.take()
    line.close("a")
    line.open("a")
    assert not line.drawn("a", 1)
    line.ask("a", 1, "new")
    assert line.take() is not None


def test_a_client_that_never_says_shown_holds_up_nobody_else() -> None:
    line: Line[str] = Line()
    for name in ("silent", "other"):
        line.open(name)
    line.ask("silent", 1, "x")
    line.take()
    line.drawn("silent", 1)
    line.ask("silent", 2, "y")
    for number in (1, 2, 3):
        line.ask("other", number, "z")
        taken = line.take()
        assert taken is not None and taken[0] == "other"
        line.drawn("other", number)
        line.shown("other", number)
    assert line.take() is None
