import queue
import threading

import pytest

from sdforge.core.events import JobFinished, JobStarted, PreviewReady, StepDone
from sdforge.engine.event_log import EventLog, Subscription
from tests.engine.fakes import PATIENCE


def a_step(step: int) -> StepDone:
    return StepDone(step=step, steps=1000, batch=0, batch_count=1)


def a_preview(step: int) -> PreviewReady:
    return PreviewReady(image=bytes(100), media_type="image/jpeg", step=step)


def everything(log: EventLog, after: int = 0) -> list[tuple[int, object]]:
    return [(one.sequence, one.event) for one in Subscription(log, after)]


def test_late_readers_get_all_events_in_order() -> None:
    log = EventLog("a")
    for step in (1, 2, 3):
        log.append(a_step(step))
    log.end()
    assert everything(log) == [(1, a_step(1)), (2, a_step(2)), (3, a_step(3))]


def test_a_reader_goes_on_after_the_last_event_it_knows() -> None:
    log = EventLog("a")
    for step in (1, 2, 3):
        log.append(a_step(step))
    log.end()
    assert everything(log, after=2) == [(3, a_step(3))]


def test_a_position_from_before_a_restart_starts_over() -> None:
    log = EventLog("a")
    log.append(JobStarted())
    log.end()
    assert everything(log, after=57) == [(1, JobStarted())]


def test_only_the_newest_preview_is_kept_and_none_after_the_end() -> None:
    log = EventLog("a")
    log.append(a_preview(1))
    log.append(a_step(2))
    log.append(a_preview(2))
    reader = Subscription(log)
    assert [reader.get_nowait().sequence for _ in range(2)] == [2, 3]
    log.end()
    assert everything(log) == [(2, a_step(2))]


def test_when_full_old_steps_go_first_and_milestones_stay() -> None:
    log = EventLog("a", limit=10)
    log.append(JobStarted())
    for step in range(1, 101):
        log.append(a_step(step))
    log.append(JobFinished(status="done"))
    log.end()
    events = everything(log)
    assert len(events) == 10
    assert events[0] == (1, JobStarted())
    assert events[1] == (94, a_step(93))
    assert events[-1] == (102, JobFinished(status="done"))


def test_a_log_of_milestones_alone_is_bounded_too() -> None:
    log = EventLog("a", limit=10)
    for _ in range(50):
        log.append(JobStarted())
    log.end()
    assert [sequence for sequence, _ in everything(log)] == list(range(41, 51))


def test_a_live_reader_sees_each_event_as_it_comes() -> None:
    log = EventLog("a")
    seen: queue.Queue[int] = queue.Queue()

    def read() -> None:
        for event in Subscription(log):
            seen.put(event.sequence)
        seen.put(-1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in (1, 2, 3):
        log.append(a_step(number))
        assert seen.get(timeout=PATIENCE) == number
    log.end()
    assert seen.get(timeout=PATIENCE) == -1
    reader.join(PATIENCE)


def test_no_event_is_lost_between_a_fast_writer_and_many_readers() -> None:
    log = EventLog("a", limit=100_000)
    results: list[list[int]] = []

    def read() -> None:
        results.append([event.sequence for event in Subscription(log)])

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for step in range(2000):
        log.append(a_step(step))
    log.end()
    for reader in readers:
        reader.join(PATIENCE)
    assert results == [list(range(1, 2001))] * 4


def test_getting_from_an_empty_subscription_raises_like_a_queue() -> None:
    log = EventLog("a")
    reader = Subscription(log)
    with pytest.raises(queue.Empty):
        reader.get_nowait()
    with pytest.raises(queue.Empty):
        reader.get(timeout=0.01)
    log.end()
    with pytest.raises(queue.Empty):
        reader.get()
    assert reader.ended


def test_a_subscription_has_not_ended_while_events_are_unread() -> None:
    log = EventLog("a")
    log.append(JobStarted())
    log.end()
    reader = Subscription(log)
    assert not reader.ended
    reader.get()
    assert reader.ended


def test_listeners_are_called_until_they_unsubscribe() -> None:
    log = EventLog("a")
    calls: list[int] = []
    reader = Subscription(log, notify=lambda: calls.append(1))
    log.append(JobStarted())
    reader.close()
    log.append(JobStarted())
    assert len(calls) == 1


def test_a_listener_whose_loop_is_closed_is_dropped_and_hurts_nobody() -> None:
    log = EventLog("a")
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        raise RuntimeError("Event loop is closed")

    log.add_listener(broken)
    log.append(JobStarted())
    log.append(JobStarted())
    assert len(calls) == 1


def test_who_waits_for_one_kind_is_woken_by_it_and_by_the_end_only() -> None:
    log = EventLog("a")
    woken: list[int] = []
    reader = Subscription(log, notify=lambda: woken.append(len(woken)), kinds=(PreviewReady,))
    log.append(a_step(1))
    log.append(a_preview(1))
    log.append(a_step(2))
    log.end()
    assert len(woken) == 2
    reader.close()
