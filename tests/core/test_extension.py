"""Values of extensions: how they are checked, written and read back."""

from typing import Any

import pytest

from sdforge.core.errors import InvalidRequest, UnknownName
from sdforge.core.extension import (
    Extension,
    Values,
    active_extensions,
    complete_values,
    read_values,
    typed_value,
)
from sdforge.core.fields import Field
from sdforge.core.registry import Registry
from sdforge.core.settings import Settings


class Mirror(Extension):
    name = "mirror"
    label = "Mirror"
    aliases = ("Mirror Integrated",)
    order = 10
    fields = (
        Field(name="enabled", kind=bool, default=False, label="Enable", api="enabled"),
        Field(
            name="axis", kind=str, default="both ways, twice", label="Axis", api="axis",
            options=("x", "y", "both ways, twice"),
        ),
        Field(
            name="share", kind=float, default=0.5, label="Share", api="share", lowest=0, highest=1,
        ),
        Field(name="times", kind=int, default=1, label="Times", api="times", lowest=1, highest=9),
    )  # fmt: skip


class Late(Mirror):
    name = "late"
    label = "Late"
    aliases = ()
    order = 20

    def values_from_settings(self, settings: Settings) -> Values | None:
        return {"enabled": True} if settings.token_merging_ratio else None


@pytest.fixture
def registry() -> Registry[Extension]:
    found: Registry[Extension] = Registry("extension")
    for kind in (Late, Mirror):
        extension = kind()
        found.add(extension.name, extension, (extension.label, *extension.aliases))
    return found


def test_missing_values_are_the_defaults() -> None:
    complete = complete_values(Mirror(), {"enabled": True, "times": 3})
    assert complete == {"enabled": True, "axis": "both ways, twice", "share": 0.5, "times": 3}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("enabled", "True", True),
        ("enabled", 0, False),
        ("enabled", "", False),
        ("axis", "X", "x"),
        ("share", "0.25", 0.25),
        ("share", 1, 1.0),
        ("times", 2.0, 2),
        ("times", "7", 7),
    ],
)
def test_values_come_in_the_clients_spelling(name: str, value: Any, expected: Any) -> None:
    field = next(field for field in Mirror.fields if field.name == name)
    result = typed_value(field, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    "values",
    [{"axis": "z"}, {"share": 1.5}, {"share": "much"}, {"times": 1.5}, {"enabled": "perhaps"},
     {"share": float("nan")}, {"times": None}, {"colour": "red"}],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(values))):
        complete_values(Mirror(), values)


def test_only_those_that_are_on_act_and_lower_order_comes_first(
    registry: Registry[Extension],
) -> None:
    asked = {"late": {"enabled": True}, "Mirror Integrated": {"enabled": True}}
    found = active_extensions(registry, asked, Settings())
    assert [one.extension.name for one in found] == ["mirror", "late"]
    off = active_extensions(registry, {"mirror": {"enabled": False}}, Settings())
    assert off == ()


def test_settings_count_where_the_request_says_nothing(registry: Registry[Extension]) -> None:
    settings = Settings(token_merging_ratio=0.5)
    assert [one.extension.name for one in active_extensions(registry, {}, settings)] == ["late"]
    assert active_extensions(registry, {"late": {"enabled": False}}, settings) == ()


def test_an_unknown_extension_is_refused(registry: Registry[Extension]) -> None:
    with pytest.raises(UnknownName, match="mirrror"):
        active_extensions(registry, {"mirrror": {}}, Settings())


@pytest.mark.parametrize(
    "values",
    [
        {"enabled": True, "axis": "both ways, twice", "share": 0.1, "times": 9},
        {"enabled": True, "axis": "x", "share": 1.0, "times": 1},
    ],
)
def test_infotext_gives_back_what_was_written(values: dict[str, Any]) -> None:
    text = Mirror().infotext(values)["Mirror"]
    assert read_values(Mirror(), text) == values


def test_damaged_infotext_gives_what_can_be_used() -> None:
    values = read_values(Mirror(), "axis: z, share: 0.3, times: many")
    assert values == {"enabled": True, "share": 0.3}
