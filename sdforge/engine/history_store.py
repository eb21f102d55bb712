"""The rows of the history: one per picture on disk, found by words, marks and content.

`history.py` looks after the files; this knows only the database.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.engine.database import Database
from sdforge.engine.job import Job, JobImage
from sdforge.output.infotext import parse_infotext

_WORD = re.compile(r'(-?)(?:"([^"]*)"|(\S+))')
_HAS_LETTER = re.compile(r"\w")
MAX_ROWS = 1000
# Nobody leafs further, and counting all of a hundred thousand takes longer than finding some.
MAX_COUNT = 10_000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of the history.

    `kind` is that of its job, or "imported". `path` is where it belongs; in the trash it lies at
    `trash_path` until it is restored. Sizes are in pixels, times seconds since the epoch.
    """

    number: int = 0
    path: str
    sha256: str
    bytes: int
    media_type: str
    width: int
    height: int
    kind: str
    created_at: float
    seed: int | None = None
    prompt: str = ""
    negative_prompt: str = ""
    model: str = ""
    infotext: str = ""
    job: str | None = None
    image: int | None = None
    trash_path: str | None = None
    trashed_at: float | None = None
    is_missing: bool = False
    is_favourite: bool = False


_COLUMNS = tuple(row.name for row in fields(Picture) if row.name != "number")
_INSERT = (
    f"INSERT OR REPLACE INTO pictures ({', '.join(_COLUMNS)}) "  # noqa: S608 (our own names)
    f"VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to look for; None and "" look at nothing.

    `words` are searched in prompts, model, infotext and file name: all have to be there, as the
    beginnings of words, "several in quotes" side by side, -those not at all. `before` and `after`
    are times, `offset` and `limit` count pictures from the newest.
    """

    words: str = ""
    is_favourite: bool | None = None
    in_trash: bool = False
    kind: str = ""
    model: str = ""
    seed: int | None = None
    sha256: str = ""
    job: str = ""
    after: float | None = None
    before: float | None = None
    offset: int = 0
    limit: int = 100


class HistoryStore:
    """All pictures; safe to use from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pictures: Iterable[Picture]) -> None:
        """Store new rows; one of a path that is there already takes its place.

        Raises:
            StorageError: the disk is full or not writable.
        """
        with self._database.transaction() as connection:
            for picture in pictures:
                insert(connection, picture)

    def get(self, number: int) -> Picture:
        """Return a picture.

        Raises:
            NotFound: there is none of this number.
        """
        # SQLite's integers have 64 bits.
        rows = (
            self._database.select("SELECT * FROM pictures WHERE number = ?", (number,))
            if abs(number) < 2**63
            else []
        )
        if not rows:
            raise NotFound(f"the history has no picture {number}")
        return _picture(rows[0])

    def search(self, search: Search) -> tuple[int, list[Picture]]:
        """Return (how many there are, up to `MAX_COUNT`, and those asked for), newest first."""
        where, values = _conditions(search)
        total = self._database.select(
            f"SELECT count(*) FROM (SELECT 1 FROM pictures {where} LIMIT {MAX_COUNT})",  # noqa: S608
            values,
        )
        rows = self._database.select(
            f"SELECT * FROM pictures {where} ORDER BY number DESC LIMIT ? OFFSET ?",  # noqa: S608
            (*values, min(search.limit, MAX_ROWS), search.offset),
        )
        return total[0][0], [_picture(row) for row in rows]

    def update(self, number: int, **values: Any) -> None:
        """Change columns of a row; the words that it is found by stay.

        Raises:
            StorageError: the disk is full or not writable.
        """
        changes = ", ".join(f"{name} = ?" for name in values)
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE pictures SET {changes} WHERE number = ?",  # noqa: S608 (our own names)
                (*values.values(), number),
            )

    def remove(self, number: int) -> None:
        """Forget a picture.

        Raises:
            StorageError: the disk is full or not writable.
        """
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM pictures WHERE number = ?", (number,))

    def trashed_before(self, moment: float) -> list[Picture]:
        """Return what has been in the trash since before a moment."""
        rows = self._database.select("SELECT * FROM pictures WHERE trashed_at <= ?", (moment,))
        return [_picture(row) for row in rows]

    def copies(self) -> list[Picture]:
        """Return all but the oldest of pictures of equal content; favourites count as oldest."""
        rows = self._database.select("""
            SELECT * FROM (
                SELECT *, row_number() OVER (
                    PARTITION BY sha256 ORDER BY is_favourite DESC, number
                ) AS place FROM pictures WHERE trashed_at IS NULL AND NOT is_missing
            ) WHERE place > 1 ORDER BY number""")
        return [_picture(row) for row in rows]

    def known(self) -> dict[str, tuple[int, int, bool]]:
        """Return path → (number, bytes, whether it is missing) of all that is not in the trash."""
        rows = self._database.select(
            "SELECT path, number, bytes, is_missing FROM pictures WHERE trashed_at IS NULL"
        )
        return {row["path"]: (row["number"], row["bytes"], bool(row["is_missing"])) for row in rows}

    def counts(self) -> dict[str, int]:
        """Return how many pictures there are, how many are favourites and in the trash."""
        row = self._database.select("""
            SELECT count(*) FILTER (WHERE trashed_at IS NULL AND NOT is_missing) AS pictures,
                   count(*) FILTER (WHERE is_favourite AND trashed_at IS NULL) AS favourites,
                   count(*) FILTER (WHERE trashed_at IS NOT NULL) AS trash
            FROM pictures""")[0]
        return dict(row)


