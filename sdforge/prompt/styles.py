"""Styles: named texts that are put around or behind both prompts, kept in A1111's CSV files.

A file changed by hand or by another program is read again when somebody asks.
"""

from __future__ import annotations

import csv
import io
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.core.settings import write_atomically

log = logging.getLogger(__name__)

NO_STYLE: Final = "None"
_PLACE = "{prompt}"
_COLUMNS = ("name", "prompt", "negative_prompt")
_DIVIDER_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Style:
    """A named pair of texts. `file` is where it is kept."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""
    file: Path | None = None


def apply_styles(prompt: str, styles: Iterable[str]) -> str:
    """Return the prompt with the texts of styles applied one after another.

    A text with `{prompt}` takes the prompt in there, any other is appended behind a comma.
    """
    for style in styles:
        if _PLACE in style:
            prompt = style.replace(_PLACE, prompt)
        else:
            prompt = ", ".join(filter(None, (prompt.strip(), style.strip())))
    return prompt


class StyleLibrary:
    """The styles of one or several files; may be used from any thread."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Take the files; names may hold wildcards (`styles*.csv`). None has to exist yet.

        New styles go into the first.
        """
        self._patterns = tuple(files)
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple[int, int], tuple[Style, ...]]] = {}

    def styles(self) -> list[Style]:
        """Return all styles in the order of the files; of two of one name the later counts."""
        with self._lock:
            return list(self._by_name().values())

    def listing(self) -> list[tuple[str, Style | None]]:
        """Return names and styles for a menu; with several files each begins with a heading.

        A heading has no style, as in A1111's `/sdapi/v1/prompt-styles`.
        """
        styles = self.styles()
        files = list(dict.fromkeys(style.file for style in styles))
        if len(files) < 2:
            return [(style.name, style) for style in styles]
        rows: list[tuple[str, Style | None]] = []
        for file in files:
            stem = file.stem.upper() if file else ""
            rows.append((f" {stem} ".center(_DIVIDER_WIDTH, "-"), None))
            rows += [(style.name, style) for style in styles if style.file == file]
        return rows

    def chosen(self, names: Iterable[str]) -> list[Style]:
        """Return the styles of some names in their order; unknown names and "None" are left out."""
        with self._lock:
            known = self._by_name()
        return [known[name] for name in names if name in known]

    def save(self, name: str, prompt: str, negative_prompt: str) -> None:
        """Add a style or change the one of this name, in its own file.

        Raises:
            InvalidRequest: the name is empty or "None".
            StorageError: the file could not be written; nothing is changed.
        """
        if not name.strip() or name == NO_STYLE:
            raise InvalidRequest("name", name, f"a name other than {NO_STYLE!r}")
        with self._lock:
            old = self._by_name().get(name)
            file = old.file if old and old.file else self._first_file()
            styles = {style.name: style for style in self._read(file)}
            styles[name] = Style(name, prompt, negative_prompt, file)
            self._write(file, styles.values())

    def delete(self, name: str) -> None:
        """Take a style out of its file.

        Raises:
            NotFound: there is none of this name.
            StorageError: the file could not be written; nothing is changed.
        """
        with self._lock:
            style = self._by_name().get(name)
            if style is None or style.file is None:
                raise NotFound(f"there is no style {name!r}")
            self._write(style.file, [s for s in self._read(style.file) if s.name != name])

    # --- files, under the lock ---------------------------------------------------------------

    def _by_name(self) -> dict[str, Style]:
        styles: dict[str, Style] = {}
        for file in self._files():
            for style in self._read(file):
                # Taken out first, so that it stands where the later file has it.
                styles.pop(style.name, None)
                styles[style.name] = style
        return styles

    def _files(self) -> list[Path]:
        found: dict[Path, None] = {}
        for pattern in self._patterns:
            if "*" in pattern.name:
                found.update(dict.fromkeys(sorted(pattern.parent.glob(pattern.name))))
            else:
                found[pattern] = None
        return list(found)

    def _first_file(self) -> Path:
        plain = (pattern for pattern in self._patterns if "*" not in pattern.name)
        return next(plain, self._patterns[0].with_name("styles.csv"))

    def _read(self, file: Path) -> tuple[Style, ...]:
        try:
            stat = file.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            known = self._known.get(file)
            if known is None or known[0] != stamp:
                known = self._known[file] = (stamp, tuple(_parse(file)))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, csv.Error) as error:
            log.warning("%s cannot be read as styles: %s", file, error)
            return self._known[file][1] if file in self._known else ()
        return known[1]

    def _write(self, file: Path, styles: Iterable[Style]) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(_COLUMNS)
        writer.writerows((style.name, style.prompt, style.negative_prompt) for style in styles)
        if file.exists():
            write_atomically(file.with_name(f"{file.name}.bak"), file.read_bytes())
        write_atomically(file, text.getvalue().encode("utf-8-sig"))
        # Its time may be that of the file before, where clocks are coarse.
        self._known.pop(file, None)


def _parse(file: Path) -> Iterable[Style]:
    with file.open(encoding="utf-8-sig", newline="") as rows:
        for row in csv.DictReader(rows, skipinitialspace=True):
            name = row.get("name")
            if name:
                # Files of A1111's first versions have a column "text".
                prompt = row.get("prompt") or row.get("text") or ""
                yield Style(name, prompt, row.get("negative_prompt") or "", file)
