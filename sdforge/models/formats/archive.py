"""The list of contents of a zip file whose members lie in it as they are: PyTorch's files.

Nothing is ever unpacked. Members are places in the file, and those of compressed, encrypted or
impossible kinds are refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

MOST_MEMBERS = 100_000
_MOST_LIST_BYTES = 64 * 1024 * 1024
_END, _END64_PLACE, _END64, _ENTRY, _LOCAL = (
    b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06", b"PK\x01\x02", b"PK\x03\x04",
)  # fmt: skip
_LONGEST_COMMENT = 65_535
_UNKNOWN = 0xFFFFFFFF


class ArchiveFault(ValueError):
    """The file is no such archive; the message is the end of a sentence about it."""


@dataclass(frozen=True)
class Member:
    """One member: where its bytes lie in the file."""

    name: str
    start: int
    size: int

    @property
    def end(self) -> int:
        """Place behind its last byte."""
        return self.start + self.size


def members(file: BinaryIO, file_bytes: int) -> dict[str, Member]:
    """Return the members by name.

    Raises:
        ArchiveFault: damaged, or with members that cannot be used as they lie.
    """
    count, size, start = _end_record(file, file_bytes)
    if count > MOST_MEMBERS or size > _MOST_LIST_BYTES or start + size > file_bytes:
        raise ArchiveFault("is damaged: its list of contents is larger than any model's")
    file.seek(start)
    text = file.read(size)
    found: dict[str, Member] = {}
    place = 0
    for _ in range(count):
        if text[place : place + 4] != _ENTRY or len(text) < place + 46:
            raise ArchiveFault("is damaged: its list of contents breaks off")
        member, place = _member(file, file_bytes, text, place)
        found[member.name] = member
    _check_apart(found)
    return found


def _end_record(file: BinaryIO, file_bytes: int) -> tuple[int, int, int]:
    """Return number of members, and size and place of the list."""
    tail_bytes = min(file_bytes, _LONGEST_COMMENT + 22)
    file.seek(file_bytes - tail_bytes)
    tail = file.read(tail_bytes)
    place = tail.rfind(_END)
    if place < 0 or len(tail) < place + 22:
        raise ArchiveFault("is truncated: the end of the archive is missing")
    count, size, start = struct.unpack("<HII", tail[place + 10 : place + 20])
    locator = tail[place - 20 : place] if place >= 20 else b""
    if locator.startswith(_END64_PLACE):
        (where,) = struct.unpack("<Q", locator[8:16])
        if where > file_bytes - 56:
            raise ArchiveFault("is damaged: its list of contents lies outside of it")
        file.seek(where)
        record = file.read(56)
        if not record.startswith(_END64):
            raise ArchiveFault("is damaged: its list of contents is not where it should be")
        count, size, start = struct.unpack("<QQQ", record[32:56])
    return count, size, start


def _member(file: BinaryIO, file_bytes: int, text: bytes, place: int) -> tuple[Member, int]:
    flags, method = struct.unpack("<HH", text[place + 8 : place + 12])
    packed, size = struct.unpack("<II", text[place + 20 : place + 28])
    name_bytes, extra_bytes, comment = struct.unpack("<HHH", text[place + 28 : place + 34])
    (local,) = struct.unpack("<I", text[place + 42 : place + 46])
    after = place + 46 + name_bytes
    name = text[place + 46 : after].decode("utf-8", "replace")
    size, packed, local = _wide(
        text[after : after + extra_bytes], size=size, packed=packed, local=local
    )
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
        raise ArchiveFault(f"is refused: its member {name[:80]!r} points out of the archive")
    if flags & 1 or method or packed != size:
        raise ArchiveFault(
            f"is refused: its member {name[:80]!r} is compressed or encrypted, which no model "
            "file is"
        )
    if local > file_bytes - 30:
        raise ArchiveFault(f"is damaged: its member {name[:80]!r} lies outside of it")
    file.seek(local)
    head = file.read(30)
    if not head.startswith(_LOCAL) or len(head) < 30:
        raise ArchiveFault(f"is damaged: its member {name[:80]!r} is not where it should be")
    start = local + 30 + sum(struct.unpack("<HH", head[26:30]))
    if start + size > file_bytes:
        raise ArchiveFault(f"is truncated: its member {name[:80]!r} is incomplete")
    return Member(name, start, size), after + extra_bytes + comment


def _wide(extra: bytes, *, size: int, packed: int, local: int) -> tuple[int, int, int]:
    """Return size, packed size and place, those beyond 32 bits from the extra field."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[place : place + 4])
        if kind == 1:
            numbers = extra[place + 4 : place + 4 + length]
            wide = [number for (number,) in struct.iter_unpack("<Q", numbers[: length // 8 * 8])]
            values = [size, packed, local]
            for index, value in enumerate(values):
                if value == _UNKNOWN and wide:
                    values[index] = wide.pop(0)
            size, packed, local = values
        place += 4 + length
    return size, packed, local


def _check_apart(found: dict[str, Member]) -> None:
    last_end, last_name = 0, ""
    for member in sorted(found.values(), key=lambda member: member.start):
        if member.start < last_end and member.size:
            raise ArchiveFault(
                f"is damaged: its members {last_name[:80]!r} and {member.name[:80]!r} overlap"
            )
        last_end, last_name = member.end, member.name
