"""Every error a user can meet, as one tree.

::

    SdforgeError                 500  something of ours went wrong
    ├── InvalidRequest           422  a field has a value that cannot be used
    │   └── UnknownName          422  no sampler, checkpoint, option… of that name
    ├── NotFound                 404  no such job, picture or file
    ├── NotAvailable             422  asked for what this version or this set-up lacks
    ├── ModelError               422  a model file cannot serve
    │   ├── MissingModel         422  no file, or a part of the model is missing
    │   ├── UnsupportedCheckpoint 422 readable, but of a kind we do not know
    │   └── CorruptCheckpoint    422  truncated or not the format its name says
    ├── OutOfMemory              507  the job does not fit, after every attempt to make it fit
    ├── Cancelled                409  the user stopped the job
    ├── QueueFull                429  too many jobs wait already
    └── StorageError             507  disk full or not writable

A message says what was wanted, what was found and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SdforgeError(Exception):
    """Base of all our errors; `status` is the HTTP status an API answers with."""

    status: int = 500

    @property
    def message(self) -> str:
        """The sentence shown to the user."""
        return str(self)


class InvalidRequest(SdforgeError):
    """A request field holds a value that cannot be used."""

    status = 422

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(f"{field}: got {_shorten(value)}; allowed: {allowed}")


class UnknownName(InvalidRequest):
    """A name was not found in its table; names that look alike are offered."""

    def __init__(
        self, kind: str, name: str, known: Iterable[str], field: str | None = None
    ) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(known)
        self.close = tuple(closest_names(name, self.known))
        hint = f"; did you mean {' or '.join(map(repr, self.close))}?" if self.close else "."
        listed = ", ".join(self.known[:30]) or "(none)"
        allowed = listed + (", …" if len(self.known) > 30 else "")
        super().__init__(field or kind, name, allowed)
        self.args = (f"no {kind} named {_shorten(name)}{hint} Known: {allowed}",)


class NotFound(SdforgeError):
    """The job, picture or file asked for does not exist."""

    status = 404


class NotAvailable(SdforgeError):
    """The feature asked for is not part of this version, or not set up here."""

    status = 422


class ModelError(SdforgeError):
    """A model file cannot be used."""

    status = 422


class MissingModel(ModelError):
    """No such model file, or one without a part that is needed."""


class UnsupportedCheckpoint(ModelError):
    """The file is readable but holds no model of a kind we can run."""


class CorruptCheckpoint(ModelError):
    """The file is damaged, or is not of the format that its name claims."""


class OutOfMemory(SdforgeError):
    """The job does not fit in the memory there is."""

    status = 507


class Cancelled(SdforgeError):
    """The user stopped the job."""

    status = 409


class QueueFull(SdforgeError):
    """No more jobs are accepted until some are done."""

    status = 429


class StorageError(SdforgeError):
    """A file could not be written: disk full, or the folder is read-only."""

    status = 507


def closest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` known names that resemble `name`, best first, ignoring case."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.6)
    return [by_folded[match] for match in matches]


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
