"""Run the tests, in an environment that is made first if need be.

Arguments are pytest's: `python3 scripts/test.py -k sampler`. Tests of the page need
Chromium and are skipped without it, which is said.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.environment import run_in_venv  # noqa: E402 - needs the path above

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> int:
    """Run pytest; return its exit status."""
    if not any(map(shutil.which, BROWSERS)):
        print("No Chromium found: the tests of the page are skipped (Debian: apt install chromium)")
    arguments = sys.argv[1:]
    if os.environ.get("CI"):
        arguments = ["-p", "no:cacheprovider", "--durations=10", *arguments]
    return run_in_venv(["-m", "pytest", *arguments])


if __name__ == "__main__":
    sys.exit(main())
