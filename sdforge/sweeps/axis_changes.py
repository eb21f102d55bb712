"""What values of axes do to a request, and how their values are checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sdforge.core.errors import InvalidRequest, UnknownName
from sdforge.core.extension import Extension, complete_values, typed_value
from sdforge.core.fields import Field
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import OPTIONS
from sdforge.sampling.names import SAMPLER_TABLE, SCHEDULE_TABLE, resolve_sampler
from sdforge.sweeps.axis import Apply, Catalog, Value, one_of

_LORA_TAG = re.compile(r"<(lora|lyco):([^:>]+)((?::[^>]*)?)>", re.IGNORECASE)
# A1111's switch and Forge's name for what it does; SDXL alone is told apart by no setting of ours.
_FP8 = {"disable": "Automatic", "enable": "float8-e4m3fn"}


def nothing(request: GenerationRequest, value: Value, values: Sequence[Value]) -> GenerationRequest:
    """Change nothing."""
    return request


def to_field(name: str) -> Apply:
    """Return what sets a row of `core.fields`."""

    def apply(request: GenerationRequest, value: Value, _: Sequence[Value]) -> GenerationRequest:
        return replace(request, **{name: value})

    return apply


def to_setting(key: str) -> Apply:
    """Return what sets a setting for the one job."""

    def apply(request: GenerationRequest, value: Value, _: Sequence[Value]) -> GenerationRequest:
        return replace(request, overrides={**request.overrides, key: value})

    return apply


def to_extension(name: str, field: str) -> Apply:
    """Return what sets a value of an extension, and switches it on."""

    def apply(request: GenerationRequest, value: Value, _: Sequence[Value]) -> GenerationRequest:
        values = {"enabled": True, **request.extensions.get(name, {}), field: value}
        return replace(request, extensions={**request.extensions, name: values})

    return apply


def to_face_restorer(
    request: GenerationRequest, value: Value, _: Sequence[Value]
) -> GenerationRequest:
    """Set whether faces are restored, and by what."""
    request = replace(request, restore_faces=value != "None")
    if value in ("None", "True"):
        return request
    overrides = {**request.overrides, "face_restoration_model": value}
    return replace(request, overrides=overrides)


def check_face_restorer(_: Catalog, value: Value) -> Value:
    """Return the one spelling of a restorer; A1111 takes every other text for none."""
    text = str(value).strip().casefold()
    if text in ("true", "yes", "y", "1"):
        return "True"
    if text in ("false", "no", "n", "0", ""):
        return "None"
    return one_of("Face restore", str(value), ("CodeFormer", "GFPGAN", "None"))


def to_noise_multiplier(
    request: GenerationRequest, value: Value, _: Sequence[Value]
) -> GenerationRequest:
    """Set the first noise's scale; txt2img has it as a setting, for its second pass."""
    if request.init_images:
        return replace(request, initial_noise_multiplier=value)
    overrides = {**request.overrides, "initial_noise_multiplier": value}
    return replace(request, overrides=overrides)


def to_size(request: GenerationRequest, value: Value, _: Sequence[Value]) -> GenerationRequest:
    """Set width and height."""
    width, height = value
    return replace(request, width=width, height=height)


def add_styles(request: GenerationRequest, value: Value, _: Sequence[Value]) -> GenerationRequest:
    """Append styles, several with commas between."""
    added = tuple(name.strip() for name in str(value).split(",") if name.strip())
    return replace(request, styles=(*request.styles, *added))


def limit_uni_pc_order(
    request: GenerationRequest, value: Value, _: Sequence[Value]
) -> GenerationRequest:
    """Set UniPC's order, below the number of steps (A1111)."""
    order = max(min(value, request.steps - 1), 1)
    return replace(request, overrides={**request.overrides, "uni_pc_order": order})


def replace_text(
    request: GenerationRequest, value: Value, values: Sequence[Value]
) -> GenerationRequest:
    """Replace the axis's first value by another in both prompts.

    Raises:
        InvalidRequest: neither prompt holds the first value.
    """
    wanted = str(values[0])
    if wanted not in request.prompt and wanted not in request.negative_prompt:
        raise InvalidRequest(
            "Prompt S/R",
            wanted,
            "a first value that stands in the prompt or negative prompt: "
            f"Prompt S/R did not find {wanted} in prompt or negative prompt.",
        )
    return replace(
        request,
        prompt=request.prompt.replace(wanted, str(value)),
        negative_prompt=request.negative_prompt.replace(wanted, str(value)),
    )


def reorder_words(
    request: GenerationRequest, value: Value, _: Sequence[Value]
) -> GenerationRequest:
    """Put the words, wherever they first stand in the prompt, into the places in another order.

    Raises:
        InvalidRequest: the prompt lacks a word.
    """
    places = []
    for word in value:
        found = request.prompt.find(word)
        if found < 0:
            raise InvalidRequest("Prompt order", word, "words that stand in the prompt")
        places.append((found, word))
    parts, rest = [], request.prompt
    for _place, word in sorted(places):
        # What has been cut off moved the places.
        before, found_word, rest = rest.partition(word)
        if not found_word:
            raise InvalidRequest("Prompt order", word, "words that do not overlap in the prompt")
        parts.append(before)
    woven = [text for pair in zip(parts, value, strict=True) for text in pair]
    return replace(request, prompt="".join(woven) + rest)


