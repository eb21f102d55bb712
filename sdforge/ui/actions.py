"""What the page as a whole asks of the server: filled forms, the checkpoint, the memory's share.

No Gradio here: `bindings.py` connects these to widgets, by names such as "img2img/width".
`ANSWER` in a result is not a widget but a message to the page's scripts (`assets/app.js`): a job
that was accepted, a problem, a note. What one tab asks is `tab_actions.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import SdforgeError, UnsupportedCheckpoint
from sdforge.core.request import Recommended
from sdforge.ui import form
from sdforge.ui.checkpoints import Checkpoints
from sdforge.ui.passes import TABS
from sdforge.ui.tab_actions import ANSWER, TASK_ID, TabActions, Values, problem

if TYPE_CHECKING:
    from sdforge.engine import Engine
    from sdforge.models.library import CheckpointInfo
    from sdforge.sweeps.sweeps import Sweeps

CHECKPOINT = "checkpoint"
GPU_WEIGHTS = "gpu_weights"
STORED = "stored"
# Forge warns below this, or below a twentieth of a smaller card.
_LITTLE_INFERENCE_MIB = 512


class PageActions:
    """The actions of one page over one engine. Errors become answers, so that nothing is lost."""

    def __init__(self, engine: Engine, sweeps: Sweeps | None = None) -> None:
        """Take the engine that the page shows, and its sweeps."""
        self._engine = engine
        self._checkpoints = Checkpoints(engine)
        self.tabs = {tab: TabActions(engine, tab, self._checkpoints, sweeps) for tab in TABS}

    def load_page(self, values: Mapping[str, Any]) -> Values:
        """Fill the forms: what this browser remembers, else what the checkpoint recommends.

        Reads settings only: opening a page changes nothing on the server.
        """
        stored = _texts_by_tab(values.get(STORED))
        result: Values = {
            tab_name(tab, name): value
            for tab, actions in self.tabs.items()
            for name, value in actions.load(stored.get(tab, "")).items()
        }
        result[CHECKPOINT] = self._checkpoints.choice()
        result.update(self._gpu_weights())
        result[ANSWER] = {"page": self._page_facts(self._checkpoints.current())}
        return result

    def change_checkpoint(self, values: Mapping[str, Any]) -> Values:
        """Make the chosen checkpoint the current one and begin to load it."""
        advised = self._checkpoints.recommended()
        try:
            after = self._checkpoints.library.find(str(values.get(CHECKPOINT) or ""))
            if after.error:
                raise UnsupportedCheckpoint(f"{after.relative} cannot be used: {after.error}")
            self._engine.settings.update({"sd_model_checkpoint": after.title})
            self._engine.preload(after.title)
        except SdforgeError as error:
            return {CHECKPOINT: self._checkpoints.choice(), ANSWER: {"problem": problem(error)}}
        result: Values = {}
        for tab in TABS:
            own = {name: values.get(tab_name(tab, name)) for name in form.RECOMMENDED_NAMES}
            changed = form.follow_checkpoint(own, advised, after.recommended)
            result.update({tab_name(tab, name): value for name, value in changed.items()})
        return {**result, ANSWER: {"page": self._page_facts(after)}}

    def refresh_checkpoints(self, values: Mapping[str, Any]) -> Values:
        """Look for model files again."""
        self._checkpoints.library.refresh()
        return self.show_checkpoint(values)

    def show_checkpoint(self, values: Mapping[str, Any]) -> Values:
        """Show the checkpoint that the server uses now: somebody else may have changed it."""
        page = {"page": self._page_facts(self._checkpoints.current())}
        return {CHECKPOINT: self._checkpoints.choice(), **self._gpu_weights(), ANSWER: page}

    def device_mib(self) -> int | None:
        """Return the accelerator's memory in MiB; None without an accelerator."""
        facts = self._engine.memory_mode()
        return self._engine.device_mib() if facts["is_accelerator"] else None

    def change_gpu_weights(self, values: Mapping[str, Any]) -> Values:
        """Leave the rest of the device to inference: total − weights, Forge's formula."""
        total = self.device_mib()
        try:
            weights = int(float(values.get(GPU_WEIGHTS) or 0))
            if total is not None:
                self._engine.change_settings({"forge_inference_memory": max(total - weights, 0)})
        except (SdforgeError, TypeError, ValueError, OverflowError) as error:
            text = error.message if isinstance(error, SdforgeError) else "wanted a number of MB"
            answer = {"problem": {"message": f"GPU Weights: {text}", "field": None}}
            return {**self._gpu_weights(), ANSWER: answer}
        return {**self._gpu_weights(), ANSWER: self._weights_note(total or 0)}

    def _gpu_weights(self) -> Values:
        """Return the slider's value by the engine's setting; nothing without an accelerator."""
        total = self.device_mib()
        if total is None:
            return {}
        inference = self._engine.settings.current.forge_inference_memory
        return {GPU_WEIGHTS: max(total - inference, 0)}

    def _weights_note(self, total: int) -> Values:
        inference = self._engine.settings.current.forge_inference_memory
        if inference < min(_LITTLE_INFERENCE_MIB, total // 20):
            text = f"Only {inference} MB are left for inference: pictures may run out of memory."
            return {"note": text}
        return {}

    def _page_facts(self, current: CheckpointInfo | None) -> Values:
        recommended = current.recommended if current else Recommended()
        settings = self._engine.settings.current
        return {
            "checkpoint": current.relative if current else "",
            "title": current.title if current else "",
            "family": (current.family if current else None) or "",
            "variant": (current.variant if current else None) or "",
            "sizes": form.size_presets(recommended),
            "poll_ms": settings.live_preview_refresh_period,
            "sound": settings.notification_audio,
            "volume": settings.notification_volume,
        }


def tab_name(tab: str, name: str) -> str:
    """Return the name of a tab's widget among all of the page."""
    return f"{tab}/{name}"


def _texts_by_tab(text: Any) -> dict[str, str]:
    """Return what the browser remembers of each tab; nothing where it cannot be read."""
    try:
        stored = json.loads(text or "{}")
    except (ValueError, TypeError):
        return {}
    given = stored if isinstance(stored, dict) else {}
    return {tab: kept for tab, kept in given.items() if isinstance(kept, str)}


def unexpected(error: Exception, values: Mapping[str, Any]) -> Values:
    """Return the answer to an action that failed by a fault of ours."""
    name = type(error).__name__
    message = f"Something went wrong in the server ({name}); its log has the details."
    return {"task": values.get(TASK_ID), "problem": {"message": message, "field": None}}
