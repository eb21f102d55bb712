"""Tells a client's own server that its job has ended: signed, and only where the owner allows it.

The hosts that may be told and the secret that signs come from flags (`--webhook-hosts`,
`--webhook-secret`), never from a client. `core/outbound.py` sends; a thread of its own does, so
nobody waits for a slow receiver.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from sdforge.core.errors import InvalidRequest
from sdforge.core.outbound import OutboundRefused, Rules, post
from sdforge.engine.job import Job

log = logging.getLogger(__name__)

SIGNATURE_HEADER = "X-Sdforge-Signature"
# Waited before each further attempt; a receiver that restarts is back within them.
PAUSES_SECONDS = (1.0, 5.0, 25.0)
_TIMEOUT_SECONDS = 10.0
_MOST_WAITING = 1000
_MAX_URL_LENGTH = 2000


@dataclass(frozen=True)
class WebhookRules:
    """Hosts that may be told, and the secret that signs; without either nobody is told."""

    hosts: frozenset[str] = frozenset()
    secret: str = ""

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any] | None) -> WebhookRules:
        """Read the rules from `webhook_hosts` (commas between) and `webhook_secret`."""
        named = str((flags or {}).get("webhook_hosts") or "")
        hosts = frozenset(part.strip().casefold() for part in named.split(",") if part.strip())
        return cls(hosts, str((flags or {}).get("webhook_secret") or ""))

    def check(self, url: str) -> None:
        """Raise `InvalidRequest` unless an address may be told."""
        if not (self.hosts and self.secret):
            raise InvalidRequest(
                "webhook", url, "none: the server was started without --webhook-hosts and -secret"
            )
        try:
            parts = urlsplit(url)
            host, _ = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            host, parts = "", urlsplit("")
        is_address = parts.scheme in ("http", "https") and len(url) <= _MAX_URL_LENGTH
        if not is_address or host not in self.hosts or not url.isprintable():
            raise InvalidRequest("webhook", url, "http(s) addresses of the hosts --webhook-hosts")

    def outbound(self, url: str) -> Rules:
        """Return the rules for one address: a name must not lead into the local network."""
        host = (urlsplit(url).hostname or "").rstrip(".")
        return Rules(
            local=host == "localhost" or _is_address(host),
            hosts=self.hosts,
            user_agent="sdforge",
            max_bytes=1 << 20,
            timeout_seconds=_TIMEOUT_SECONDS,
        )


def signature(secret: str, moment: int, body: bytes) -> str:
    """Return the header's value: the time, and HMAC-SHA256 of "<time>.<body>" in hexadecimal."""
    message = f"{moment}.".encode() + body
    digest = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def message_of(job: Job) -> bytes:
    """Return the JSON text that tells of a finished job; pictures are fetched by their path."""
    base = f"/api/v1/jobs/{quote(job.id, safe='()')}"
    images = [
        {"index": image.index, "seed": image.seed, "sha256": image.sha256,
         "path": f"{base}/images/{image.index}"}
        for image in job.images
    ]  # fmt: skip
    values = {
        "event": "job.finished",
        "job": job.id,
        "kind": job.kind,
        "status": job.status.value,
        "error": asdict(job.error) if job.error else None,
        "path": base,
        "images": images,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "timings": dict(job.timings),
    }
    return json.dumps(values).encode()


class Webhooks:
    """Sends what is to be told, in order, on a thread that begins with the first message."""

    def __init__(
        self,
        rules: WebhookRules,
        *,
        send: Callable[[str, bytes, Mapping[str, str], Rules], None] = post,
        pauses: tuple[float, ...] = PAUSES_SECONDS,
    ) -> None:
        self.rules = rules
        self._send = send
        self._pauses = pauses
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue(_MOST_WAITING)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def tell(self, job: Job) -> None:
        """Tell of a finished job whoever its terms name; returns at once."""
        if job.terms.webhook is None:
            return
        try:
            self._waiting.put_nowait((job.terms.webhook, message_of(job)))
        except queue.Full:
            log.error("job %s: too many webhooks wait; nobody is told", job.id)
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="sdforge-webhooks", daemon=True
                )
                self._thread.start()

    def close(self, timeout: float = _TIMEOUT_SECONDS) -> None:
        """Send what waits, each once more at most, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout)

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            self._deliver(*message)

    def _deliver(self, url: str, body: bytes) -> None:
        for attempt in range(len(self._pauses) + 1):
            moment = int(time.time())
            headers = {
                "Content-Type": "application/json",
                SIGNATURE_HEADER: signature(self.rules.secret, moment, body),
            }
            try:
                self._send(url, body, headers, self.rules.outbound(url))
                return
            except OutboundRefused as error:
                log.warning("webhook %s, attempt %d: %s", url, attempt + 1, error)
            if attempt == len(self._pauses) or self._stopping.wait(self._pauses[attempt]):
                return


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
