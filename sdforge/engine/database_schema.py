"""The tables of the database, as the steps that lead to them: one tuple per version.

A step that has been released never changes; what comes later is a further step.
"""

from __future__ import annotations

_JOBS = (
    """
CREATE TABLE jobs (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    status       TEXT NOT NULL,
    kind         TEXT NOT NULL,
    origin       TEXT NOT NULL,
    save_images  INTEGER NOT NULL,
    created_at   REAL NOT NULL,
    started_at   REAL,
    finished_at  REAL,
    request      TEXT NOT NULL,
    settings     TEXT NOT NULL,
    progress     TEXT NOT NULL,
    error        TEXT,
    timings      TEXT NOT NULL
)""",
    "CREATE INDEX jobs_by_status ON jobs (status, number)",
    """
CREATE TABLE images (
    job    INTEGER NOT NULL REFERENCES jobs (number),
    number INTEGER NOT NULL,
    image  TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID""",
)

# `rank` orders the jobs that wait, within their priority. `terms` holds what else was agreed with
# the client; the idempotency key has a column of its own to be found by.
_QUEUE_AND_HISTORY = (
    "ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN rank REAL NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN key TEXT",
    "ALTER TABLE jobs ADD COLUMN terms TEXT NOT NULL DEFAULT '{}'",
    "UPDATE jobs SET rank = number",
    "CREATE INDEX jobs_by_key ON jobs (key) WHERE key IS NOT NULL",
    "CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """
CREATE TABLE pictures (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    path            TEXT NOT NULL UNIQUE,
    trash_path      TEXT,
    trashed_at      REAL,
    is_missing      INTEGER NOT NULL DEFAULT 0,
    is_favourite    INTEGER NOT NULL DEFAULT 0,
    sha256          TEXT NOT NULL,
    bytes           INTEGER NOT NULL,
    media_type      TEXT NOT NULL,
    width           INTEGER NOT NULL,
    height          INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    job             TEXT,
    image           INTEGER,
    created_at      REAL NOT NULL,
    seed            INTEGER,
    prompt          TEXT NOT NULL,
    negative_prompt TEXT NOT NULL,
    model           TEXT NOT NULL,
    infotext        TEXT NOT NULL
)""",
    "CREATE INDEX pictures_by_content ON pictures (sha256)",
    "CREATE INDEX pictures_by_seed ON pictures (seed)",
    "CREATE INDEX pictures_by_job ON pictures (job)",
    "CREATE INDEX pictures_by_favour ON pictures (number) WHERE is_favourite",
    "CREATE INDEX pictures_in_trash ON pictures (trashed_at) WHERE trashed_at IS NOT NULL",
    """
CREATE VIRTUAL TABLE pictures_text USING fts5(
    prompt, negative_prompt, model, infotext, path,
    content = 'pictures', content_rowid = 'number', tokenize = "unicode61 tokenchars '_'"
)""",
    """
CREATE TRIGGER pictures_added AFTER INSERT ON pictures BEGIN
    INSERT INTO pictures_text (rowid, prompt, negative_prompt, model, infotext, path)
    VALUES (new.number, new.prompt, new.negative_prompt, new.model, new.infotext, new.path);
END""",
    """
CREATE TRIGGER pictures_removed AFTER DELETE ON pictures BEGIN
    INSERT INTO pictures_text (pictures_text, rowid, prompt, negative_prompt, model, infotext, path)
    VALUES ('delete', old.number, old.prompt, old.negative_prompt, old.model, old.infotext,
            old.path);
END""",
    """
CREATE TRIGGER pictures_moved AFTER UPDATE OF path ON pictures BEGIN
    INSERT INTO pictures_text (pictures_text, rowid, prompt, negative_prompt, model, infotext, path)
    VALUES ('delete', old.number, old.prompt, old.negative_prompt, old.model, old.infotext,
            old.path);
    INSERT INTO pictures_text (rowid, prompt, negative_prompt, model, infotext, path)
    VALUES (new.number, new.prompt, new.negative_prompt, new.model, new.infotext, new.path);
END""",
)

# Whether a job has ended and its webhook was not told yet.
_WEBHOOKS = (
    "ALTER TABLE jobs ADD COLUMN untold INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX jobs_untold ON jobs (number) WHERE untold",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_JOBS, _QUEUE_AND_HISTORY, _WEBHOOKS)
