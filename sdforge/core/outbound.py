"""Requests to addresses that a client named: made without becoming the client's hands.

A server that fetches what it is told can be made to ask its own network, or the cloud's metadata
service, for things that the client itself could not reach. So here a name is resolved once, every
address that comes of it is looked at, the connection goes to the very address that was looked at
(a name that changes its mind in between gains nothing), redirects are followed by the same rules,
proxies of the environment are not used, and time and size are bounded.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]

MAX_REDIRECTS = 3
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_CHUNK_BYTES = 65536
_BODY_CHUNK_BYTES = 1 << 20
# Networks through which an IPv4 address is reached from IPv6; what counts is the address inside.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class OutboundRefused(Exception):
    """A request is not made, or its answer not taken; the message says why, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What may be asked: `hosts` None allows any name, `local` also addresses of this network."""

    local: bool = False
    hosts: Container[str] | None = None
    user_agent: str = ""
    max_bytes: int = 64 * 2**20
    timeout_seconds: float = 30.0
    max_redirects: int = MAX_REDIRECTS


def resolve_name(host: str, port: int) -> list[str]:
    """Return the addresses of a name, as text.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(text: str) -> bool:
    """Tell whether an address belongs to the public internet, whatever form hides it."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return False
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast and not address.is_reserved


def fetch(url: str, rules: Rules, *, resolve: Resolve = resolve_name) -> bytes:
    """Return the body of a GET.

    Raises:
        OutboundRefused: the rules forbid it, or nothing usable came back.
    """
    deadline = time.monotonic() + rules.timeout_seconds
    for _ in range(rules.max_redirects + 1):
        answer = _Exchange(url, rules, deadline, resolve).run("GET", b"", {})
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise OutboundRefused(f"more than {rules.max_redirects} redirects")


class Answer:
    """What came back for a GET, its body not yet read; `headers` have names in lower case."""

    def __init__(self, url: str, host: str, response: http.client.HTTPResponse) -> None:
        """Take the answer of `host` for `url`."""
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.redirect = urljoin(url, self.headers.get("location", ""))
        self._host = host
        self._response = response

    @property
    def is_redirect(self) -> bool:
        """Whether it says to ask at `redirect`."""
        return self.status in _REDIRECTS

    def chunks(self) -> Iterator[bytes]:
        """Yield the body; raises `OutboundRefused` where it breaks off with an error."""
        try:
            while part := self._response.read1(_BODY_CHUNK_BYTES):
                yield part
        except (OSError, http.client.HTTPException) as error:
            raise OutboundRefused(f"{self._host!r} broke off ({error})") from error


@contextmanager
def ask(
    url: str, headers: Mapping[str, str], rules: Rules, *, resolve: Resolve = resolve_name
) -> Iterator[Answer]:
    """Give the answer to a GET of any status and size; redirects are for the caller to follow.

    `rules.timeout_seconds` bounds each wait instead of the whole, `max_bytes` nothing.

    Raises:
        OutboundRefused: the rules forbid it, or nothing came back.
    """
    exchange = _Exchange(url, rules, time.monotonic() + rules.timeout_seconds, resolve)
    connection, response = exchange.open(headers)
    try:
        yield Answer(url, exchange.host, response)
    finally:
        connection.close()


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    rules: Rules,
    *,
    resolve: Resolve = resolve_name,
) -> None:
    """Send a POST; any answer of 2xx will do, its body is not kept, redirects are not followed.

    Raises:
        OutboundRefused: the rules forbid it, or it was not taken.
    """
    deadline = time.monotonic() + rules.timeout_seconds
    answer = _Exchange(url, rules, deadline, resolve).run("POST", body, headers)
    if not isinstance(answer, bytes):
        raise OutboundRefused("the address redirects elsewhere, which is not followed")


class _Exchange:
    """One request to one address."""

    def __init__(self, url: str, rules: Rules, deadline: float, resolve: Resolve) -> None:
        self._rules = rules
        self._deadline = deadline
        self._url = url
        self._parts, self._host, self._port = _checked(url, rules)
        try:
            addresses = resolve(self._host, self._port)
        except (OSError, UnicodeError) as error:
            raise OutboundRefused(f"the name {self._host!r} cannot be resolved") from error
        # All of them: one that is public must not open the door for another that is not.
        if not rules.local and not all(map(is_public, addresses)):
            raise OutboundRefused(f"{self._host!r} is an address of a local network")
        if not addresses:
            raise OutboundRefused(f"the name {self._host!r} has no address")
        self._address = addresses[0]

    @property
    def host(self) -> str:
        """Whom it asks."""
        return self._host

    def open(
        self, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a GET; return the connection, to be closed, and the answer before its body."""
        connection = self._connect()
        try:
            connection.request("GET", _target(self._parts), None, self._headers(headers))
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise OutboundRefused(f"{self._host!r} did not answer ({error})") from error

    def run(self, method: str, body: bytes, headers: Mapping[str, str]) -> bytes | str:
        """Return the answer's body, or where it redirects to."""
        connection = self._connect()
        # A timeout counts for one read; an answer that comes byte by byte would never end.
        cut = threading.Timer(self._left(), _shut, (connection.sock,))
        cut.daemon = True
        cut.start()
        try:
            connection.request(method, _target(self._parts), body or None, self._headers(headers))
            answer = connection.getresponse()
            if answer.status in _REDIRECTS:
                return urljoin(self._url, answer.getheader("Location") or "")
            if not 200 <= answer.status < 300:
                raise OutboundRefused(f"{self._host!r} answered with status {answer.status}")
            return self._read(answer)
        except (OSError, http.client.HTTPException) as error:
            raise OutboundRefused(f"{self._host!r} did not answer ({error})") from error
        finally:
            cut.cancel()
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        try:
            raw = socket.create_connection((self._address, self._port), timeout=self._left())
            try:
                if self._parts.scheme == "https":
                    context = ssl.create_default_context()
                    raw = context.wrap_socket(raw, server_hostname=self._host)
            except OSError:
                raw.close()
                raise
        except OSError as error:
            raise OutboundRefused(f"{self._host!r} cannot be reached ({error})") from error
        connection = http.client.HTTPConnection(self._host, self._port)
        # With its socket in place it opens none of its own, to an address resolved anew.
        connection.sock = raw
        return connection

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        own = {"Host": self._parts.netloc.rpartition("@")[2], "Accept-Encoding": "identity"}
        own |= {"User-Agent": self._rules.user_agent} if self._rules.user_agent else {}
        return {**own, **headers, "Connection": "close"}

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := answer.read1(_CHUNK_BYTES):
            parts.append(part)
            size += len(part)
            if size > self._rules.max_bytes:
                raise OutboundRefused(f"the answer is larger than {self._rules.max_bytes} bytes")
            self._left()
        self._left()
        return b"".join(parts)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise OutboundRefused(f"no answer within {self._rules.timeout_seconds:g} s")
        return left


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _checked(url: str, rules: Rules) -> tuple[SplitResult, str, int]:
    """Return (parts, host, port) of an address that the rules let through."""
    if any(character <= " " or character == "\x7f" for character in url):
        raise OutboundRefused("the address holds spaces or control characters")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise OutboundRefused(f"the address cannot be read ({error})") from error
    if parts.scheme not in ("http", "https") or not host:
        raise OutboundRefused("the address is none of http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise OutboundRefused("the address holds a user name or password")
    if rules.hosts is not None and host not in rules.hosts:
        raise OutboundRefused(f"the host {host!r} is not among the allowed ones")
    return parts, host, port or (443 if parts.scheme == "https" else 80)


def _target(parts: SplitResult) -> str:
    path = parts.path or "/"
    return f"{path}?{parts.query}" if parts.query else path
