"""Look whether a pinned package has a known vulnerability, in the database of osv.dev.

One request asks for all packages of both lock files. Without a network, or when the database cannot
be used, the check is skipped and says so: whether we are online says nothing about the packages.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
DATABASE = "https://api.osv.dev/v1/querybatch"
PAGE = "https://osv.dev/vulnerability/"
# Vulnerabilities that cannot touch us, by id, each with the reason.
ACCEPTED: Mapping[str, str] = {}
_TIMEOUT_SECONDS = 10.0
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;+]+)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the lock files; return 1 when a package has a vulnerability that is not accepted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", default=DATABASE, metavar="URL")
    parser.add_argument("locks", nargs="*", type=Path, metavar="FILE", help="lock files")
    options = parser.parse_args(arguments)
    pins = [pin for lock in options.locks or [ROOT / name for name in LOCKS] for pin in read(lock)]
    try:
        found = vulnerabilities(pins, options.database)
    except (OSError, ValueError) as error:
        print(f"audit skipped, no advisory database reachable: {error}")
        return 0
    open_ones = [(pin, name) for pin, names in found for name in names if name not in ACCEPTED]
    for (package, version), name in open_ones:
        print(f"{package} {version} has a known vulnerability, {PAGE}{name}")
    print(f"{len(pins)} packages asked for, {len(open_ones)} known vulnerabilities")
    return 1 if open_ones else 0


def read(lock: Path) -> list[tuple[str, str]]:
    """Return (package, version) of every pin in a lock file."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [(match[1], match[2]) for line in lines if (match := _PIN.match(line))]


def vulnerabilities(
    pins: Sequence[tuple[str, str]], database: str
) -> list[tuple[tuple[str, str], list[str]]]:
    """Return the ids of what is known of each pin.

    Raises:
        OSError: the database cannot be reached, or refuses.
        ValueError: its answer cannot be understood.
    """
    queries = [
        {"package": {"ecosystem": "PyPI", "name": package}, "version": version}
        for package, version in pins
    ]
    request = urllib.request.Request(
        database, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        results = understood(json.load(answer), len(pins))
    return [
        (pin, [str(row["id"]) for row in result.get("vulns", [])])
        for pin, result in zip(pins, results, strict=True)
    ]


def understood(answer: Any, count: int) -> list[dict[str, Any]]:
    """Return the results in an answer, one per query; raises `ValueError` unless it has them."""
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or len(results) != count:
        raise ValueError("the answer does not hold one result per package")
    return results


if __name__ == "__main__":
    sys.exit(main())
