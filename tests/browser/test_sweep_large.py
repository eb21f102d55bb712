"""A grid of a thousand cells, drawn to the end: the page answers, page and server stay small."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import Visitor
from tests.live import LiveServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(3600)]

PATIENCE_MS = 1_200_000
SWEEP = {
    "request": {"prompt": "a cat", "steps": 1, "width": 64, "height": 64},
    "axes": [{"axis": "Seed", "values": "1-50"}, {"axis": "CFG Scale", "values": "1-20"}],
    "save_images": False,
    "id": "thousand",
}
# From a click on a legend to the frame in which its row is folded.
ANSWER = """async () => {
    const toggle = document.querySelector('#txt2img_sweep th[data-rows="15"] button');
    const started = performance.now();
    toggle.click();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    return performance.now() - started;
}"""
SHOWN = "document.querySelectorAll('#txt2img_sweep td img').length"


def state(page: Page) -> dict[str, float]:
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    devtools.send("HeapProfiler.collectGarbage")
    rows = devtools.send("Performance.getMetrics")["metrics"]
    devtools.detach()
    return {row["name"]: row["value"] for row in rows}


def cell(live: LiveServer, index: int) -> dict[str, Any]:
    found: dict[str, Any] = live.get(f"/api/v1/sweeps/thousand/cells/{index}")
    return found


def sweep_status(live: LiveServer) -> str:
    return str(live.get("/api/v1/sweeps/thousand")["status"])


def resident_mib(live: LiveServer) -> float:
    status = Path(f"/proc/{live.pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def wait_for_cell(page: Page, index: int, status: str) -> None:
    page.wait_for_function(
        "([index, status]) => document.querySelectorAll('#txt2img_sweep td')[index]"
        ".classList.contains(status)",
        arg=[index, status],
        timeout=PATIENCE_MS,
    )


def use(page: Page, index: int, title: str) -> None:
    place = page.locator("#txt2img_sweep td").nth(index)
    place.scroll_into_view_if_needed()
    place.hover()
    place.locator(f"button[title='{title}']").click()


def test_a_thousand_cells_answer_while_they_are_drawn(
    visitor: Visitor, shared_server: LiveServer
) -> None:
    page = visitor.open()
    before = resident_mib(shared_server)
    assert shared_server.post("/api/v1/sweeps", SWEEP)[0] == 202
    page.evaluate("sessionStorage.setItem('sdforge.txt2img.sweep', 'thousand')")
    page.reload()
    visitor.wait_until_usable(page)
    page.wait_for_function("document.querySelectorAll('#txt2img_sweep td').length === 1000")
    empty = state(page)
    answers = []
    for count in (5, 15):
        page.wait_for_function(f"{SHOWN} >= {count}", timeout=PATIENCE_MS)
        answers += [page.evaluate(ANSWER) for _ in range(4)]

    # Single cells, while the others are drawn.
    use(page, 990, "Draw this cell next")
    wait_for_cell(page, 990, "done")
    assert cell(shared_server, 990)["status"] == "done"
    use(page, 999, "Skip this cell")
    wait_for_cell(page, 999, "skipped")
    use(page, 999, "Draw this cell again")
    wait_for_cell(page, 999, "done")

    # To the end, with the page open.
    resident = {}
    for count in (200, 600, 1000):
        page.wait_for_function(f"{SHOWN} >= {count}", timeout=PATIENCE_MS)
        resident[count] = resident_mib(shared_server)
        answers += [page.evaluate(ANSWER) for _ in range(2)]
    shared_server.until(lambda: sweep_status(shared_server) == "done")

    full = state(page)
    print(  # noqa: T201
        f"answers {[round(one) for one in answers]} ms; {full['Nodes']:.0f} nodes; heap "
        f"{empty['JSHeapUsedSize'] / 2**20:.1f} → {full['JSHeapUsedSize'] / 2**20:.1f} MiB; server "
        f"{before:.0f} MiB, by cells { ({count: round(size) for count, size in resident.items()}) }"
    )
    assert full["Nodes"] < 40_000
    assert full["JSHeapUsedSize"] < empty["JSHeapUsedSize"] + 64 * 2**20
    assert resident[1000] < resident[200] + 32
    page.screenshot(path=str(shared_server.data / "thousand.png"))
