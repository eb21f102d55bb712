"""What one tab asks of the server: its form filled, sent as a job, read from a picture's text.

As in `actions.py`: values by name go in and come out, `ANSWER` is for the page's scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import InvalidRequest, SdforgeError, UnknownName
from sdforge.core.fields import FIELD
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest, Recommended
from sdforge.engine.picture_batch import BatchAnswer, submit_batch, submit_control_batch
from sdforge.extensions.catalog import values_of_extensions
from sdforge.output.infotext import Infotext, parse_infotext, request_from_infotext
from sdforge.output.infotext_modules import SAME_CHOICES
from sdforge.postprocess.upscalers import LATENT_MODES, picture_upscaler_names, upscaler_name
from sdforge.sampling.names import SAMPLER_TABLE, SCHEDULE_TABLE
from sdforge.ui import extensions, form, passes
from sdforge.ui.batch import batch_of_form
from sdforge.ui.checkpoints import Checkpoints, Choice
from sdforge.ui.control import pasted_units
from sdforge.ui.fields import named_choices
from sdforge.ui.on_disk import choices_on_disk
from sdforge.ui.overrides import OVERRIDES, choice_of, read_overrides
from sdforge.ui.scripts import asks_for_script, sweep_of_form
from sdforge.ui.sketch import with_sketch

if TYPE_CHECKING:
    from sdforge.engine import Engine
    from sdforge.sweeps.request import SweepRequest
    from sdforge.sweeps.sweeps import Sweeps

ANSWER = "answer"
TASK_ID = "task_id"
# The stored pictures that a job needs, as JSON.
PICTURES = "pictures"
# A1111's own paste leaves the batch alone too: one picture's text says nothing of the others.
PROMPTS = ("prompt", "negative_prompt")
# What the token counters depend on.
COUNTED = (*PROMPTS, "steps", form.STYLES)
UPSCALER = "hires_upscaler"
_NOT_PASTED = ("batch_size", "batch_count")

Values = dict[str, Any]


class TabActions:
    """The actions of one tab over one engine. Errors become answers, so that nothing is lost."""

    def __init__(
        self,
        engine: Engine,
        tab: str,
        checkpoints: Checkpoints,
        sweeps: Sweeps | None = None,
    ) -> None:
        """Take what the tab works on; `tab` is "txt2img" or "img2img"."""
        self.tab = tab
        self._engine = engine
        self._checkpoints = checkpoints
        self._extensions = extensions.of_tab(engine.extensions, tab)
        self._sweeps = sweeps

    def load(self, text: str) -> Values:
        """Fill the form: what this browser remembers, else what the checkpoint recommends."""
        current = self._checkpoints.current()
        recommended = current.recommended if current else Recommended()
        known = self._extensions
        result = form.default_values(recommended, self.tab) | extensions.default_values(known)
        stored, stored_for = form.stored_values(text, self.tab)
        kept = extensions.stored_values(text, known)
        result.update(stored | kept)
        before = self._checkpoints.find(stored_for)
        if before and current and before.path != current.path:
            result.update(form.follow_checkpoint(result, before.recommended, recommended))
        result[form.STYLES] = self._style_choice(result[form.STYLES])
        result[OVERRIDES] = choice_of(read_overrides(result[OVERRIDES]))
        for name in passes.CHECKPOINT_NAMES:
            if name in result:
                result[name] = self._checkpoint_choice(name, result[name])
        if UPSCALER in result:
            result[UPSCALER] = self._upscaler_choice(result[UPSCALER])
        if passes.HIRES_MODULES in result:
            result[passes.HIRES_MODULES] = self._module_choice(result[passes.HIRES_MODULES])
        on_disk = choices_on_disk(self._checkpoints, known, result, kept)
        return result | self._picture_upscalers(result) | on_disk

    def refresh_lists(self, values: Mapping[str, Any]) -> Values:
        """Look for model files again, and offer what there is where they are chosen."""
        self._checkpoints.library.refresh()
        found = {
            name: self._checkpoint_choice(name, values.get(name))
            for name in passes.CHECKPOINT_NAMES
            if name in form.FORM_NAMES[self.tab]
        }
        if UPSCALER in form.FORM_NAMES[self.tab]:
            found[UPSCALER] = self._upscaler_choice(values.get(UPSCALER))
            chosen = form.style_names(values.get(passes.HIRES_MODULES))
            found[passes.HIRES_MODULES] = self._module_choice(chosen)
        return found | choices_on_disk(self._checkpoints, self._extensions, values)

    def refresh_styles(self, values: Mapping[str, Any]) -> Values:
        """Offer the styles that there are now."""
        return {form.STYLES: self._style_choice(form.style_names(values.get(form.STYLES)))}

    def submit(self, values: Mapping[str, Any]) -> Values:
        """Hand the form to the engine as a job with the id that the page made up."""
        task_id = str(values.get(TASK_ID) or "")
        try:
            if self._is_batch(values):
                return self._submit_batch(values, task_id)
            if passes.Pictures.from_text(str(values.get(PICTURES) or "")).control_batches:
                return self._submit_control_batch(values, task_id)
            if asks_for_script(values):
                sweeps, asked = self._sweep(values, self._request(values))
                sweep = sweeps.submit(asked, origin="ui")
                return self._answer(task=task_id, sweep=sweep.id)
            request = self._request(values)
            job = self._engine.submit(request, job_id=task_id or None, origin="ui")
        except SdforgeError as error:
            return self._answer(task=task_id, problem=problem(error))
        return self._answer(task=task_id, accepted=job.id)

    def _is_batch(self, values: Mapping[str, Any]) -> bool:
        return self.tab == passes.IMG2IMG and values.get(passes.MODE) == passes.MODE_BATCH

    def _submit_batch(self, values: Mapping[str, Any], task_id: str) -> Values:
        """Queue a job for each picture of a batch; those that cannot be drawn are named."""
        if asks_for_script(values):
            raise InvalidRequest("Script", "with a batch", "one of both at a time")
        pictures = passes.Pictures.from_text(str(values.get(PICTURES) or ""))
        if pictures.control_batches:
            raise InvalidRequest("ControlNet", "several pictures in a batch", "one of both")
        asked = batch_of_form(values, pictures.batch)

        def make(image: InputImage, mask: InputImage | None) -> GenerationRequest:
            return self._request(values, replace(pictures, init=image, mask=mask))

        answer = submit_batch(self._engine, asked, make, first_id=task_id or None)
        return self._accepted(task_id, answer)

    def _submit_control_batch(self, values: Mapping[str, Any], task_id: str) -> Values:
        """Queue a job for each picture that ControlNet units look at in turn."""
        if asks_for_script(values):
            raise InvalidRequest("Script", "with several pictures of ControlNet", "one of both")
        pictures = self._pictures_of(values)

        def make(images: Mapping[int, InputImage]) -> GenerationRequest:
            units = enumerate(pictures.control)
            control = tuple(
                replace(unit, image=images.get(place, unit.image)) for place, unit in units
            )
            return self._request(values, replace(pictures, control=control))

        batches = pictures.control_batches
        answer = submit_control_batch(self._engine, batches, make, first_id=task_id or None)
        return self._accepted(task_id, answer)

    def _accepted(self, task_id: str, answer: BatchAnswer) -> Values:
        ids = [job.id for job in answer.jobs]
        return self._answer(task=task_id, accepted=ids[0], batch=ids, failures=answer.failures)

    def plan_sweep(self, values: Mapping[str, Any]) -> Values:
        """Say what the form's script would take; nothing is drawn."""
        if not asks_for_script(values):
            return self._answer(plan={})
        try:
            sweeps, asked = self._sweep(values, self._request(values))
            plan = sweeps.dry_run(asked)
        except SdforgeError as error:
            return self._answer(plan={"problem": problem(error)["message"]})
        return self._answer(plan={name: plan[name] for name in ("text", "fits", "notices")})

    def _sweep(
        self, values: Mapping[str, Any], request: GenerationRequest
    ) -> tuple[Sweeps, SweepRequest]:
        limit = self._engine.settings.current.max_sweep_cells
        return sweep_of_form(values, request, self._sweeps, limit)

    def estimate(self, values: Mapping[str, Any]) -> Values:
        """Say what the form would take, for the chip beside Generate; nothing is queued."""
        try:
            found = self._engine.estimate(self._request(values, self._stand_in(values)))
        except SdforgeError as error:
            return self._answer(fit={"problem": problem(error)["message"]})
        return self._answer(fit=found)

    def _stand_in(self, values: Mapping[str, Any]) -> passes.Pictures | None:
        """Return what an estimate takes for the pictures of a batch: all are of the form's size."""
        if not self._is_batch(values):
            return None
        side = int(form.read_value(FIELD["width"], values.get("width")) or 1)
        return passes.Pictures(init=InputImage("", side, side))

    def _request(
        self, values: Mapping[str, Any], pictures: passes.Pictures | None = None
    ) -> GenerationRequest:
        """Return the request that the form means; `pictures` replace those that came with it.

        Raises:
            InvalidRequest: a value cannot be used, or a picture is missing.
        """
        asked = extensions.values_by_extension(values, self._extensions)
        if pictures is None:
            pictures = self._pictures_of(values)
        given = dict(values)
        if pictures.first is not None:
            given["hires"] = True
        return form.request_from_values(given, asked, tab=self.tab, pictures=pictures)

    def _pictures_of(self, values: Mapping[str, Any]) -> passes.Pictures:
        pictures = passes.Pictures.from_text(str(values.get(PICTURES) or ""))
        mode = str(values.get(passes.MODE) or "")
        if mode not in (passes.MODE_SKETCH, passes.MODE_PAINTED_COLOURS):
            return pictures
        alpha = passes.read_extra(passes.MASK_ALPHA, values.get(passes.MASK_ALPHA, 0.0))
        blur = form.read_value(FIELD["mask_blur_x"], values.get("mask_blur_x", 0))
        return with_sketch(self._engine, pictures, mode, transparency=alpha, blur=float(blur))

    def read_prompt(self, values: Mapping[str, Any]) -> Values:
        """Take the parameters out of a prompt box that holds a picture's infotext."""
        text = str(values.get("prompt") or "")
        try:
            infotext = parse_infotext(text)
            request = request_from_infotext(infotext, self._engine.settings.current)
        except SdforgeError as error:
            return self._answer(problem=problem(error))
        if not infotext.fields:
            note = "The prompt holds no parameters. Paste a picture's whole text, then press again."
            return self._answer(note=note)
        result: Values = {
            row.name: getattr(request, row.name)
            for row in form.FORM_FIELDS[self.tab]
            if row.infotext in infotext.fields and row.name not in _NOT_PASTED
        }
        result.update(passes.pasted_values(infotext, request, self.tab))
        if self.tab == passes.IMG2IMG and {"width", "height"} & result.keys():
            result[passes.SIZING] = passes.SIZE_TO
        known = self._extensions
        result.update(extensions.form_values(values_of_extensions(text, known), known))
        result.update(prompt=infotext.prompt, negative_prompt=infotext.negative_prompt)
        result[OVERRIDES] = choice_of(request.overrides)
        # The prompts hold the styles' texts already.
        result[form.STYLES] = []
        if "Seed" in infotext.fields:
            result[form.SEED_EXTRAS] = bool(
                infotext.fields.keys() & {"Variation seed", "Seed resize from"}
            )
        units, unknown = pasted_units(infotext.fields, self._known_controlnet)
        notes = ["Parameters read.", *self._use_known_names(result), *unknown]
        notes += self._other_model(infotext)
        return {**result, **self._answer(note=" ".join(notes), pasted=True, control=units)}

    def count_tokens(self, values: Mapping[str, Any]) -> Values:
        """Count the tokens of both prompts, for the counters in their boxes."""
        steps = values.get("steps")
        counts = {
            name: self._engine.count_tokens(
                str(values.get(name) or ""),
                steps=int(steps) if isinstance(steps, (int, float)) else 1,
                styles=form.style_names(values.get(form.STYLES)),
                is_negative=name == "negative_prompt",
            )
            for name in PROMPTS
        }
        return self._answer(tokens=counts)

    def _answer(self, **message: Any) -> Values:
        return {ANSWER: {"tab": self.tab, **message}}

    def _style_choice(self, chosen: list[str]) -> Choice:
        """Return all styles; chosen ones that are gone are left out."""
        names = [style.name for style in self._engine.styles.styles()]
        return Choice(
            tuple((name, name) for name in names), [name for name in chosen if name in names]
        )

    def _checkpoint_choice(self, name: str, chosen: Any) -> Choice:
        """Return all checkpoints and an entry for none; one that is gone is none."""
        options = (*named_choices(name, []), *self._checkpoints.options())
        known = {value for _, value in options}
        return Choice(options, chosen if chosen in known else "")

    def _upscaler_choice(self, chosen: Any) -> Choice:
        """Return all upscalers of both kinds; one that is gone becomes the default."""
        models = self._engine.library.upscalers
        names = (*LATENT_MODES.names(), *picture_upscaler_names(models))
        known = chosen if chosen in names else FIELD[UPSCALER].default
        return Choice(tuple((name, name) for name in names), known)

    def _module_choice(self, chosen: list[str]) -> Choice:
        """Return all files that bring a VAE or text encoders; without any that is chosen, "same".

        Nothing chosen at all stays so: the checkpoint's own.
        """
        names = (SAME_CHOICES, *(row.name for row in self._engine.library.modules()))
        known = [name for name in chosen if name in names]
        return Choice(
            tuple((name, name) for name in names),
            [SAME_CHOICES] if chosen and not known else known,
        )

    def _picture_upscalers(self, values: Mapping[str, Any]) -> Values:
        """Return what extensions may enlarge pictures with; one that is gone becomes none."""
        names = picture_upscaler_names(self._engine.library.upscalers)
        options = tuple((name, name) for name in names)
        return {
            name: Choice(options, values[name] if values.get(name) in names else names[0])
            for name in extensions.upscaler_widgets(self._extensions)
        }

    def _known_upscaler(self, name: str) -> str | None:
        try:
            return upscaler_name(name, "hr_upscaler", self._engine.library.upscalers)
        except SdforgeError:
            return None

    def _other_model(self, infotext: Infotext) -> list[str]:
        current = self._checkpoints.current()
        wanted = infotext.fields.get("Model hash")
        if not wanted or not current or current.short_hash in (None, wanted):
            return []
        name = infotext.fields.get("Model") or "another model"
        return [f"The picture was made with {name} [{wanted}]."]

    def _use_known_names(self, values: Values) -> list[str]:
        """Spell names as the lists do; drop those that no list has, with a sentence for each."""
        notes = []
        tables: Mapping[str, Callable[[str], str | None]] = {
            "sampler": SAMPLER_TABLE.canonical,
            "schedule": SCHEDULE_TABLE.canonical,
            "hires_sampler": SAMPLER_TABLE.canonical,
            "hires_schedule": SCHEDULE_TABLE.canonical,
            UPSCALER: self._known_upscaler,
            **dict.fromkeys(passes.CHECKPOINT_NAMES, self._known_checkpoint),
        }
        for name, canonical in tables.items():
            # Empty stands for "as in the first pass".
            if not values.get(name):
                continue
            asked = values.pop(name)
            known = canonical(asked)
            if known is None:
                notes.append(f"{FIELD[name].label} {asked!r} is not known here.")
            else:
                values[name] = known
        if passes.REFINER_ON in values and not values.get("refiner"):
            values[passes.REFINER_ON] = False
        if passes.HIRES_MODULES in values:
            notes += self._use_known_modules(values)
        return notes

    def _known_controlnet(self, name: str) -> str | None:
        try:
            return self._checkpoints.library.controlnets.find(name).name
        except SdforgeError:
            return None

    def _use_known_modules(self, values: Values) -> list[str]:
        """Name the second pass's files as the list does; without one of them it has the first's."""
        asked = values.pop(passes.HIRES_MODULES)
        if SAME_CHOICES not in asked:
            try:
                asked = [file.name for file in self._engine.library.find_modules(asked)]
            except UnknownName as error:
                values[passes.HIRES_MODULES] = [SAME_CHOICES]
                return [f"{passes.HIRES_MODULES_LABEL} {error.name!r} is not known here."]
        values[passes.HIRES_MODULES] = asked
        return []

    def _known_checkpoint(self, name: str) -> str | None:
        found = self._checkpoints.find(name)
        return found.relative if found else None


def problem(error: SdforgeError) -> Values:
    """Return an error as the page shows it: a sentence, and the form's field it is about."""
    if isinstance(error, InvalidRequest):
        message, name = form.label_errors(error)
        return {"message": message, "field": name}
    return {"message": error.message, "field": None}
