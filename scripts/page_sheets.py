"""Take the pictures of the page that the docs show, from a running server.

    python scripts/page_sheets.py http://127.0.0.1:7860

Writes docs/images/tabs-desktop.webp, -dark, -phone and -zh: each tab once, side by side; then
page-txt2img.webp and its like, and txt2img.png. Draw something before, so that Queue and History
have something to show.
"""

from __future__ import annotations

import argparse
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TABS = ("txt2img", "img2img", "live", "extras", "pnginfo", "modelmerger", "queue", "history",
        "models", "settings", "system")  # fmt: skip
READY = "#txt2img_size_presets button"
GAP, PAPER = 8, (120, 124, 122)
# Drawn by scripts after the tab opens: charts, cards, pictures.
_SETTLING_MS = 2500


@dataclass(frozen=True)
class Look:
    """One way to see the page; tiles are `tile` pixels wide, `columns` in a row."""

    width: int
    height: int
    tile: int
    columns: int
    scheme: str = "light"
    locale: str = "en-US"


LOOKS = {
    "desktop": Look(1280, 800, 640, 3),
    "dark": Look(1280, 800, 640, 3, scheme="dark"),
    "zh": Look(1280, 800, 640, 3, locale="zh-CN"),
    "phone": Look(390, 844, 260, 6),
}


# The tabs that have a picture of their own.
SINGLE = ("history", "models", "queue", "settings", "system", "txt2img", "live")
SINGLE_LOOK = Look(1280, 860, 1280, 1)
PROMPT = "an owl, twemoji style, blue background"
_PATIENCE_MS = 120_000


def shots(browser: Browser, address: str, look: Look) -> list[Image.Image]:
    """Return a picture of each tab."""
    options: dict[str, Any] = {"color_scheme": look.scheme, "locale": look.locale}
    context = browser.new_context(viewport={"width": look.width, "height": look.height}, **options)
    page = context.new_page()
    page.goto(address)
    found = [shot(page, tab) for tab in TABS]
    context.close()
    return found


def shot(page: Page, tab: str) -> Image.Image:
    """Return a picture of one tab, opened as a reload opens the tab that was shown last."""
    page.evaluate("(tab) => sessionStorage.setItem('sdforge.tab', tab)", tab)
    page.reload()
    page.wait_for_selector(READY, state="attached", timeout=120_000)
    page.wait_for_selector(f"#tab_{tab}", state="visible")
    page.wait_for_timeout(_SETTLING_MS)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def joined(pictures: list[Image.Image], look: Look) -> Image.Image:
    """Return the pictures in rows."""
    size = (look.tile, look.height * look.tile // look.width)
    rows = -(-len(pictures) // look.columns)
    sheet = Image.new(
        "RGB", (look.columns * (size[0] + GAP) + GAP, rows * (size[1] + GAP) + GAP), PAPER
    )
    for number, picture in enumerate(pictures):
        row, column = divmod(number, look.columns)
        place = (GAP + column * (size[0] + GAP), GAP + row * (size[1] + GAP))
        sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), place)
    return sheet


def save_single(browser: Browser, address: str) -> None:
    """Take and save the tabs' own pictures; txt2img and Live draw something for theirs."""
    context = browser.new_context(
        viewport={"width": SINGLE_LOOK.width, "height": SINGLE_LOOK.height}
    )
    page = context.new_page()
    page.goto(address)
    for tab in SINGLE:
        picture = shot(page, tab)
        if tab in ("txt2img", "live"):
            picture = drawn(page, tab)
        picture.save(IMAGES / f"page-{tab}.webp", quality=75, method=6)
        if tab == "txt2img":
            picture.save(IMAGES / "txt2img.png", optimize=True)
    context.close()
    phone = LOOKS["phone"]
    context = browser.new_context(
        viewport={"width": phone.width, "height": phone.height}, color_scheme="dark"
    )
    page = context.new_page()
    page.goto(address)
    shot(page, "txt2img").save(IMAGES / "page-phone-dark.webp", quality=75, method=6)
    context.close()


def drawn(page: Page, tab: str) -> Image.Image:
    """Return a picture of a tab that has drawn one."""
    if tab == "txt2img":
        page.fill("#txt2img_prompt textarea", PROMPT)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#txt2img_interrupt", state="visible")
        page.wait_for_selector("#txt2img_interrupt", state="hidden", timeout=_PATIENCE_MS)
    else:
        # On a slow machine the budget would leave a blur.
        page.fill("#live_budget", "60000")
        page.fill("#live_seed", "5")
        page.select_option("#live_steps", "4")
        page.fill("#live_prompt", PROMPT)
        page.wait_for_selector("#live_pace:has-text('Steps: 4')", timeout=_PATIENCE_MS)
    page.wait_for_timeout(_SETTLING_MS)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    if tab == "live":
        # Without the figures below: they are this machine's, at this moment.
        keep = page.locator("#live_keep").bounding_box()
        picture = picture.crop((0, 0, picture.width, round(keep["y"] + keep["height"]) + GAP))
    return picture


def main() -> None:
    """Take and save them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("address")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, look in LOOKS.items():
            sheet = joined(shots(browser, options.address, look), look)
            sheet.save(IMAGES / f"tabs-{name}.webp", quality=75, method=6)
        save_single(browser, options.address)
        browser.close()


if __name__ == "__main__":
    main()
