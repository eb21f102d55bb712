"""The documentation names things that exist, and its generated parts are fresh."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# docs/tour.md points into the code as: `path/file.py` → `function`
POINTER = re.compile(r"`([\w/]+\.py)`\s*→\s*`([\w.]+)(?:\(\))?`")
MENTIONED_FILE = re.compile(r"`((?:sdforge|scripts|tests|configs|docs)/[\w/.-]+\.\w+)`")


def names_in(path: Path) -> set[str]:
    """Return functions, classes, methods ("Class.method") and constants of a file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = (
                m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)
            )
            found |= {f"{node.name}.{member.name}" for member in members}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_the_tour_points_at_functions_that_exist() -> None:
    pointers = POINTER.findall((ROOT / "docs" / "tour.md").read_text(encoding="utf-8"))
    assert len(pointers) >= 10
    for file, name in pointers:
        path = next((p for p in (ROOT / file, ROOT / "sdforge" / file) if p.is_file()), None)
        assert path is not None, f"docs/tour.md names {file}, which does not exist"
        assert name in names_in(path), f"docs/tour.md names {name}, which {file} does not define"


def test_files_that_the_documentation_mentions_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for file in MENTIONED_FILE.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / file).exists(), f"{page.relative_to(ROOT)} mentions {file}"


def test_generated_parts_are_up_to_date() -> None:
    answer = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
