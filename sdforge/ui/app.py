"""The page as an ASGI app that can be put into a server that runs already.

`build_ui` lays out the page and connects it to the engine; `create_ui_app` wraps it for the
launcher, which sends it every request that is not the API's. It never listens on a port itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
from gradio.components import Component
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from sdforge.ui.actions import CHECKPOINT, GPU_WEIGHTS, STORED, PageActions, tab_name
from sdforge.ui.bindings import Trigger, bind, bind_script
from sdforge.ui.form import RECOMMENDED_NAMES, STYLES
from sdforge.ui.markup import ASSETS, fragment
from sdforge.ui.passes import CHECKPOINT_NAMES, HIRES_MODULES, IMG2IMG, TXT2IMG
from sdforge.ui.quicksettings import build_quicksettings
from sdforge.ui.scripts import SCRIPT
from sdforge.ui.serving import ASSET_PREFIX, Assets, Delivery
from sdforge.ui.tab_actions import COUNTED, PICTURES, TASK_ID, UPSCALER, TabActions
from sdforge.ui.tabs import img2img, txt2img
from sdforge.ui.tabs.panels import PANELS, build_panel
from sdforge.ui.theme import make_theme

if TYPE_CHECKING:
    from sdforge.engine import Engine
    from sdforge.sweeps.sweeps import Sweeps

_LARGEST_UPLOAD = "64mb"


def build_ui(
    engine: Engine, *, version: str, sweeps: Sweeps | None = None, max_batch_count: int = 100
) -> gr.Blocks:
    """Return the page, connected to `engine`; no server is started and no setting written."""
    actions = PageActions(engine, sweeps)
    with gr.Blocks(title="sdforge", analytics_enabled=False, fill_width=True) as page:
        quicksettings = build_quicksettings(actions.device_mib())
        with gr.Tabs(elem_id="tabs"):
            forms = {
                TXT2IMG: txt2img.build_tab(engine.extensions),
                IMG2IMG: img2img.build_tab(engine.extensions),
            }
            for form in forms.values():
                cast(gr.Slider, form["batch_count"]).maximum = max_batch_count
            for name in PANELS:
                build_panel(name)
        fragment("footer", version=version, python=platform.python_version(), parts=_parts())
        hidden = {
            name: gr.Textbox(elem_id=f"sdforge_{name}", visible="hidden", label=name)
            for name in (TASK_ID, PICTURES, SCRIPT, STORED)
        }
        _connect(page, actions, forms, quicksettings, hidden)
        for tab, form in forms.items():
            _connect_tab(actions.tabs[tab], form, hidden)
    return page


def _press(name: str) -> Trigger:
    """Make a hidden button that scripts press by its id, and return its event."""
    return gr.Button(name, elem_id=f"sdforge_{name}", visible="hidden").click


def _connect(
    page: gr.Blocks,
    actions: PageActions,
    forms: dict[str, dict[str, Component]],
    shared: dict[str, Component],
    hidden: dict[str, Component],
) -> None:
    """Bind the events of the page as a whole."""
    everything = {
        tab_name(tab, name): widget for tab, form in forms.items() for name, widget in form.items()
    } | shared
    load_inputs = {STORED: hidden[STORED]}
    bind(
        page.load,
        actions.load_page,
        inputs=load_inputs,
        outputs=everything,
        before="page.stored",
        is_first=True,
    )
    followers = {
        tab_name(tab, name): forms[tab][name] for tab in forms for name in RECOMMENDED_NAMES
    }
    checkpoint = {CHECKPOINT: shared[CHECKPOINT]}
    bind(
        cast(gr.Dropdown, shared[CHECKPOINT]).input,
        actions.change_checkpoint,
        inputs=checkpoint | followers,
        outputs=checkpoint | followers,
    )
    bind(_press("refresh_checkpoints"), actions.refresh_checkpoints, outputs=shared)
    bind(_press("show_checkpoint"), actions.show_checkpoint, outputs=shared)
    if GPU_WEIGHTS in shared:
        weights = {GPU_WEIGHTS: cast(gr.Slider, shared[GPU_WEIGHTS])}
        # Not `change`: that also fires when the server fills the form, and would write it back.
        bind(
            weights[GPU_WEIGHTS].release,
            actions.change_gpu_weights,
            inputs=weights,
            outputs=weights,
        )


def _connect_tab(
    actions: TabActions, form: dict[str, Component], hidden: dict[str, Component]
) -> None:
    """Bind the events of one tab."""
    tab = actions.tab
    bind(
        _press(f"{tab}_submit"),
        actions.submit,
        inputs={**{name: hidden[name] for name in (TASK_ID, PICTURES, SCRIPT)}, **form},
        before=f"{tab}.beforeSubmit",
    )
    bind(
        _press(f"{tab}_dry_run"),
        actions.plan_sweep,
        inputs={PICTURES: hidden[PICTURES], SCRIPT: hidden[SCRIPT], **form},
        before=f"{tab}.beforeDryRun",
    )
    bind(
        _press(f"{tab}_estimate"),
        actions.estimate,
        inputs={PICTURES: hidden[PICTURES], **form},
        before=f"{tab}.beforeEstimate",
    )
    bind(
        _press(f"{tab}_paste"),
        actions.read_prompt,
        inputs=form,
        outputs=form,
        before=f"{tab}.beforePaste",
    )
    lists = {
        name: form[name] for name in (*CHECKPOINT_NAMES, UPSCALER, HIRES_MODULES) if name in form
    }
    bind(_press(f"{tab}_refresh_lists"), actions.refresh_lists, inputs=lists, outputs=lists)
    styles = {STYLES: form[STYLES]}
    bind(_press(f"{tab}_refresh_styles"), actions.refresh_styles, inputs=styles, outputs=styles)
    counted = {name: form[name] for name in COUNTED}
    bind(_press(f"{tab}_count_tokens"), actions.count_tokens, inputs=counted)
    bind_script(_press(f"{tab}_apply"), f"{tab}.takePending", form, sets=True)
    # Not at the widgets' `change`: Gradio then looks all of them up at every single one.
    bind_script(_press(f"{tab}_remember"), f"{tab}.remember", form)


def _parts() -> str:
    return " · ".join(f"{name} {package_version(name)}" for name in ("torch", "gradio"))


def create_ui_app(
    engine: Engine,
    *,
    version: str,
    sweeps: Sweeps | None = None,
    theme: str | None = None,
    max_batch_count: int = 100,
) -> UiApp:
    """Return the page as an ASGI app; may be called on any thread, also beside a running server.

    Args:
        engine: what it shows and changes.
        version: shown in the footer.
        sweeps: for scripts that draw many cells; None leaves them out.
        theme: "light" or "dark" for every visitor whose address names none; None for the browser's.
        max_batch_count: where the slider of the batch count ends.
    """
    page = build_ui(engine, version=version, sweeps=sweeps, max_batch_count=max_batch_count)
    assets = Assets(ASSETS)
    outer = Starlette(
        routes=[Mount(ASSET_PREFIX, assets)],
        middleware=[Middleware(Delivery, link_header=assets.link_header(), theme=theme)],
    )
    head = (ASSETS / "head.html").read_text(encoding="utf-8").replace("$digest", assets.digest)
    gr.mount_gradio_app(
        cast(Any, outer),
        page,
        path="/",
        theme=make_theme(),
        head=head,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=_LARGEST_UPLOAD,
        favicon_path=str(ASSETS / "favicon.png"),
    )
    return UiApp(outer)


class UiApp:
    """An ASGI app that starts itself with its first request, on the loop that it is called on.

    A server tells only the app it was started with about its lifespan; this one may be added when
    that has long happened. The lifespan runs in a task of its own, as it must end in the task that
    began it.
    """

    def __init__(self, app: Starlette) -> None:
        self._app: ASGIApp = app
        self._lifespan = app.router.lifespan_context(app)
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Start what the page needs on the running loop; does nothing the second time."""
        if self._task is None:
            self._task = asyncio.create_task(self._live(), name="sdforge-ui")
        waiting = asyncio.create_task(self._started.wait())
        await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """End what `start` began; the launcher calls it before the loop closes."""
        self._stopping.set()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _live(self) -> None:
        async with self._lifespan:
            self._started.set()
            await self._stopping.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or a server's lifespan."""
        if scope["type"] == "lifespan":
            await self._answer_lifespan(receive, send)
            return
        if not self._started.is_set():
            await self.start()
        await self._app(scope, receive, send)

    async def _answer_lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return
