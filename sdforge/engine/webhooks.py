"""Tells a client's own server that its job has ended: signed, and only where the owner allows it.

The hosts that may be told and the secret that signs come from flags (`--webhook-hosts`,
`--webhook-secret`), never from a client. `core/outbound.py` sends; a thread of its own does, so
nobody waits for a slow receiver. Whom to tell is stored with the job's end: what a crash or a stop
leaves untold is told after the next start, so a receiver may hear of a job twice, but of each.
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
        owed: Sequence[Job] = (),
        on_told: Callable[[str], None] = lambda job_id: None,
        send: Callable[[str, bytes, Mapping[str, str], Rules], None] = post,
        pauses: tuple[float, ...] = PAUSES_SECONDS,
    ) -> None:
        """Send nothing yet.

        Args:
            rules: who may be told.
            owed: finished jobs that an earlier server told nobody of.
            on_told: called with a job's id once there is nothing more to tell of it.
            send: posts a body to an address; raises `OutboundRefused`.
            pauses: seconds before each further attempt.
        """
        self.rules = rules
        self._owed = owed
        self._on_told = on_told
        self._send = send
        self._pauses = pauses
        self._waiting: queue.Queue[Job | None] = queue.Queue(_MOST_WAITING)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Tell of the jobs that are owed, whose hosts may still be told."""
        owed, self._owed = self._owed, ()
        for job in owed:
            try:
                self.rules.check(job.terms.webhook or "")
            except InvalidRequest as error:
                log.warning("job %s: nobody is told any more: %s", job.id, error.message)
                self._on_told(job.id)
            else:
                self.tell(job)

    def tell(self, job: Job) -> None:
        """Tell of a finished job whoever its terms name; returns at once."""
        if job.terms.webhook is None:
            return
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            log.error("job %s: too many webhooks wait; told after the next start", job.id)
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="sdforge-webhooks", daemon=True
                )
                self._thread.start()

    def close(self, timeout: float = _TIMEOUT_SECONDS) -> None:
        """Send what waits, each once more at most, and stop; the rest is owed to the next start."""
        self._stopping.set()
        if self._thread is not None:
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(timeout)

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None:
            if self._deliver(job.terms.webhook or "", message_of(job)):
                self._on_told(job.id)

    def _deliver(self, url: str, body: bytes) -> bool:
        """Send a message; return whether that is over, by success or by the last failure."""
        for attempt in range(len(self._pauses) + 1):
            moment = int(time.time())
            headers = {
                "Content-Type": "application/json",
                SIGNATURE_HEADER: signature(self.rules.secret, moment, body),
            }
            try:
                self._send(url, body, headers, self.rules.outbound(url))
                return True
            except OutboundRefused as error:
                log.warning("webhook %s, attempt %d: %s", url, attempt + 1, error)
            if attempt < len(self._pauses) and self._stopping.wait(self._pauses[attempt]):
                return False
        return True


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
