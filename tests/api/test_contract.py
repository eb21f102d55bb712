"""Every row of A1111's contract, against the server."""

from __future__ import annotations

from typing import Any

import pytest

from sdforge.api.schemas import Img2ImgRequest, Txt2ImgRequest
from sdforge.api.sdapi.foreign_options import FOREIGN_OPTIONS
from sdforge.api.sdapi.unavailable import MISSING
from sdforge.api.translate_control import control_units
from sdforge.core.errors import InvalidRequest
from sdforge.core.option import Option
from sdforge.core.settings import OPTIONS
from tests.api.conftest import Server
from tests.api.contract.fields import PICTURE, Row, rows_of
from tests.api.contract.routes import (
    ERRORS,
    EXTRAS,
    MORE,
    ROUTES,
    SCRIPTS,
    SMALL,
    UNIT,
    Route,
)

KINDS = ("txt2img", "img2img")
ALL_ROWS = [(kind, row) for kind in KINDS for row in rows_of(kind)]
names = [f"{kind}-{row.name}" for kind, row in ALL_ROWS]
each_field = pytest.mark.parametrize(("kind", "row"), ALL_ROWS, ids=names)


def payload(kind: str, row: Row, *values: Any) -> dict[str, Any]:
    """Return a small request with one field set, or left out when no value is given."""
    body: dict[str, Any] = {"steps": 1, "width": 64, "height": 64} | dict(row.also)
    if kind == "img2img":
        body["init_images"] = [PICTURE]
    body.pop(row.name, None)
    return body | dict.fromkeys([row.name][: len(values)], *values)


def post(server: Server, kind: str, body: dict[str, Any]) -> Any:
    return server.client.post(f"/sdapi/v1/{kind}", json=body)


def test_the_rows_are_all_the_fields_there_are() -> None:
    assert {row.name for row in rows_of("txt2img")} == set(Txt2ImgRequest.model_fields)
    assert {row.name for row in rows_of("img2img")} == set(Img2ImgRequest.model_fields)


@each_field
def test_a_field_left_out_or_null_has_its_default(
    shared_server: Server, kind: str, row: Row
) -> None:
    if row.name in ("steps", "init_images", "include_init_images"):
        pytest.skip("checked in a test of its own")
    for values in ((), (None,)):
        answer = post(shared_server, kind, payload(kind, row, *values))
        assert answer.status_code == 200, answer.text
        assert answer.json()["parameters"][row.name] == row.when_left_out


@each_field
def test_a_field_takes_its_forms_echoes_them_and_acts(
    shared_server: Server, kind: str, row: Row
) -> None:
    for sent, echoed in row.forms:
        if row.name == "force_task_id":
            sent = echoed = f"{sent}-{kind}"
        answer = post(shared_server, kind, payload(kind, row, sent))
        assert answer.status_code == 200, (sent, answer.text)
        got = answer.json()["parameters"][row.name]
        assert got == echoed and type(got) is type(echoed), (sent, got)
        if row.reaches:
            job = shared_server.engine.get(answer.headers["X-Job-Id"])
            becomes = [value for given, value in row.becomes if given == sent]
            expected = becomes[0] if becomes else echoed
            if row.reaches == "width" or row.reaches == "height":
                expected -= expected % 8
            assert getattr(job.request, row.reaches) == expected, sent


@each_field
def test_a_field_refuses_what_it_cannot_use_and_names_itself(
    shared_server: Server, kind: str, row: Row
) -> None:
    for sent in row.refused:
        answer = post(shared_server, kind, payload(kind, row, sent))
        assert answer.status_code == 422, (sent, answer.text)
        body = answer.json()
        assert set(body) == {"error", "detail", "body", "errors", "message"}
        if "not found" not in body["errors"] and row.name != "override_settings":
            assert row.name in body["errors"], (sent, body["errors"])


def test_fields_that_a1111_drops_are_dropped(shared_server: Server) -> None:
    dropped = (
        "sd_model sd_model_name outpath_samples outpath_grids extra_generation_params "
        "overlay_images do_not_reload_embeddings seed_enable_extras prompt_for_display "
        "sampler_noise_scheduler_override ddim_discretize clip_skip sd_model_checkpoint batchSize"
    ).split()
    body = {"steps": 1, "width": 64, "height": 64} | dict.fromkeys(dropped, "x")
    answer = post(shared_server, "txt2img", body)
    assert answer.status_code == 200
    assert not set(dropped) & set(answer.json()["parameters"])


