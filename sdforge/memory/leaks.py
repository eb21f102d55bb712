"""Who still holds a network whose memory was given back.

Nothing is lost by it but the module's own few objects; it is counted, so that tests and the report
can say that it does not happen.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Sequence

from torch import nn

log = logging.getLogger(__name__)


class Leaks:
    """Modules that somebody held on to after their eviction."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._watched: list[weakref.ref[nn.Module]] = []

    def watch(self, modules: Sequence[weakref.ref[nn.Module]]) -> None:
        """Take note of evicted modules; those that are still there are logged."""
        held = [ref for ref in modules if ref() is not None]
        if held:
            self._watched += held
            _log_referrers(held[0])

    def count(self) -> int:
        """Return how many of them are still there."""
        self._watched = [ref for ref in self._watched if ref() is not None]
        return len(self._watched)


def _log_referrers(ref: weakref.ref[nn.Module]) -> None:
    module = ref()
    if module is None:
        return
    log.warning(
        "a released %s is still held by somebody; its memory was given back", type(module).__name__
    )
    if log.isEnabledFor(logging.DEBUG):  # looks at every object there is
        kinds = sorted({type(referrer).__name__ for referrer in gc.get_referrers(module)})
        log.debug("it is held by objects of type %s", ", ".join(kinds))
