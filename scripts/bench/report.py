#!/usr/bin/env python3
"""Write docs/benchmarks.md from the figures of run.py.

    python scripts/bench/report.py build/bench.json

Figures of benchmarks that the file does not hold stay as they are in the document's table, which
carries date and commit by row.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Written by `scripts/bench/report.py`; do not edit. Measured by

    python scripts/bench/run.py --suite cpu --json build/bench.json

Each figure is a ratio, ours ÷ the peer's, of two things timed in turn (A B A B …) in one run: two
rounds to warm up, the median of at least seven (on a busy machine three of C9 and C11), one thread,
garbage collector off. Lower is better; 1 is level. Times are of the machine named below and only
give the ratios a scale.

| id | measured | peer | ours | peer's | ratio | target | | date | commit |
|---|---|---|---|---|---|---|---|---|---|
"""

_ROW = re.compile(r"^\| ([CG]\d+) \| ([^|]+?) \| ([^|]+?) \|.*$", re.MULTILINE)
# A note names its row: "- C2 …: why".
_NOTE = re.compile(r"^- [CG]\d+ .*$", re.MULTILINE)


def amount(value: float, unit: str) -> str:
    """Return a number with its unit, at three digits."""
    if unit == "s":
        value, unit = (value, "s") if value >= 1 else (value * 1e3, "ms")
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def table_row(row: dict[str, Any], figures: dict[str, Any]) -> str:
    """Return one line of the table."""
    repeats = row["details"].get("repeats", 1)
    cells = (
        row["id"],
        row["name"],
        row["peer"],
        amount(row["ours"] / repeats, row["unit"]),
        amount(row["theirs"] / repeats, row["unit"]),
        f"**{row['ratio']:.3g}**",
        f"≤ {row['target']:g}",
        "ok" if row["ok"] else "SHORT",
        figures["date"],
        figures["commit"],
    )
    return f"| {' | '.join(cells)} |"


def document(figures: dict[str, Any], previous: str = "") -> str:
    """Return the page; rows of `previous` that were not measured again are kept."""
    rows = {match.groups(): match[0] for match in _ROW.finditer(previous)}
    measured_ids = {row["id"] for row in figures["rows"]}
    rows = {key: text for key, text in rows.items() if key[0] not in measured_ids}
    rows |= {
        (row["id"], row["name"], row["peer"]): table_row(row, figures) for row in figures["rows"]
    }
    ordered = sorted(rows, key=lambda key: (key[0][0], int(key[0][1:])))
    host = figures["machine"]
    notes = [
        line for line in _NOTE.findall(previous) if line.split(" ", 2)[1] not in measured_ids
    ] + [
        f"- {row['id']} {row['name']}: {row['details']['note']}"
        for row in figures["rows"]
        if row["details"].get("note")
    ]
    place = (
        f"Machine of the last run: {host['cores']} cores, {host['architecture']} "
        f"({', '.join(host['features']) or 'no vector extensions known'}), {host['system']}, "
        f"Python {host['python']}; load when it began {host['load']}."
    )
    parts = [HEAD + "\n".join(rows[key] for key in ordered), place]
    return "\n\n".join(parts + (["\n".join(notes)] if notes else [])) + "\n"


def main() -> int:
    """Read the figures, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("figures", type=Path)
    options = parser.parse_args()
    figures = json.loads(options.figures.read_text(encoding="utf-8"))
    previous = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    DOCUMENT.write_text(document(figures, previous), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