def insert(connection: sqlite3.Connection, picture: Picture) -> None:
    """Store one row within a transaction."""
    row = asdict(picture)
    row.pop("number")
    row |= {key: value.encode("utf-8", "replace").decode()
            for key, value in row.items() if isinstance(value, str)}  # fmt: skip
    connection.execute(_INSERT, row)


def picture_of(job: Job, image: JobImage) -> Picture | None:
    """Return the row of a job's picture; None for grids and for what is not on disk."""
    if image.path is None or image.index < 0:
        return None
    said = parse_infotext(image.infotext)
    return Picture(
        path=image.path,
        sha256=image.sha256,
        bytes=image.bytes,
        media_type=image.media_type,
        width=image.width,
        height=image.height,
        kind=job.kind,
        created_at=time.time(),
        seed=image.seed,
        prompt=said.prompt or job.request.image_prompt(image.index),
        negative_prompt=said.negative_prompt or job.request.image_negative_prompt(image.index),
        model=said.fields.get("Model", job.request.checkpoint),
        infotext=image.infotext,
        job=job.id,
        image=image.index,
    )


def _picture(row: sqlite3.Row) -> Picture:
    values = {name: row[name] for name in ("number", *_COLUMNS)}
    marks = {name: bool(values[name]) for name in ("is_missing", "is_favourite")}
    return Picture(**(values | marks))


def _conditions(search: Search) -> tuple[str, list[Any]]:
    """Return the WHERE clause and its values."""
    parts = [
        "trashed_at IS NOT NULL" if search.in_trash else "trashed_at IS NULL AND NOT is_missing"
    ]
    values: list[Any] = []
    if (words := match_expression(search.words)) is not None:
        parts.append("number IN (SELECT rowid FROM pictures_text WHERE pictures_text MATCH ?)")
        values.append(words)
    equal = {"kind": search.kind, "model": search.model, "sha256": search.sha256, "job": search.job}
    for name, wanted in equal.items():
        if wanted:
            parts.append(f"{name} = ?")
            values.append(wanted)
    compared = (
        ("seed = ?", search.seed),
        ("is_favourite = ?", search.is_favourite),
        ("created_at >= ?", search.after),
        ("created_at < ?", search.before),
    )
    for condition, value in compared:
        if value is not None:
            parts.append(condition)
            values.append(value)
    return "WHERE " + " AND ".join(parts), values


def match_expression(words: str) -> str | None:
    """Return what somebody typed as an expression of FTS5; None when there is no word in it.

    Every word is quoted, so nothing that is typed is an operator.

    Raises:
        InvalidRequest: there are only words that must not be there.
    """
    wanted: list[str] = []
    unwanted: list[str] = []
    for minus, quoted, plain in _WORD.findall(words.replace("\0", " ")):
        text = quoted or plain
        if _HAS_LETTER.search(text):
            term = '"{}"{}'.format(text.replace('"', '""'), "" if quoted else "*")
            (unwanted if minus else wanted).append(term)
    if not wanted:
        if unwanted:
            raise InvalidRequest("q", words, "at least one word that is to be there")
        return None
    return " AND ".join(wanted) + "".join(f" NOT {term}" for term in unwanted)
