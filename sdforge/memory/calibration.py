"""What real peaks taught about the traced ones: a factor per network, device, attention and phase.

A trace counts tensors. Workspaces of convolutions and the allocator's slack come on top and depend
on the device, so a traced figure is multiplied by a factor that starts careful and learns. It rises
at once when a peak was higher and sinks by small steps towards the highest of the last few peaks,
never below 1, and for long not below what ran out of memory: so it does not swing between too much
and too little. Kept as a small JSON file in the cache folder. No torch.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdforge.core.errors import StorageError
from sdforge.core.settings import write_atomically

log = logging.getLogger(__name__)

# Traced → real. The VAE's follows from constants that peers arrived at after real failures.
START_DENOISER = 1.5
START_VAE = 2.8
START_TEXT = 1.5
RAISE_AFTER_OOM = 1.3
HIGHEST = 8.0
# A learned factor keeps this much above what was measured.
MARGIN = 1.05
# How much of the way down one lower peak leads, and how many peaks are remembered.
SINK = 0.2
REMEMBERED = 8
# A factor that led out of memory was too low. It stays a floor, a little raised, which fades by
# half in some 140 good runs: another program may have been to blame.
FLOOR_RAISE = 1.1
FLOOR_FADES = 0.995
_FORMAT = 1


@dataclass(frozen=True)
class Key:
    """What a factor belongs to.

    `phase` is 'encode' (text), 'denoise', 'decode' or 'vae-encode'; `device` the card's name,
    `attention` the kernel in use.
    """

    architecture: str
    device: str
    attention: str
    phase: str

    @property
    def text(self) -> str:
        """The key in the file."""
        return "|".join((self.architecture, self.device, self.attention, self.phase))

    @property
    def start(self) -> float:
        """The factor before anything was measured."""
        starts = {"denoise": START_DENOISER, "encode": START_TEXT}
        return starts.get(self.phase, START_VAE)


@dataclass
class _Learned:
    factor: float
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    floor: float = 1.0


class Calibration:
    """The learned factors of one machine; safe to use from several threads."""

    def __init__(self, path: Path | None = None) -> None:
        """Read `path`; a missing or damaged file, or None, means starting values."""
        self._path = path
        self._lock = threading.Lock()
        self._learned: dict[str, _Learned] = _read(path) if path is not None else {}

    def factor(self, key: Key) -> float:
        """Return what to multiply a traced peak by, from 1 to 8."""
        learned = self._learned.get(key.text)
        return learned.factor if learned is not None else key.start

    def observe(self, key: Key, predicted: int, measured: int) -> None:
        """Learn from a peak.

        Args:
            key: what ran.
            predicted: the traced bytes, not yet multiplied by the factor.
            measured: the bytes of activations that were in use at the peak.
        """
        if predicted <= 0 or measured <= 0:
            return
        with self._lock:
            before = self.factor(key)
            learned = self._learned.setdefault(key.text, _Learned(before))
            learned.ratios.append(measured / predicted)
            learned.floor = max(learned.floor * FLOOR_FADES, 1.0)
            wanted = _clamp(max(max(learned.ratios) * MARGIN, learned.floor))
            if wanted >= before:
                learned.factor = wanted
            else:
                learned.factor = max(wanted, before - SINK * (before - wanted))
            changed = abs(learned.factor - before) > 0.005
        if changed:
            self._write()

    def raise_after_oom(self, key: Key) -> None:
        """Make the next plan more careful: memory ran out although the estimate said it fits.

        What was measured before is forgotten; it evidently did not show the peak.
        """
        with self._lock:
            failed = self.factor(key)
            raised = _clamp(failed * RAISE_AFTER_OOM)
            self._learned[key.text] = _Learned(raised, floor=_clamp(failed * FLOOR_RAISE))
        log.warning("out of memory in %s: its estimate is now multiplied by %.2f", key.text, raised)
        self._write()

    def report(self) -> dict[str, float]:
        """Return the learned factors by key, for the memory report."""
        with self._lock:
            return {text: round(row.factor, 3) for text, row in self._learned.items()}

    def _write(self) -> None:
        if self._path is None:
            return
        with self._lock:
            rows = {
                text: {"factor": row.factor, "ratios": list(row.ratios), "floor": row.floor}
                for text, row in self._learned.items()
            }
        data = json.dumps({"format": _FORMAT, "factors": rows}, indent=1).encode()
        try:
            write_atomically(self._path, data)
        except StorageError as error:
            log.warning("what was learned about memory is lost at the next start: %s", error)


def _clamp(factor: float) -> float:
    return min(max(factor, 1.0), HIGHEST)


def _read(path: Path) -> dict[str, _Learned]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return {}
        rows = content["factors"].items()
        return {text: _learned(row) for text, row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s cannot be read (%s); estimates of memory start anew", path, error)
        return {}


def _learned(row: Any) -> _Learned:
    factor, floor = float(row["factor"]), float(row["floor"])
    ratios = [float(ratio) for ratio in row["ratios"]]
    if not all(math.isfinite(number) and number > 0 for number in (factor, floor, *ratios)):
        raise ValueError("a factor is no positive number")
    return _Learned(_clamp(factor), deque(ratios, maxlen=REMEMBERED), _clamp(floor))