def add_lora(request: GenerationRequest, value: Value, _: Sequence[Value]) -> GenerationRequest:
    """Append a LoRA to the prompt: `name`, `name:weight`, or "None" for none."""
    text = str(value)
    if text.casefold() == "none":
        return request
    tag = text if ":" in text else f"{text}:1"
    return replace(request, prompt=f"{request.prompt} <lora:{tag}>".lstrip())


def weigh_loras(request: GenerationRequest, value: Value, _: Sequence[Value]) -> GenerationRequest:
    """Set the weight of every LoRA in the prompt.

    Raises:
        InvalidRequest: the prompt names none.
    """
    if not _LORA_TAG.search(request.prompt):
        raise InvalidRequest(
            "LoRA weight", value, "used with a prompt, or an axis LoRA, that names a LoRA"
        )
    # Further arguments of a tag (the text encoder's own weight, blocks) would outvote the weight.
    return replace(request, prompt=_LORA_TAG.sub(rf"<\1:\2:{value:g}>", request.prompt))


# --- checks --------------------------------------------------------------------------------------


def check_field(row: Field, label: str) -> Any:
    """Return what checks values of a row of `core.fields`."""

    def check(_: Catalog, value: Value) -> Value:
        try:
            return typed_value(row, value)
        except InvalidRequest as error:
            raise InvalidRequest(label, value, row.allowed()) from error

    return check


def check_setting(key: str, label: str) -> Any:
    """Return what checks values of a setting."""

    def check(_: Catalog, value: Value) -> Value:
        option = OPTIONS[key]
        if option.choices is not None:
            return one_of(label, str(value), option.choices)
        try:
            return option.coerce(value)
        except InvalidRequest as error:
            raise InvalidRequest(label, value, OPTIONS[key].allowed()) from error

    return check


def check_extension(extension: Extension, field: Field, label: str) -> Any:
    """Return what checks values of an extension's field."""

    def check(_: Catalog, value: Value) -> Value:
        try:
            return complete_values(extension, {field.name: value})[field.name]
        except InvalidRequest as error:
            raise InvalidRequest(label, value, field.allowed()) from error

    return check


def check_sampler(label: str) -> Any:
    """Return what checks samplers; the merged names of old clients are kept, in our spelling."""

    def check(_: Catalog, value: Value) -> Value:
        try:
            name, schedule = resolve_sampler(str(value), "")
        except UnknownName as error:
            raise UnknownName("value of " + label, str(value), error.known, label) from error
        plain = SAMPLER_TABLE.canonical(str(value))
        return plain or f"{name} {schedule}"

    return check


def check_schedule(catalog: Catalog, value: Value) -> Value:
    """Return the label of a schedule by any of its names."""
    try:
        return SCHEDULE_TABLE.get(str(value).strip(), "Schedule type").label
    except UnknownName as error:
        known = SCHEDULE_TABLE.names()
        raise UnknownName("value of Schedule type", str(value), known, "Schedule type") from error


def check_checkpoint(label: str, *, or_none: bool = False) -> Any:
    """Return what checks checkpoints; with `or_none`, "None" stands for none."""

    def check(catalog: Catalog, value: Value) -> Value:
        if or_none and str(value).strip().casefold() in ("none", ""):
            return ""
        try:
            return catalog.checkpoint(str(value))
        except UnknownName as error:
            raise UnknownName("checkpoint", str(value), error.known, label) from error

    return check


def check_vae(catalog: Catalog, value: Value) -> Value:
    """Return the listed name of a VAE; "auto" is "Automatic", and suffixes may be left out."""
    folded = str(value).strip().replace("\\", "/").rpartition("/")[2].casefold()
    known = catalog.vaes()
    for name in known:
        if folded in (name.casefold(), name.casefold().rpartition(".")[0]):
            return name
    if folded in ("auto", ""):
        return "Automatic"
    raise UnknownName("value of VAE", str(value), known, "VAE")


def check_styles(catalog: Catalog, value: Value) -> Value:
    """Return a list of styles in their listed spelling."""
    known = {name.casefold(): name for name in catalog.styles()}
    names = [name.strip() for name in str(value).split(",") if name.strip()]
    for name in names:
        if name.casefold() not in known and name.casefold() != "none":
            raise UnknownName("value of Styles", name, known.values(), "Styles")
    return ", ".join(known.get(name.casefold(), name) for name in names)


def check_lora(catalog: Catalog, value: Value) -> Value:
    """Return `name` or `name:weight` with the listed spelling of the name."""
    name, colon, weight = str(value).strip().partition(":")
    known: Mapping[str, str] = {one.casefold(): one for one in ("None", *catalog.loras())}
    if name.strip().casefold() not in known:
        raise UnknownName("value of LoRA", name, known.values(), "LoRA")
    try:
        text = f":{float(weight):g}" if colon else ""
    except ValueError as error:
        raise InvalidRequest("LoRA", value, "a name, or name:weight such as detail:0.8") from error
    return known[name.strip().casefold()] + text


def check_fp8(_: Catalog, value: Value) -> Value:
    """Return the type that A1111's FP8 switch means."""
    found = _FP8.get(str(value).strip().casefold())
    if found is None:
        raise InvalidRequest("FP8 mode", value, "Disable or Enable")
    return found
