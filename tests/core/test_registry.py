"""Registries find names as clients write them and offer what looks alike."""

import pytest

from sdforge.core.errors import UnknownName
from sdforge.core.registry import Registry


@pytest.fixture
def table() -> Registry[int]:
    registry: Registry[int] = Registry("sampler")
    registry.add("Euler a", 1, aliases=("k_euler_a",))
    registry.add("Heun", 2)
    return registry


@pytest.mark.parametrize("name", ["Euler a", "euler A", "K_EULER_A", " Euler a "])
def test_case_aliases_and_blanks_do_not_matter(table: Registry[int], name: str) -> None:
    assert table.get(name) == 1
    assert name in table


def test_an_unknown_name_lists_what_looks_alike(table: Registry[int]) -> None:
    with pytest.raises(UnknownName) as caught:
        table.get("Eular a", field="sampler_name")
    assert caught.value.close == ("Euler a",)
    assert caught.value.field == "sampler_name"
    assert "did you mean 'Euler a'?" in str(caught.value)


def test_a_name_or_alias_cannot_be_taken_twice(table: Registry[int]) -> None:
    with pytest.raises(ValueError, match="Euler a"):
        table.add("other", 3, aliases=("euler A",))
    with pytest.raises(ValueError, match="twice"):
        table.add("Heun", 3)


def test_names_keep_the_order_of_registration(table: Registry[int]) -> None:
    assert table.names() == ["Euler a", "Heun"]
    assert list(table) == [1, 2]
