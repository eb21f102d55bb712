"""Rules of form that no linter has: sizes, no global state, a docstring that places each module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Tables, of which one row is one line: of flags, of colours.
TABLES = {"sdforge/flags.py", "sdforge/ui/theme.py"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted((ROOT / "sdforge").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(ROOT).as_posix(), text, ast.parse(text)


def own_lines(node: Function) -> int:
    """Count a function's lines without those of the functions in it."""
    inner = [child for child in ast.walk(node) if isinstance(child, Function) and child != node]
    nested = {line for child in inner for line in range(child.lineno, (child.end_lineno or 0) + 1)}
    return (node.end_lineno or 0) - node.lineno + 1 - len(nested)


def test_no_file_is_longer_than_a_story() -> None:
    long = {name: text.count("\n") for name, text, _ in sources() if name not in TABLES}
    assert {name: count for name, count in long.items() if count > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_page() -> None:
    found = {
        f"{name}:{node.lineno} {node.name}": own_lines(node)
        for name, _, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, Function) and name not in TABLES
    }
    assert {where: lines for where, lines in found.items() if lines > MAX_FUNCTION_LINES} == {}


def test_there_is_no_global_statement() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, _, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
    ]
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name, _, tree in sources() if not ast.get_docstring(tree)] == []


def test_every_module_reads_annotations_lazily_so_that_type_imports_cost_nothing() -> None:
    def has_annotations_import(tree: ast.Module) -> bool:
        return any(
            isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body
        )

    missing = [
        name
        for name, _, tree in sources()
        if len(tree.body) > 1 and not has_annotations_import(tree) and "__init__" not in name
    ]
    assert missing == []
