"""What the page asks of the server: each action takes form values by name and returns new ones.

No Gradio here: `bindings.py` connects these to widgets. `ANSWER` in a result is not a widget but a
message to the page's scripts (`assets/app.js`): a job that was accepted, a problem, a note.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sdforge.core.errors import InvalidRequest, SdforgeError, UnsupportedCheckpoint
from sdforge.core.fields import FIELD
from sdforge.core.request import Recommended
from sdforge.models.tokenizers import clip_tokenizer
from sdforge.output.infotext import Infotext, parse_infotext, request_from_infotext
from sdforge.prompt.tokens import count_tokens
from sdforge.sampling.names import SAMPLER_TABLE, SCHEDULE_TABLE
from sdforge.ui import form

if TYPE_CHECKING:
    from sdforge.engine import Engine
    from sdforge.models.library import CheckpointInfo, Library

log = logging.getLogger(__name__)

ANSWER = "answer"
CHECKPOINT = "checkpoint"
TASK_ID = "task_id"
STORED = "stored"
# A1111's own paste leaves the batch alone too: one picture's text says nothing of the others.
PROMPTS = ("prompt", "negative_prompt")
_NOT_PASTED = ("batch_size", "batch_count")

Values = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """New choices of a dropdown as (label, value) pairs, and the chosen value."""

    options: tuple[tuple[str, str], ...]
    value: str | None


class PageActions:
    """The actions of one page over one engine. Errors become answers, so that nothing is lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # The engine knows only what it needs of it; the page shows more.
        self._library = cast("Library", engine.library)

    def load_page(self, values: Mapping[str, Any]) -> Values:
        """Fill the form: what this browser remembers, else what the checkpoint recommends.

        Reads settings only: opening a page changes nothing on the server.
        """
        current = self._current()
        recommended = current.recommended if current else Recommended()
        result = form.default_values(recommended)
        stored, stored_for = form.stored_values(str(values.get(STORED) or ""))
        result.update(stored)
        before = self._find(stored_for)
        if before and current and before.path != current.path:
            result.update(form.follow_checkpoint(result, before.recommended, recommended))
        result[CHECKPOINT] = self._choice(current)
        result[ANSWER] = {"page": self._page_facts(current)}
        return result

    def submit(self, values: Mapping[str, Any]) -> Values:
        """Hand the form to the engine as a job with the id that the page made up."""
        task_id = str(values.get(TASK_ID) or "")
        try:
            request = form.request_from_values(values)
            job = self._engine.submit(request, job_id=task_id or None, origin="ui")
        except SdforgeError as error:
            return {ANSWER: {"task": task_id, "problem": problem(error)}}
        return {ANSWER: {"task": task_id, "accepted": job.id}}

    def change_checkpoint(self, values: Mapping[str, Any]) -> Values:
        """Make the chosen checkpoint the current one and begin to load it."""
        before = self._current()
        try:
            after = self._library.find(str(values.get(CHECKPOINT) or ""))
            if after.error:
                raise UnsupportedCheckpoint(f"{after.relative} cannot be used: {after.error}")
            self._engine.settings.update({"sd_model_checkpoint": after.title})
            self._engine.preload(after.title)
        except SdforgeError as error:
            return {CHECKPOINT: self._choice(self._current()), ANSWER: {"problem": problem(error)}}
        advised = before.recommended if before else Recommended()
        result = form.follow_checkpoint(values, advised, after.recommended)
        return {**result, ANSWER: {"page": self._page_facts(after)}}

    def refresh_checkpoints(self, values: Mapping[str, Any]) -> Values:
        """Look for model files again."""
        self._library.refresh()
        return self.show_checkpoint(values)

    def show_checkpoint(self, values: Mapping[str, Any]) -> Values:
        """Show the checkpoint that the server uses now: somebody else may have changed it."""
        current = self._current()
        return {CHECKPOINT: self._choice(current), ANSWER: {"page": self._page_facts(current)}}

    def read_prompt(self, values: Mapping[str, Any]) -> Values:
        """Take the parameters out of a prompt box that holds a picture's infotext."""
        text = str(values.get("prompt") or "")
        try:
            infotext = parse_infotext(text)
            request = request_from_infotext(infotext)
        except SdforgeError as error:
            return {ANSWER: {"problem": problem(error)}}
        if not infotext.fields:
            note = "The prompt holds no parameters. Paste a picture's whole text, then press again."
            return {ANSWER: {"note": note}}
        result: Values = {
            row.name: getattr(request, row.name)
            for row in form.FORM_FIELDS
            if row.infotext in infotext.fields and row.name not in _NOT_PASTED
        }
        result.update(prompt=infotext.prompt, negative_prompt=infotext.negative_prompt)
        if "Seed" in infotext.fields:
            result[form.SEED_EXTRAS] = bool(
                infotext.fields.keys() & {"Variation seed", "Seed resize from"}
            )
        notes = ["Parameters read.", *_use_known_names(result), *self._other_model(infotext)]
        return {**result, ANSWER: {"note": " ".join(notes)}}

    def count_tokens(self, values: Mapping[str, Any]) -> Values:
        """Count the tokens of both prompts, for the counters in their boxes."""
        counts = {
            name: count_tokens(str(values.get(name) or ""), clip_tokenizer()) for name in PROMPTS
        }
        return {ANSWER: {"tokens": counts}}

    def _other_model(self, infotext: Infotext) -> list[str]:
        current = self._current()
        wanted = infotext.fields.get("Model hash")
        if not wanted or not current or current.short_hash in (None, wanted):
            return []
        name = infotext.fields.get("Model") or "another model"
        return [f"The picture was made with {name} [{wanted}]."]

    def _current(self) -> CheckpointInfo | None:
        return self._find(self._engine.settings.current.sd_model_checkpoint, or_first=True)

    def _find(self, name: str, *, or_first: bool = False) -> CheckpointInfo | None:
        if not name and not or_first:
            return None
        try:
            return self._library.find(name)
        except SdforgeError as error:
            log.debug("no checkpoint %r: %s", name, error)
        return self._find("", or_first=True) if name and or_first else None

    def _choice(self, current: CheckpointInfo | None) -> Choice:
        options = tuple((info.title, info.relative) for info in self._library.checkpoints())
        return Choice(options, current.relative if current else None)

    def _page_facts(self, current: CheckpointInfo | None) -> Values:
        recommended = current.recommended if current else Recommended()
        settings = self._engine.settings.current
        return {
            "checkpoint": current.relative if current else "",
            "title": current.title if current else "",
            "sizes": form.size_presets(recommended),
            "poll_ms": settings.live_preview_refresh_period,
        }


def _use_known_names(values: Values) -> list[str]:
    """Spell names as the lists do; take out those that no list has, with a sentence for each."""
    notes = []
    for name, canonical in (
        ("sampler", SAMPLER_TABLE.canonical),
        ("schedule", SCHEDULE_TABLE.canonical),
    ):
        if name not in values:
            continue
        asked = values.pop(name)
        known = canonical(asked)
        if known is None:
            notes.append(f"{FIELD[name].label} {asked!r} is not known here.")
        else:
            values[name] = known
    return notes


def problem(error: SdforgeError) -> Values:
    """Return an error as the page shows it: a sentence, and the form's field it is about."""
    if isinstance(error, InvalidRequest):
        message, name = form.label_errors(error)
        return {"message": message, "field": name}
    return {"message": error.message, "field": None}


def unexpected(error: Exception, values: Mapping[str, Any]) -> Values:
    """Return the answer to an action that failed by a fault of ours."""
    name = type(error).__name__
    message = f"Something went wrong in the server ({name}); its log has the details."
    return {"task": values.get(TASK_ID), "problem": {"message": message, "field": None}}
