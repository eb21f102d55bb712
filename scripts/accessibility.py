"""Look through the page with axe-core, every tab, light and dark; exit 1 for a serious violation.

axe-core comes from npm (`npm install axe-core` anywhere) and is not part of the program:

    python scripts/accessibility.py --axe node_modules/axe-core/axe.min.js http://127.0.0.1:7860
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
SERIOUS = ("serious", "critical")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def violations(page: Page) -> list[dict[str, Any]]:
    """Return what axe-core finds on the page as it is shown now."""
    found: list[dict[str, Any]] = page.evaluate(
        "(rules) => axe.run(document, { runOnly: rules }).then((result) => result.violations)",
        RULES,
    )
    return found


def look_through(page: Page) -> int:
    """Print the violations of each tab; return how many are serious."""
    count = 0
    for tab in page.query_selector_all("button[role=tab][id]"):
        tab.click()
        page.wait_for_load_state("networkidle")
        for row in violations(page):
            count += row["impact"] in SERIOUS
            place = row["nodes"][0]["html"][:120].replace("\n", " ")
            name = tab.get_attribute("id")
            print(f"{name}: {row['impact']} {row['id']} ×{len(row['nodes'])}: {place}")
    return count


def main() -> int:
    """Open the page twice, light and dark, and look through it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js of the npm package")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:7860")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    count = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            print(f"{scheme}:")
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1400, "height": 900})
            page.goto(arguments.url)
            page.wait_for_selector("#txt2img_size_presets button")
            page.add_script_tag(path=arguments.axe)
            count += look_through(page)
        browser.close()
    print(f"{count} serious violations")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
