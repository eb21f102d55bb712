"""Write requirements.lock and requirements-dev.lock from the environment that runs this.

The packages are those that pyproject.toml names and what they need, at the versions installed here.
Run it in an environment where the tests pass: `.venv/bin/python scripts/lock.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Written by scripts/lock.py; launch.py and scripts/test.py install it.\n"
# Wheels of these exist only for some machines; elsewhere what needs them does without.
MARKERS = {"hf-xet": 'platform_machine in "x86_64 amd64 AMD64 arm64 aarch64"'}


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Return name → version of some requirements and all that they need here."""
    found: dict[str, str] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not wanted or (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        installed = distribution(name)
        # A local version such as +cpu says which build, which is the installing machine's affair.
        found[name] = installed.version.partition("+")[0]
        for text in installed.requires or ():
            waiting += [(Requirement(text), wish) for wish in ("", *requirement.extras)]
    return found


def write(name: str, packages: dict[str, str]) -> None:
    """Write one lock file, sorted by name."""
    lines = [
        f"{package}=={version}" + (f" ; {MARKERS[package]}" if package in MARKERS else "")
        for package, version in sorted(packages.items())
    ]
    (ROOT / name).write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{name}: {len(lines)} packages")


def main() -> int:
    """Write both files; return the exit status."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    try:
        runtime = closure(project["dependencies"])
        everything = closure([*project["dependencies"], *extras["test"], *extras["bench"]])
    except PackageNotFoundError as error:
        print(f"not installed here: {error.name}")
        return 1
    write("requirements.lock", runtime)
    write("requirements-dev.lock", {k: v for k, v in everything.items() if k not in runtime})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
