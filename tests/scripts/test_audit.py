"""The audit of the pinned packages: asked of a database of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts import audit


class Database(BaseHTTPRequestHandler):
    """Knows one bad version of one package; asked below /broken it says something else."""

    def do_POST(self) -> None:  # noqa: N802 (the name is the library's)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        bad = {"package": {"ecosystem": "PyPI", "name": "jinja2"}, "version": "2.4.1"}
        results: list[Any] = [
            {"vulns": [{"id": "PYSEC-1"}]} if query == bad else {} for query in asked
        ]
        body = json.dumps({"results": results if self.path == "/" else results[1:]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Database)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.lock"
    file.write_text("# a comment\nanyio==4.16.0\njinja2==2.4.1\n", encoding="utf-8")
    return file


def test_a_known_vulnerability_fails_the_check_and_is_named(
    database: str, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(["--database", database, str(lock)]) == 1
    assert "jinja2 2.4.1 has a known vulnerability" in capsys.readouterr().out
    lock.write_text("jinja2==99.0\n", encoding="utf-8")
    assert audit.main(["--database", database, str(lock)]) == 0
    assert "1 packages asked for, 0 known" in capsys.readouterr().out


def test_one_that_cannot_touch_us_is_accepted_by_its_id(
    database: str, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ACCEPTED", {"PYSEC-1": "only with templates of strangers"})
    assert audit.main(["--database", database, str(lock)]) == 0


def test_without_a_database_the_check_is_skipped_and_says_so(
    database: str, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in ("http://127.0.0.1:1/", f"{database}broken"):
        assert audit.main(["--database", url, str(lock)]) == 0
        assert "audit skipped, no advisory database reachable" in capsys.readouterr().out


def test_both_lock_files_are_read() -> None:
    names = [package for name in audit.LOCKS for package, _ in audit.read(audit.ROOT / name)]
    assert {"fastapi", "torch", "pytest"} <= set(names)
