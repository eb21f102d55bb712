"""What all tests share: the process environment that the launcher sets, and patience."""

from __future__ import annotations

import os

from hypothesis import settings

from sdforge.environment.process import process_environment

# Before torch is imported: one quiet thread, so that tests beside other work keep their pace.
os.environ.update(process_environment(os.environ))
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long one example takes says nothing on a busy machine.
settings.register_profile("sdforge", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "sdforge")
