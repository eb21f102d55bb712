"""Measure the page in a Chromium on a running server: load, clicks, scrolling, memory, previews.

    python scripts/page_figures.py http://127.0.0.1:7860 [--pictures 200] [--only load,memory]

Seconds of the clock say little on a busy machine, so the main thread's own CPU time stands beside
them. The pictures that are drawn stay in the server's outputs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
READY = "#txt2img_size_presets button"
PROMPT = "#txt2img_prompt textarea"
TIMEOUT_MS = 600_000
# A click is answered when the next frame after it was drawn.
ANSWER = """
(selector) => new Promise((resolve) => {
    const began = performance.now();
    document.querySelector(selector).click();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
})"""
CLICKS = [
    "#txt2img_res_switch_btn", "#txt2img_random_seed", "#tab_queue-button", "#tab_models-button",
    "#tab_txt2img-button", "#txt2img_hr-checkbox input", "#txt2img_styles_edit_button",
]  # fmt: skip
FRAMES = """
() => new Promise((resolve) => {
    const box = document.scrollingElement, times = [];
    let last = performance.now();
    const step = (now) => {
        times.push(now - last);
        last = now;
        box.scrollTop += 120;
        if (times.length < 120) requestAnimationFrame(step); else resolve(times.slice(1));
    };
    requestAnimationFrame(step);
})"""


def metrics(session: CDPSession) -> dict[str, float]:
    """Return Chromium's counters of a page."""
    rows = session.send("Performance.getMetrics")["metrics"]
    return {row["name"]: row["value"] for row in rows}


def new_page(browser: Browser, url: str) -> tuple[Page, CDPSession]:
    """Open the page in a fresh profile; CPU time of its main thread is counted from the start."""
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.set_default_timeout(TIMEOUT_MS)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(url)
    page.wait_for_selector(READY)
    return page, session


def load(browser: Browser, url: str) -> dict[str, Any]:
    """Seconds until the form is filled, cold and warm, and what the page is made of."""
    began = time.perf_counter()
    page, session = new_page(browser, url)
    cold = time.perf_counter() - began
    cpu = metrics(session)["TaskDuration"]
    began = time.perf_counter()
    page.reload()
    page.wait_for_selector(READY)
    warm = time.perf_counter() - began
    counted = metrics(session)
    with urllib.request.urlopen(f"{url}/config") as answer:
        components = len(json.load(answer)["components"])
    page.context.close()
    return {
        "components": components,
        "cold_s": round(cold, 2),
        "cold_main_thread_cpu_s": round(cpu, 2),
        "warm_s": round(warm, 2),
        "nodes": int(counted["Nodes"]),
        "heap_mb": round(counted["JSHeapUsedSize"] / 1e6, 1),
    }


def clicks(browser: Browser, url: str) -> dict[str, Any]:
    """Milliseconds from a click to the frame that answers it, the median of five each."""
    page, _ = new_page(browser, url)
    found = {}
    for selector in CLICKS:
        page.wait_for_selector(selector, state="attached")
        times = []
        for _ in range(5):
            times.append(page.evaluate(ANSWER, selector))
            page.evaluate("document.querySelector('dialog[open]')?.close()")
        found[selector] = round(statistics.median(times), 1)
    page.context.close()
    return found


def memory(browser: Browser, url: str, pictures: int) -> dict[str, Any]:
    """Heap and nodes after forced collection, before and after many pictures in one page."""
    page, session = new_page(browser, url)
    for name, value in {"steps": 1, "batch_size": 4, "width": 64, "height": 64}.items():
        box = page.locator(f"#txt2img_{name} input[type=number]")
        box.fill(str(value))
        box.press("Tab")
    page.fill(PROMPT, "a cat")
    rows = []
    for job in range(pictures // 4 + 1):
        page.evaluate("sdforge.tabs.txt2img.jobs.submit()")
        page.wait_for_function("!sdforge.tabs.txt2img.jobs.isRunning()")
        if job % max(pictures // 20, 1) == 0:
            session.send("HeapProfiler.collectGarbage")
            now = metrics(session)
            rows.append([4 * (job + 1), round(now["JSHeapUsedSize"] / 1e6, 2), int(now["Nodes"])])
    page.context.close()
    return {"pictures_heap_mb_nodes": rows}


def cards(browser: Browser, url: str) -> dict[str, Any]:
    """Milliseconds per frame while a thousand cards scroll by; their list is answered here."""
    page, session = new_page(browser, url)
    with urllib.request.urlopen(f"{url}/api/v1/cards") as answer:
        first = next(card for card in json.load(answer) if card["kind"] == "lora")
    many = [{**first, "name": f"{first['name']}-{n}", "title": f"card {n}"} for n in range(1000)]
    page.route(
        "**/api/v1/cards",
        lambda route: route.fulfill(body=json.dumps(many), content_type="application/json"),
    )
    page.click("#tab_models-button")
    page.wait_for_function("document.querySelectorAll('#models_panel .card').length >= 1000")
    before = metrics(session)["TaskDuration"]
    times = sorted(page.evaluate(FRAMES))
    cpu = metrics(session)["TaskDuration"] - before
    page.context.close()
    return {
        "median_frame_ms": round(statistics.median(times), 1),
        "p95_frame_ms": round(times[int(0.95 * len(times))], 1),
        "main_thread_cpu_ms_per_frame": round(1000 * cpu / len(times), 2),
    }


def previews(browser: Browser, url: str) -> dict[str, Any]:
    """Previews per second in the page, and sampling with them against sampling without."""

    def draw(page: Page) -> tuple[float, int]:
        page.evaluate("window.shown = new Set()")
        page.evaluate("sdforge.tabs.txt2img.jobs.submit()")
        page.wait_for_function(
            """() => {
                const source = document.querySelector('#txt2img_live_preview img')?.src;
                if (source) window.shown.add(source.length + source.slice(-200));
                return !sdforge.tabs.txt2img.jobs.isRunning();
            }""",
            polling=30,
        )
        job = page.evaluate("sdforge.tabs.txt2img.results.ended")
        return job["timings"]["denoise"], page.evaluate("window.shown.size")

    page, _ = new_page(browser, url)
    box = page.locator("#txt2img_steps input[type=number]")
    box.fill("50")
    box.press("Tab")
    page.fill(PROMPT, "an owl, blue background")
    draw(page)
    page.evaluate("sdforge.tabs.txt2img.jobs.setPeriod(100)")
    seconds: dict[bool, list[float]] = {True: [], False: []}
    rates = []
    for number in range(10):
        is_on = number % 2 == 0
        post(url, "/sdapi/v1/options", {"live_previews_enable": is_on})
        took, shown = draw(page)
        seconds[is_on].append(took)
        if is_on:
            rates.append(shown / took)
    post(url, "/sdapi/v1/options", {"live_previews_enable": True})
    page.context.close()
    return {
        "previews_per_second": round(statistics.median(rates), 1),
        "sampling_with_over_without": round(min(seconds[True]) / min(seconds[False]), 3),
    }


def post(url: str, path: str, body: dict[str, Any]) -> None:
    """Send JSON."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url + path, data, headers)).close()


def main() -> None:
    """Measure what is asked for and print it, one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:7860")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--only", default="load,clicks,cards,previews,memory")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "load": lambda: load(browser, arguments.url),
            "clicks": lambda: clicks(browser, arguments.url),
            "cards": lambda: cards(browser, arguments.url),
            "previews": lambda: previews(browser, arguments.url),
            "memory": lambda: memory(browser, arguments.url, arguments.pictures),
        }
        for name in arguments.only.split(","):
            print(json.dumps({name: parts[name]()}), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
