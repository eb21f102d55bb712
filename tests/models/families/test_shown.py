import ast
from pathlib import Path

from sdforge.models.families import FAMILIES
from tests.models.families.shown import SHOWN

HERE = Path(__file__).parent


def test_every_family_has_a_row() -> None:
    assert [row.family for row in SHOWN] == [family.name for family in FAMILIES]


def test_every_test_of_the_table_is_there() -> None:
    named = [
        test
        for row in SHOWN
        for test in (row.latents, row.modes, row.packed, row.headers, *row.more)
    ]
    for file, _, function in (test.partition("::") for test in set(named)):
        tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
