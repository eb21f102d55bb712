"""`python -m sdforge`: the server in an environment that is ready; `launch.py` makes one first.

With a command as the first word it does that instead of serving.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def command(arguments: Sequence[str]) -> Callable[[Sequence[str]], int] | None:
    """Return what the first word asks for, None for serving."""
    if arguments[:1] == ["inspect"]:
        from sdforge.models.inspect import main as inspect

        return inspect
    if arguments[:1] == ["merge"]:
        from sdforge.models.merging.command import main as merge

        return merge
    return None


def main(arguments: list[str]) -> int:
    """Do what is asked for, or serve until stopped; return the exit status of a command."""
    from sdforge.launcher import run_and_leave

    asked = command(arguments)
    return asked(arguments[1:]) if asked else run_and_leave(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
