"""`python -m sdforge`: the server in an environment that is ready; `launch.py` makes one first."""

from __future__ import annotations

import sys

from sdforge.launcher import run_and_leave

if __name__ == "__main__":
    run_and_leave(sys.argv[1:])
