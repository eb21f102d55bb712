"""Requests to addresses that a client named."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.core.outbound import OutboundRefused, Rules, fetch, is_public, post

LOCAL = Rules(local=True, timeout_seconds=20)


class Handler(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        paths: dict[str, Callable[[], None]] = {
            "/picture": lambda: self.answer(200, b"pixels"),
            "/again": lambda: self.answer(302, b"", Location="/picture"),
            "/round": lambda: self.answer(302, b"", Location="/round"),
            "/inside": lambda: self.answer(302, b"", Location="http://inner.test/secret"),
            "/file": lambda: self.answer(302, b"", Location="file:///etc/passwd"),
            "/large": lambda: self.answer(200, b"x" * 5000),
            "/endless": self.drip,
        }
        paths.get(self.path, lambda: self.answer(404, b"no"))()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        self.answer(204 if self.path == "/hook" else 302, b"", Location="/picture")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        done: threading.Event = self.server.done  # type: ignore[attr-defined]
        try:
            while not done.wait(0.02):
                self.wfile.write(b"x")
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


@contextmanager
def serving() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []  # type: ignore[attr-defined]
    server.done = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.done.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    with serving() as server:
        yield server


def at(server: ThreadingHTTPServer, path: str, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{server.server_port}{path}"


def names(**addresses: str) -> Callable[[str, int], list[str]]:
    table = {name.replace("_", "."): address for name, address in addresses.items()}
    return lambda host, port: [table[host]]


def test_an_address_is_fetched_and_redirects_followed(web: ThreadingHTTPServer) -> None:
    assert fetch(at(web, "/picture"), LOCAL) == b"pixels"
    assert fetch(at(web, "/again"), LOCAL) == b"pixels"


def test_a_name_is_asked_once_and_the_address_looked_at_is_the_one_asked(
    web: ThreadingHTTPServer,
) -> None:
    """Of a name that changes its mind the first answer counts, for the look and the connection."""
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["192.0.2.1"]

    assert fetch(at(web, "/picture", "two-faced.test"), LOCAL, resolve=rebinding) == b"pixels"
    assert asked == ["two-faced.test"]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1",
     "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "fe80::1%eth0"],
)  # fmt: skip
def test_addresses_that_are_not_of_the_public_internet_are_refused(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(OutboundRefused, match="local network"):
        fetch("http://name.test/", Rules(), resolve=lambda host, port: [address])


def test_one_local_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(OutboundRefused, match="local network"):
        fetch("http://name.test/", Rules(), resolve=lambda host, port: ["8.8.8.8", "127.0.0.1"])


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888"])
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "localhost"])
def test_other_spellings_of_this_machine_are_seen_through(spelling: str) -> None:
    with pytest.raises(OutboundRefused):
        fetch(f"http://{spelling}:1/", Rules())


def test_a_redirect_into_the_local_network_is_refused(web: ThreadingHTTPServer) -> None:
    """The first name may be asked; the one that it redirects to is looked at anew."""
    rules = Rules(local=True, hosts={"outer.test"}, timeout_seconds=20)
    resolve = names(outer_test="127.0.0.1", inner_test="127.0.0.1")
    with pytest.raises(OutboundRefused, match=r"inner\.test"):
        fetch(at(web, "/inside", "outer.test"), rules, resolve=resolve)
    with pytest.raises(OutboundRefused, match="none of http"):
        fetch(at(web, "/file"), LOCAL)


def test_redirects_end(web: ThreadingHTTPServer) -> None:
    with pytest.raises(OutboundRefused, match="redirects"):
        fetch(at(web, "/round"), LOCAL)


def test_an_answer_may_be_neither_too_large_nor_too_slow(web: ThreadingHTTPServer) -> None:
    with pytest.raises(OutboundRefused, match="larger than 1000"):
        fetch(at(web, "/large"), Rules(local=True, max_bytes=1000, timeout_seconds=20))
    with pytest.raises(OutboundRefused):
        fetch(at(web, "/endless"), Rules(local=True, timeout_seconds=0.3))


def test_what_is_not_there_is_said(web: ThreadingHTTPServer) -> None:
    with pytest.raises(OutboundRefused, match="404"):
        fetch(at(web, "/nothing"), LOCAL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(OutboundRefused, match="cannot be reached"):
        fetch(f"http://127.0.0.1:{port}/", LOCAL)


@pytest.mark.parametrize(
    "url",
    ["ftp://a.test/", "file:///etc/passwd", "gopher://a.test/", "http:///x", "//a.test/", "x",
     "http://user:secret@a.test/", "http://a.test/\r\nHost: b", "http://a.test:99999/",
     "http://[::1", "http://a test/"],
)  # fmt: skip
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(OutboundRefused):
        fetch(url, LOCAL, resolve=lambda host, port: ["127.0.0.1"])


def test_a_message_is_sent_and_its_redirect_not_followed(web: ThreadingHTTPServer) -> None:
    post(at(web, "/hook"), b"{}", {"X-Mine": "1"}, LOCAL)
    path, headers, body = web.seen[0]  # type: ignore[attr-defined]
    assert (path, headers["X-Mine"], body) == ("/hook", "1", b"{}")
    with pytest.raises(OutboundRefused, match="redirects"):
        post(at(web, "/elsewhere"), b"{}", {}, LOCAL)


@given(st.text(max_size=60))
def test_any_text_is_an_answer_or_a_refusal(text: str) -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(OutboundRefused):
        fetch(text, Rules(), resolve=nowhere)
    with pytest.raises(OutboundRefused):
        fetch(f"http://{text}", Rules(), resolve=nowhere)
