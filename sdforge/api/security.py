"""Who may talk to the API: host names, origins, passwords, body sizes.

A web page somewhere can make its visitor's browser send requests to 127.0.0.1; A1111 answers them.
Here a request must name a host of ours (stops DNS rebinding), and one that changes something and
comes from a browser must come from our own page or an allowed origin (stops cross-site requests).
Programs send no Origin header and notice none of this. All of it is plain ASGI, because Starlette's
`BaseHTTPMiddleware` would cancel a generation when its client hangs up.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdforge.api.attempts import Attempts
from sdforge.api.errors import error_response

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))
# Room for a batch of pictures in base64; the body is held in memory while it is read.
MAX_BODY_BYTES = 128 * 2**20
# Whether a server is alive may be asked without a password.
_OPEN_PATHS = ("/healthz", "/readyz")
_READING_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """The rules in force. `hosts` of None means that any Host header will do."""

    hosts: frozenset[str] | None = LOOPBACK_HOSTS
    origins: tuple[str, ...] = ()
    origin_regex: str | None = None
    credentials: Mapping[str, str] = field(default_factory=dict)
    max_body_bytes: int = MAX_BODY_BYTES
    attempts: Attempts = field(default_factory=Attempts, compare=False)

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> Access:
        """Read the rules from command-line flags (A1111's names, `allowed_hosts` is ours).

        Raises:
            ValueError: `api_auth` is not of the form user:password[,user:password], or the
                pattern of origins is no regular expression.
        """
        pattern = flags.get("cors_allow_origins_regex") or None
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"--cors-allow-origins-regex: {error}") from error
        origins = (part.strip().rstrip("/") for part in _split(flags.get("cors_allow_origins")))
        return cls(
            hosts=_allowed_hosts(flags),
            origins=tuple(origin for origin in origins if origin),
            origin_regex=pattern,
            credentials=parse_credentials(flags.get("api_auth")),
        )

    def host_allowed(self, header: str) -> bool:
        """Tell whether a Host header names this server."""
        return self.hosts is None or host_name(header) in self.hosts

    def origin_allowed(self, origin: str, host: str) -> bool:
        """Tell whether a browser's page at `origin` may change things at `host`."""
        if origin.rstrip("/") in self.origins or "*" in self.origins:
            return True
        if self.origin_regex and re.fullmatch(self.origin_regex, origin):
            return True
        # The scheme is left out: behind a proxy that ends TLS we see http where the page saw https.
        return bool(host) and urlsplit(origin).netloc.casefold() == host.casefold()

    def refusal(
        self, authorization: str | None, address: str
    ) -> tuple[int, str, Mapping[str, str]] | None:
        """Return (status, sentence, headers) unless the right password came; count wrong ones."""
        challenge = {"WWW-Authenticate": 'Basic realm="sdforge"'}
        if not authorization:
            return 401, "Not authenticated", challenge
        if wait := self.attempts.wait_seconds(address):
            return 429, "too many wrong passwords; wait", {"Retry-After": str(int(wait) + 1)}
        if self.password_accepted(authorization):
            return None
        self.attempts.failed(address)
        return 401, "Incorrect username or password", challenge

    def password_accepted(self, authorization: str) -> bool:
        """Check an authorization header in time that does not depend on its content.

        Basic, or Bearer with user:password or the password alone, as OpenAI's clients send keys.
        """
        scheme, _, encoded = authorization.partition(" ")
        if scheme.casefold() == "bearer":
            return self._key_accepted(encoded.strip().encode("utf-8", "replace"))
        try:
            decoded = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        user, _, password = decoded.partition(b":")
        accepted = False
        for name, expected in self.credentials.items():
            right_name = hmac.compare_digest(user, name.encode())
            right_password = hmac.compare_digest(password, expected.encode())
            accepted = accepted or (right_name and right_password)
        return accepted and scheme.casefold() == "basic"

    def _key_accepted(self, key: bytes) -> bool:
        accepted = False
        for name, password in self.credentials.items():
            whole = hmac.compare_digest(key, f"{name}:{password}".encode())
            alone = hmac.compare_digest(key, password.encode())
            accepted = accepted or whole or (alone and bool(password))
        return accepted


def _split(value: Any) -> list[str]:
    if not value:
        return []
    return value.split(",") if isinstance(value, str) else [str(part) for part in value]


def _allowed_hosts(flags: Mapping[str, Any]) -> frozenset[str] | None:
    bound = str(flags.get("server_name") or "").strip()
    if flags.get("listen") or _is_unspecified(bound):
        return None
    named = (host_name(part.strip()) for part in _split(flags.get("allowed_hosts")))
    hosts = LOOPBACK_HOSTS | {name for name in named if name}
    if "*" in hosts:
        return None
    return hosts | {host_name(bound)} if bound else hosts


def _is_unspecified(address: str) -> bool:
    """Tell whether an address is one that stands for all interfaces: 0.0.0.0 or ::."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_unspecified
    except ValueError:
        return False


def host_name(header: str) -> str:
    """Return the name in a Host header, lower case, without port and brackets."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def parse_credentials(text: str | None) -> dict[str, str]:
    """Read `--api-auth`: user:password pairs with commas between; a password may hold colons.

    Raises:
        ValueError: a pair lacks its colon or its user.
    """
    credentials = {}
    for pair in filter(None, (part.strip() for part in (text or "").split(","))):
        user, colon, password = pair.partition(":")
        if not (user and colon):
            raise ValueError("--api-auth: expected user:password pairs with commas between them")
        credentials[user] = password
    return credentials


class SecurityMiddleware:
    """Applies `Access` to every request and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or pass the request on."""
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(scope["method"], scope)
        if refusal is not None:
            status, text, more = refusal
            response = error_response(status, "HTTPException", text, headers=more)
            await response(scope, receive, send_with_headers)
            return
        limited = _LimitedBody(receive, self.access.max_body_bytes)
        await self.app(scope, limited, send_with_headers)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a WebSocket through under the rules for what changes something.

        Browsers let any page open one to any server; the Origin header is all that tells them apart
        (cross-site WebSocket hijacking).
        """
        refusal = self._refuse("POST", scope)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        status, text, more = refusal
        if "websocket.http.response" in scope.get("extensions", {}):
            response = error_response(status, "HTTPException", text, headers=more)
            await response(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": text[:120]})

    def _refuse(self, method: str, scope: Scope) -> tuple[int, str, Mapping[str, str]] | None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        address = (scope.get("client") or ("-", 0))[0]
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.access.host_allowed(host):
            return 403, _HOST_REFUSED.format(host=host[:100]), {}
        origin = headers.get("origin")
        changes_something = method not in _READING_METHODS
        if changes_something and origin and not self.access.origin_allowed(origin, host):
            return 403, _ORIGIN_REFUSED.format(origin=origin[:100]), {}
        if self.access.credentials and path not in _OPEN_PATHS:
            refusal = self.access.refusal(headers.get("authorization"), address)
            if refusal is not None:
                return refusal
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.access.max_body_bytes:
            return 413, _TOO_LARGE.format(limit=self.access.max_body_bytes // 2**20), {}
        return None


_HOST_REFUSED = (
    "the Host header names {host!r}, which is none of this server's names; start it with --listen, "
    "--server-name or --allowed-hosts to be reached under it"
)
_ORIGIN_REFUSED = (
    "a page at {origin!r} may not change anything here; start with --cors-allow-origins to allow it"
)
_TOO_LARGE = "the request body is larger than {limit} MiB"


class _LimitedBody:
    """A `receive` that stops a body sent in chunks, without a Content-Length, at the limit."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._received = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise HTTPException(413, _TOO_LARGE.format(limit=self._limit // 2**20))
        return message