def test_pictures_are_echoed_only_when_asked_for(shared_server: Server) -> None:
    body = {"steps": 1, "init_images": [PICTURE], "mask": PICTURE}
    echoed = post(shared_server, "img2img", body).json()["parameters"]
    assert (echoed["init_images"], echoed["mask"]) == (None, None)
    assert "include_init_images" not in echoed
    for true in (True, "true", 1):
        body["include_init_images"] = true
        echoed = post(shared_server, "img2img", body).json()["parameters"]
        assert (echoed["init_images"], echoed["mask"]) == ([PICTURE], PICTURE)


def test_img2img_without_a_picture_is_404_in_a1111s_words(shared_server: Server) -> None:
    for body in ({}, {"init_images": None}, {"init_images": []}):
        answer = post(shared_server, "img2img", body)
        assert (answer.status_code, answer.json()["detail"]) == (404, "Init image not found")


def test_steps_left_out_or_null_are_50(shared_server: Server) -> None:
    for body in ({}, {"steps": None}):
        answer = post(shared_server, "txt2img", {"width": 64, "height": 64} | body)
        assert answer.json()["parameters"]["steps"] == 50


def fits(value: Any, shape: Any) -> bool:
    """Tell whether a JSON value has a shape of `routes.py`."""
    if shape is Any:
        return True
    if shape is None:
        return value is None
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(part, shape[0]) for part in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict) or not set(shape) - {MORE} <= set(value):
            return False
        rest = shape.get(MORE)
        return all(
            fits(part, shape[key]) if key in shape else rest is not None and fits(part, rest)
            for key, part in value.items()
        )
    if bool not in (shape if isinstance(shape, tuple) else (shape,)) and isinstance(value, bool):
        return False
    return isinstance(value, shape)


def ask(server: Server, route: Route) -> Any:
    sent = {"content": route.body} if isinstance(route.body, bytes) else {"json": route.body}
    return server.client.request(route.method, route.path, **({} if route.body is None else sent))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_answers_in_its_shape(shared_server: Server, route: Route) -> None:
    answer = ask(shared_server, route)
    if not route.is_here:
        assert (answer.status_code, "not in this version" in answer.text) == (404, True)
        return
    assert answer.status_code == route.status, answer.text
    if isinstance(route.shape, str):
        assert answer.headers["Content-Type"].startswith(route.shape)
    else:
        assert answer.headers["Content-Type"] == "application/json"
        assert fits(answer.json(), route.shape), answer.text[:2000]


@pytest.mark.parametrize(("case", "route", "words"), ERRORS, ids=[row[0] for row in ERRORS])
def test_an_error_has_the_keys_of_both_programs(
    shared_server: Server, case: str, route: Route, words: str
) -> None:
    answer = ask(shared_server, route)
    body = answer.json()
    assert answer.status_code == route.status
    assert set(body) == {"error", "detail", "body", "errors", "message"}
    assert body["body"] == "" and body["errors"] == body["message"] != ""
    assert words in body["errors"]
    if isinstance(body["detail"], list):
        assert all({"type", "loc", "msg"} <= set(item) for item in body["detail"])


@pytest.mark.parametrize("row", UNIT, ids=lambda row: row.name)
def test_a_controlnet_unit_takes_a_field(shared_server: Server, row: Row) -> None:
    engine = shared_server.engine

    def units(*values: Any) -> Any:
        sent = {"model": "net", "image": PICTURE} | dict.fromkeys(
            [row.name][: len(values)], *values
        )
        return control_units({"args": [sent]}, engine.add_input)

    if row.reaches and row.name != "model":
        for values in ((), (None,)):
            assert getattr(units(*values)[0], row.reaches) == row.default
    for sent, becomes in row.forms:
        (unit,) = units(sent)
        if row.reaches:
            assert getattr(unit, row.reaches) == becomes
        if row.name == "mask_image":
            assert unit.mask == unit.image
    for sent in row.refused:
        with pytest.raises(InvalidRequest, match=row.name):
            units(sent)


