"""How fast and how evenly frames come. Pure: times are handed in."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

# Frames that count, and the longest gap between two of them that is still one row: who stops
# typing has not become slower.
_FRAMES = 30
_GAP_SECONDS = 2.0


@dataclass(frozen=True)
class Pace:
    """What is shown of a session.

    Attributes:
        fps: frames a second while they came one after another; 0 before the second frame.
        jitter_ms: standard deviation of the frames' own times.
        frame_ms: their median.
        latency_ms: median from the wish to the client's word that it has the frame.
    """

    fps: float = 0.0
    jitter_ms: float = 0.0
    frame_ms: float = 0.0
    latency_ms: float = 0.0

    def to_json(self) -> Mapping[str, float]:
        """Return plain JSON types, rounded to what can be told apart."""
        return {
            "fps": round(self.fps, 2),
            "jitter_ms": round(self.jitter_ms, 1),
            "frame_ms": round(self.frame_ms, 1),
            "latency_ms": round(self.latency_ms, 1),
        }


class PaceMeter:
    """The last frames of a session."""

    def __init__(self) -> None:
        self._shown: deque[float] = deque(maxlen=_FRAMES)
        self._frames: deque[float] = deque(maxlen=_FRAMES)
        self._latencies: deque[float] = deque(maxlen=_FRAMES)

    def add(self, now: float, frame_seconds: float, latency_seconds: float) -> None:
        """Take note of a frame that the client had at `now`, a monotonic clock in seconds."""
        if self._shown and now - self._shown[-1] > _GAP_SECONDS + frame_seconds:
            self._shown.clear()
        self._shown.append(now)
        self._frames.append(frame_seconds)
        self._latencies.append(latency_seconds)

    def now(self) -> Pace:
        """Return the figures over the last frames."""
        if not self._frames:
            return Pace()
        fps = 0.0
        if len(self._shown) > 1 and self._shown[-1] > self._shown[0]:
            fps = (len(self._shown) - 1) / (self._shown[-1] - self._shown[0])
        return Pace(
            fps=fps,
            jitter_ms=statistics.pstdev(self._frames) * 1000,
            frame_ms=statistics.median(self._frames) * 1000,
            latency_ms=statistics.median(self._latencies) * 1000,
        )
