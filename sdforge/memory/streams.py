"""Copy engines: how bytes get onto a device beside its computing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

# A point in the work that was given to a stream; None is "now, nothing to wait for".
Event = Any
Copies = Sequence[tuple[torch.Tensor, torch.Tensor]]


class CopyStream(Protocol):
    """The device's copy engine, working beside its computing, in the order of its calls."""

    def copy(self, copies: Copies, after: Event) -> Event:
        """Copy (target, source) pairs once `after` has happened; return the event of the end."""

    def wait(self, event: Event) -> None:
        """Let computing that is issued from now on wait for an event of `copy`."""

    def mark(self) -> Event:
        """Return the event that all computing issued so far is done."""


class ImmediateCopies:
    """The copy engine of a device without streams: copies are done when the call returns."""

    def copy(self, copies: Copies, after: Event) -> Event:
        """Copy now."""
        for target, source in copies:
            target.copy_(source)

    def wait(self, event: Event) -> None:
        """Do nothing: whatever was copied is there."""

    def mark(self) -> Event:
        """Return nothing to wait for."""
        return None


class SideStream:
    """Copies on a stream of their own; only streams wait for each other, the host never does."""

    def __init__(self, device: torch.device) -> None:
        self._torch: Any = getattr(torch, device.type)
        self._device = device
        self._stream = self._torch.Stream(device)

    def copy(self, copies: Copies, after: Event) -> Event:
        """Copy on the side stream; sources that are page-locked do not hold the host up."""
        with self._torch.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            for target, source in copies:
                target.copy_(source, non_blocking=True)
            return self._recorded(self._stream)

    def wait(self, event: Event) -> None:
        """Let the current stream wait."""
        self._torch.current_stream(self._device).wait_event(event)

    def mark(self) -> Event:
        """Record where the current stream is."""
        return self._recorded(self._torch.current_stream(self._device))

    def _recorded(self, stream: Any) -> Event:
        event = self._torch.Event()
        event.record(stream)
        return event