def test_a_controlnet_unit_that_is_off_is_left_out(shared_server: Server) -> None:
    for off in (False, "false", 0):
        unit = {"model": "net", "image": PICTURE, "enabled": off}
        assert control_units([unit], shared_server.engine.add_input) == ()


def test_a_controlnet_unit_has_its_older_names(shared_server: Server) -> None:
    sent = {"model": "net", "input_image": PICTURE, "mask": PICTURE, "guidance": 0.5}
    (unit,) = control_units(sent, shared_server.engine.add_input)
    assert unit.image is not None and unit.mask == unit.image
    assert unit.guidance_end == 0.5


@pytest.mark.parametrize(("title", "arguments"), SCRIPTS, ids=[row[0] for row in SCRIPTS])
def test_a_script_is_there_with_its_arguments_or_said_not_to_be(
    shared_server: Server, title: str, arguments: tuple[Any, ...]
) -> None:
    body = SMALL | {"alwayson_scripts": {title: {"args": []}}}
    answer = post(shared_server, "txt2img", body)
    if title not in shared_server.engine.extensions:
        absent = answer.status_code == 422 and "not found" in answer.json()["errors"]
        assert absent or answer.status_code == 200
        return
    extension = shared_server.engine.extensions.get(title)
    if arguments:
        # Arguments that come after ours are taken and cut off.
        defaults = tuple(field.default for field in extension.fields)
        assert defaults == arguments[: len(defaults)]
    listed = shared_server.client.get("/sdapi/v1/scripts").json()
    assert title.casefold() in " ".join(listed["txt2img"] + listed["img2img"])


EXTRAS_ROUTES = ("extra-single-image", "extra-batch-images")


@pytest.mark.parametrize("row", EXTRAS, ids=lambda row: row.name)
def test_extras_take_a_field(shared_server: Server, row: Row) -> None:
    for name in EXTRAS_ROUTES:
        if name in MISSING:
            continue
        pictures = {"image": PICTURE, "imageList": [{"data": PICTURE, "name": "a.png"}]}
        for sent, _ in row.forms:
            answer = shared_server.client.post(
                f"/sdapi/v1/{name}", json=pictures | {row.name: sent}
            )
            assert answer.status_code == 200, (sent, answer.text)
        for sent in row.refused:
            answer = shared_server.client.post(
                f"/sdapi/v1/{name}", json=pictures | {row.name: sent}
            )
            assert answer.status_code == 422, (sent, answer.text)


# Only files that are there can be named.
NAMES_OF_FILES = ("sd_model_checkpoint", "sd_vae", "forge_additional_modules")


def test_every_option_of_both_programs_is_there_and_keeps_what_it_is_given(server: Server) -> None:
    values = server.client.get("/sdapi/v1/options").json()
    for key, default in FOREIGN_OPTIONS.items():
        assert values[key] == default, key
    for key, option in OPTIONS.items():
        assert key in values
        if not option.locked and key not in NAMES_OF_FILES:
            changed = {key: other_value(option)}
            answer = server.client.post("/sdapi/v1/options", json=changed)
            assert answer.status_code == 200, (changed, answer.text)
            assert server.client.get("/sdapi/v1/options").json()[key] == changed[key], key
    locked = {key: option for key, option in OPTIONS.items() if option.locked}
    changed = {key: other_value(option) for key, option in locked.items()}
    before = server.client.get("/sdapi/v1/options").json()
    assert server.client.post("/sdapi/v1/options", json=changed).status_code == 200
    assert server.client.get("/sdapi/v1/options").json() == before


def other_value(option: Option) -> Any:
    """Return a value that an option allows and does not have by default."""
    if option.choices is not None:
        return next(choice for choice in option.choices if choice != option.default)
    if option.kind is bool:
        return not option.default
    if option.kind in (int, float):
        tries = (option.default + 1, option.default - 1, option.default / 2, option.default + 0.1)
        for value in map(option.kind, tries):
            low = option.minimum is None or value >= option.minimum
            if (
                low
                and (option.maximum is None or value <= option.maximum)
                and value != option.default
            ):
                return value
    return ["x"] if option.kind is tuple else "#123456"
