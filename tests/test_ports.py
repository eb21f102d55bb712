"""Which port is listened on."""

from __future__ import annotations

import socket

import pytest

from sdforge.ports import PortError, bind


@pytest.fixture
def taken() -> int:
    """A port that another program listens on, with a free one behind it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_the_port_asked_for_is_bound() -> None:
    with bind("127.0.0.1", 0, 7860) as bound:
        assert bound.getsockname()[1] > 0


def test_a_taken_port_is_refused_with_a_free_one_proposed(taken: int) -> None:
    with pytest.raises(PortError, match=f"port {taken} is taken") as caught:
        bind("127.0.0.1", taken, 7860)
    proposed = int(str(caught.value).partition("--port ")[2].split()[0])
    with bind("127.0.0.1", proposed, 7860):
        assert proposed > taken


def test_without_a_wish_the_next_free_port_is_taken(taken: int) -> None:
    with bind("127.0.0.1", None, taken) as bound:
        assert bound.getsockname()[1] > taken


def test_an_address_that_is_not_this_machine_s_is_named() -> None:
    with pytest.raises(PortError, match=r"cannot listen on 192\.0\.2\.1"):
        bind("192.0.2.1", 0, 7860)


def test_connections_wait_until_the_server_is_up() -> None:
    with (
        bind("127.0.0.1", 0, 7860) as bound,
        socket.create_connection(bound.getsockname(), timeout=1) as client,
    ):
        assert client.getpeername() == bound.getsockname()
