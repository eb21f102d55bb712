"""Webhooks: signed, only to hosts that the owner named."""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
from collections.abc import Mapping
from pathlib import Path

import pytest

from sdforge.core.errors import InvalidRequest
from sdforge.core.outbound import OutboundRefused, Rules
from sdforge.engine import Engine, JobStatus, Terms
from sdforge.engine.database import Database
from sdforge.engine.job import Job
from sdforge.engine.queue import JobQueue
from sdforge.engine.store import JobStore
from sdforge.engine.webhooks import SIGNATURE_HEADER, WebhookRules, Webhooks, signature
from tests.core.test_outbound import at, serving
from tests.engine.fakes import PATIENCE, FakeLibrary, FakeRunner, a_request, make_engine
from tests.engine.test_store import a_job

RULES = WebhookRules(frozenset(("hooks.test", "127.0.0.1")), "secret")


def test_who_may_be_told_comes_from_flags() -> None:
    flags = {"webhook_hosts": "Hooks.test, 127.0.0.1,", "webhook_secret": "secret"}
    assert WebhookRules.from_flags(flags) == RULES
    RULES.check("https://hooks.test:8443/done?x=1")
    assert not RULES.outbound("https://hooks.test/").local
    assert RULES.outbound("http://127.0.0.1/").local


@pytest.mark.parametrize(
    "url",
    ["https://elsewhere.test/", "http://10.0.0.1/", "ftp://hooks.test/", "hooks.test", "",
     "http://hooks.test.evil.test/", "http://evil.test#@hooks.test/", "http://[::1", "http://x:99999/",
     "http://hooks.test/\r\nX: y"],
)  # fmt: skip
def test_nobody_else_is_told(url: str) -> None:
    with pytest.raises(InvalidRequest, match="webhook"):
        RULES.check(url)
    with pytest.raises(InvalidRequest, match="--webhook-hosts"):
        WebhookRules().check("http://127.0.0.1/")


def finished() -> Job:
    return a_job("done", status=JobStatus.DONE, terms=Terms(webhook="http://hooks.test/"))


def test_attempts_are_repeated_and_then_given_up() -> None:
    attempts: queue.Queue[Mapping[str, str]] = queue.Queue()

    def fail(url: str, body: bytes, headers: Mapping[str, str], rules: Rules) -> None:
        attempts.put(headers)
        raise OutboundRefused("down")

    webhooks = Webhooks(RULES, send=fail, pauses=(0.0, 0.0))
    webhooks.tell(finished())
    webhooks.tell(a_job("nobody asked"))
    for _ in range(3):
        attempts.get(timeout=PATIENCE)
    webhooks.close()
    assert attempts.empty()


def test_what_a_crash_leaves_untold_is_told_after_the_next_start(tmp_path: Path) -> None:
    told: queue.Queue[tuple[str, str]] = queue.Queue()
    terms = Terms(webhook="http://hooks.test/")

    def send(url: str, body: bytes, headers: Mapping[str, str], rules: Rules) -> None:
        message = json.loads(body)
        told.put((message["job"], message["status"]))

    database = Database(tmp_path / "jobs.sqlite")
    store = JobStore(database)
    for name, status in (("ended", JobStatus.DONE), ("cut off", JobStatus.RUNNING)):
        store.add(a_job(name, terms=terms))
        store.update(a_job(name, status=status, terms=terms))
    store.add(a_job("waits", terms=terms))
    store.update(a_job("waits", status=JobStatus.QUEUED, terms=terms))
    database.close()

    for expected in ([("ended", "done"), ("cut off", "interrupted")], []):
        database = Database(tmp_path / "jobs.sqlite")
        jobs = JobQueue(JobStore(database))
        webhooks = Webhooks(RULES, owed=jobs.untold(), on_told=jobs.set_told, send=send)
        webhooks.start()
        assert [told.get(timeout=PATIENCE) for _ in expected] == expected
        webhooks.close()
        assert told.empty()
        database.close()


def test_a_message_that_a_stop_cuts_short_is_owed_and_one_to_a_lost_host_is_dropped() -> None:
    attempts: queue.Queue[str] = queue.Queue()
    over: list[str] = []

    def fail(url: str, body: bytes, headers: Mapping[str, str], rules: Rules) -> None:
        attempts.put(url)
        raise OutboundRefused("down")

    webhooks = Webhooks(RULES, on_told=over.append, send=fail, pauses=(3600.0,))
    webhooks.tell(finished())
    attempts.get(timeout=PATIENCE)
    webhooks.close(PATIENCE)
    assert over == []

    elsewhere = WebhookRules(frozenset(("elsewhere.test",)), "secret")
    webhooks = Webhooks(elsewhere, owed=[finished()], on_told=over.append, send=fail)
    webhooks.start()
    webhooks.close(PATIENCE)
    assert over == ["done"]
    assert attempts.empty()


def test_a_finished_job_is_told_with_a_signature_that_can_be_checked(tmp_path: Path) -> None:
    from sdforge.core.paths import Paths
    from sdforge.core.settings import SettingsStore

    with serving() as web:
        runner = FakeRunner()
        engine = Engine(
            paths=Paths.under(tmp_path),
            settings=SettingsStore(None),
            library=FakeLibrary(),
            make_runner=lambda: runner,
            version="0",
            flags={"webhook_hosts": "127.0.0.1", "webhook_secret": "secret"},
        )
        engine.start()
        job = engine.submit(a_request("a"), terms=Terms(webhook=at(web, "/hook")))
        engine.wait(job.id, PATIENCE)
        engine.close()
        (path, headers, body) = web.seen[0]  # type: ignore[attr-defined]
    moment, _, given = headers[SIGNATURE_HEADER].removeprefix("t=").partition(",v1=")
    expected = hmac.new(b"secret", f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    assert given == expected
    assert headers[SIGNATURE_HEADER] == signature("secret", int(moment), body)
    told = json.loads(body)
    assert (told["job"], told["status"], path) == (job.id, "done", "/hook")
    assert len(told["images"][0]["sha256"]) == 64


def test_a_webhook_is_refused_before_the_job_is_queued(tmp_path: Path) -> None:
    engine, _ = make_engine(tmp_path)
    with pytest.raises(InvalidRequest, match="webhook"):
        engine.submit(a_request(), terms=Terms(webhook="http://127.0.0.1/"))
    assert engine.jobs() == []
    engine.close()
