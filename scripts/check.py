"""Check everything that needs no test run: code, layers, documentation, known vulnerabilities.

All checks run, also after one has failed. Needs the environment of `scripts/test.py`, which is made
first if need be.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.environment import run_in_venv  # noqa: E402 - needs the path above

CHECKS = {
    "lint": ["-m", "ruff", "check", "--quiet", "."],
    "format": ["-m", "ruff", "format", "--check", "--quiet", "."],
    "types": ["-m", "mypy"],
    "layers": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    "documentation": ["scripts/docs.py", "--check"],
    "audit": ["scripts/audit.py"],
}


def main() -> int:
    """Run the checks named in the arguments, or all; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(CHECKS))
    names = parser.parse_args().names or list(CHECKS)
    if unknown := [name for name in names if name not in CHECKS]:
        parser.error(f"no check named {unknown[0]}; there are {', '.join(CHECKS)}")
    failed = []
    for name in names:
        began = time.monotonic()
        status = run_in_venv(CHECKS[name])
        print(f"{name}: {'ok' if status == 0 else 'FAILED'} ({time.monotonic() - began:.1f} s)")
        failed += [name] if status else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
