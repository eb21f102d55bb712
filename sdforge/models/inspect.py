"""`python -m sdforge inspect FILE`: what a model file is, told from its header.

Nothing in it is run or loaded. The answer is a `Report`, as text or as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sdforge.core.errors import ModelError
from sdforge.models.architectures import architecture
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.detect import detect, not_a_checkpoint
from sdforge.models.parts import Part, parts, types

_LONGEST_VALUE = 100
_TYPES_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """One network in a file; `types` are bytes by type of numbers."""

    role: str
    kind: str
    label: str
    tensors: int
    bytes: int
    types: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a header tells of a file.

    `kind` is 'checkpoint', 'network' (a single one), 'companion' (LoRA, ControlNet, …), 'unknown'
    or 'unreadable'; `problem` says why this version cannot run it, None where it can.
    """

    file: str
    kind: str
    bytes: int = 0
    tensors: int = 0
    family: str | None = None
    variant: str | None = None
    prediction: str | None = None
    label: str = ""
    reason: str = ""
    problem: str | None = None
    parts: tuple[PartReport, ...] = ()
    metadata: Mapping[str, str] | None = None


def inspect(path: Path) -> Report:
    """Return what a file is; one that cannot be read is reported, not raised."""
    try:
        header = read_header(path)
    except ModelError as error:
        return Report(file=str(path), kind="unreadable", problem=error.message)
    return _identified(
        header,
        {
            "file": str(path),
            "bytes": header.file_bytes,
            "tensors": len(header.tensors),
            "parts": tuple(_part(header, part) for part in parts(header.layout)),
            "metadata": dict(header.metadata),
        },
    )


def _identified(header: CheckpointHeader, known: Mapping[str, object]) -> Report:
    kind, found = architecture(header.layout), parts(header.layout)
    label = kind.label if kind else ", ".join(part.label for part in found)
    try:
        match = detect(header)
    except ModelError as error:
        if not_a_checkpoint(header):
            what = "companion"
        elif kind is None and found:
            what = "network"
        else:
            what = "checkpoint" if kind else "unknown"
        return Report(
            kind=what,
            label=label,
            family=kind.family if kind else None,
            variant=kind.variant if kind else None,
            prediction=kind.prediction if kind else None,
            reason=kind.reason if kind else "",
            problem=error.message,
            **known,  # type: ignore[arg-type]
        )
    return Report(
        kind="checkpoint",
        label=label,
        family=match.family,
        variant=match.variant,
        prediction=match.prediction,
        reason=match.reason,
        problem=match.problem,
        **known,  # type: ignore[arg-type]
    )


def _part(header: CheckpointHeader, part: Part) -> PartReport:
    kinds = types(header.layout, part.prefix)
    return PartReport(
        role=part.role,
        kind=part.kind,
        label=part.label,
        tensors=len(header.under(part.prefix)),
        bytes=sum(kinds.values()),
        types=dict(kinds.most_common()),
    )


def as_text(report: Report, *, metadata: bool = False) -> str:
    """Return a report for people, a few lines; with `metadata` all of that too."""
    lines = [f"{report.file}: {report.label or report.kind}"]
    if report.kind == "unreadable":
        return f"{report.file}: cannot be read: {report.problem}\n"
    lines.append(f"  size      {_size(report.bytes)}, {report.tensors} tensors")
    if report.family:
        lines.append(
            f"  family    {report.family}, {report.variant}, {report.prediction}-prediction"
        )
    if report.reason:
        lines.append(f"  known by  {report.reason}")
    for part in report.parts:
        shown = ", ".join(
            f"{name} {_size(size)}" for name, size in list(part.types.items())[:_TYPES_SHOWN]
        )
        lines.append(f"  holds     {part.label} ({part.tensors} tensors: {shown})")
    if report.kind == "checkpoint":
        lines.append(f"  runs      {f'no: {report.problem}' if report.problem else 'yes'}")
    elif report.problem:
        lines.append(f"  is        {report.problem}")
    said = report.metadata or {}
    if said and not metadata:
        lines.append(f"  metadata  {len(said)} entries (--metadata shows them)")
    for key, value in said.items() if metadata else ():
        short = value if len(value) <= _LONGEST_VALUE else f"{value[: _LONGEST_VALUE - 1]}…"
        lines.append(f"  metadata  {key} = {short!r}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Print what files are; the status is 1 when one of them cannot be read."""
    parser = argparse.ArgumentParser(
        prog="sdforge inspect",
        description="Say what model files are, by their headers alone; nothing in them is run.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON, one object per file")
    parser.add_argument("--metadata", action="store_true", help="show all metadata")
    try:
        asked = parser.parse_args(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    reports = [inspect(path) for path in asked.files]
    for report in reports:
        text = json.dumps(asdict(report)) + "\n" if asked.json else ""
        sys.stdout.write(text or as_text(report, metadata=asked.metadata))
    return int(any(report.kind == "unreadable" for report in reports))


def _size(count: int) -> str:
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.4g} {units[0]}"
