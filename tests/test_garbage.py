"""While the server starts nothing is collected; afterwards only what came later."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from sdforge import garbage


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.enable()


def test_what_is_there_once_the_first_model_has_come_is_not_looked_through_again() -> None:
    garbage.leave_it()
    assert not gc.isenabled()
    stays = [[]]
    loaded: Future[None] = Future()
    garbage.look_for_it_after(loaded)
    assert not gc.isenabled()
    loaded.set_exception(RuntimeError("damaged"))
    assert gc.isenabled()
    later = [[]]
    seen = {id(one) for one in gc.get_objects()}
    assert id(later) in seen
    assert id(stays) not in seen


def test_without_a_model_it_is_looked_for_at_once() -> None:
    garbage.leave_it()
    garbage.look_for_it_after(None)
    assert gc.isenabled()
