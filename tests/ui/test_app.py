from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from sdforge.core.fields import fields_of
from sdforge.ui.app import UiApp, create_ui_app
from sdforge.ui.markup import ASSETS
from tests.ui.conftest import Backend


@pytest.fixture
def app(backend: Backend) -> UiApp:
    return create_ui_app(backend.engine, version="0.0-test")


def visit(app: UiApp, use: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Send requests on a loop that never told the app about its lifespan."""

    async def run() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as web:
            try:
                return await use(web)
            finally:
                await app.stop()

    return asyncio.run(run())


async def config_of(web: httpx.AsyncClient) -> dict[str, Any]:
    answer = await web.get("/config")
    assert answer.status_code == 200
    config: dict[str, Any] = answer.json()
    return config


def event_number(config: dict[str, Any], trigger: str, elem_id: str | None = None) -> int:
    ids = {row["props"].get("elem_id"): row["id"] for row in config["components"]}
    for event in config["dependencies"]:
        for target, name in event["targets"]:
            if name == trigger and (elem_id is None or target == ids[elem_id]):
                return int(event["id"])
    raise LookupError(trigger)


def test_the_page_is_served_by_an_app_that_came_late(app: UiApp) -> None:
    async def use(web: httpx.AsyncClient) -> None:
        pages = await asyncio.gather(web.get("/"), web.get("/"), web.get("/ui/app.js"))
        assert [page.status_code for page in pages] == [200, 200, 200]
        assert "<gradio-app" in pages[0].text

    visit(app, use)


def test_the_load_event_fills_the_form_without_touching_settings(
    app: UiApp, backend: Backend
) -> None:
    async def use(web: httpx.AsyncClient) -> list[Any]:
        config = await config_of(web)
        body = {"fn_index": event_number(config, "load"), "data": [""], "session_hash": "s"}
        answer = await web.post("/gradio_api/run/predict", json=body)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    data = visit(app, use)
    message = json.loads(data[-1])
    assert message["page"]["checkpoint"] == "small.safetensors"
    # Width and height of both tabs; what stands in the page as it was laid out is not sent again.
    assert data.count(64) == 4
    assert sum(value != {"__type__": "update"} for value in data) < 40
    assert not backend.paths.settings.exists()


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_every_field_of_the_table_has_its_widget(app: UiApp, tab: str) -> None:
    config = visit(app, config_of)
    rows = {row["props"].get("elem_id"): row["props"] for row in config["components"]}
    for field in fields_of(tab):
        if field.elem_id is None:
            continue
        widget = rows[f"{tab}_{field.elem_id}"]
        # Within a box the widget's name may be shorter.
        assert widget["label"].casefold() in field.label.casefold()
        if field.minimum is not None:
            limits = (widget["minimum"], widget["maximum"], widget["step"])
            assert limits == (field.minimum, field.maximum, field.step)


def test_no_element_id_is_used_twice(app: UiApp) -> None:
    config = visit(app, config_of)
    ids = [row["props"].get("elem_id") for row in config["components"]]
    html = [row["props"]["value"] for row in config["components"] if row["type"] == "html"]
    ids += re.findall(r'\bid="([^"]+)"', "".join(html))
    used = [name for name in ids if name]
    assert sorted(used) == sorted(set(used))


def test_nothing_is_loaded_from_elsewhere(app: UiApp) -> None:
    async def use(web: httpx.AsyncClient) -> str:
        config = await config_of(web)
        assert config["stylesheets"] == []
        assert config["analytics_enabled"] is False
        theme = (await web.get("/theme.css")).text
        return theme + config["head"] + (await web.get("/ui/style.css")).text

    text = visit(app, use)
    assert re.findall(r"https?://(?!www\.w3\.org)[^\s\"')]+", text) == []


def test_no_stream_is_held_open_and_no_run_is_recorded(app: UiApp) -> None:
    config = visit(app, config_of)
    assert config["connect_heartbeat"] is False
    assert config["run_history"] is False
    assert config["footer_links"] == []


def test_scripts_are_kept_until_one_of_them_changes(app: UiApp) -> None:
    async def use(web: httpx.AsyncClient) -> None:
        page = await web.get("/")
        assert page.headers["content-encoding"] == "gzip"
        scripts = re.findall(r"<\.(/ui/\w+/[\w.]+)>; rel=modulepreload", page.headers["link"])
        assert len(scripts) == len(list(ASSETS.glob("*.js")))
        main = next(script for script in scripts if script.endswith("/app.js"))
        assert f'src=".{main}"' in (await config_of(web))["head"]
        first = await web.get(main)
        assert "immutable" in first.headers["cache-control"]
        assert first.text == (ASSETS / "app.js").read_text(encoding="utf-8")
        # A page that was open before an update still gets what there is, and does not keep it.
        for other in ("/ui/app.js", "/ui/0123456789ab/app.js"):
            again = await web.get(other)
            assert again.text == first.text
            assert again.headers["cache-control"] == "no-cache"
        known = {"if-none-match": first.headers["etag"]}
        assert (await web.get("/ui/app.js", headers=known)).status_code == 304
        for wrong in ("/ui/../app.py", "/ui/%2e%2e/app.py", "/ui/a/b/app.js", "/ui/actions.html"):
            assert (await web.get(wrong)).status_code == 404
        name = re.search(r"assets/index-[\w-]+\.js", page.text)
        assert name
        assert "immutable" in (await web.get(f"/{name[0]}")).headers["cache-control"]

    visit(app, use)


def test_every_button_of_the_fragments_can_be_named_by_a_screen_reader() -> None:
    for path in ASSETS.glob("*.html"):
        html = path.read_text(encoding="utf-8")
        for tag, inner in re.findall(r"<button([^>]*)>(.*?)</button>", html, re.DOTALL):
            words = re.sub(r"<[^>]+>", "", inner).strip()
            assert words or "aria-label=" in tag, f"{path.name}: {tag}"


def test_the_lifespan_of_a_server_is_followed_too(app: UiApp) -> None:
    async def run() -> list[str]:
        inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        sent: list[str] = []
        for name in ("startup", "shutdown"):
            inbox.put_nowait({"type": f"lifespan.{name}"})

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, inbox.get, send)
        return sent

    assert asyncio.run(run()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_flags_say_the_pages_colours_and_where_the_batch_count_ends(backend: Backend) -> None:
    app = create_ui_app(backend.engine, version="0.0-test", theme="dark", max_batch_count=7)

    async def use(web: httpx.AsyncClient) -> None:
        asked = await web.get("/?x=1")
        assert (asked.status_code, asked.headers["location"]) == (307, "?x=1&__theme=dark")
        for address in ("/?x=1&__theme=dark", "/?__theme=light"):
            assert (await web.get(address)).status_code == 200
        config = await config_of(web)
        ends = {
            row["props"].get("elem_id"): row["props"].get("maximum") for row in config["components"]
        }
        assert (ends["txt2img_batch_count"], ends["img2img_batch_count"]) == (7, 7)
        assert ends["txt2img_steps"] == 150

    visit(app, use)
