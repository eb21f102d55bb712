"""How a picture was made, as the text that A1111 and its relatives write into picture files.

Written and read here; where in a file the text lies is `metadata.py`'s. What we write can be read
back without loss: numbers print as they are stored (a CFG scale of 7.0 as `7.0`, the form of
A1111's API), any value that the reader could take for something else is quoted, and a prompt that
itself holds a line "Negative prompt:" is marked by its number of lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.fields import FIELD, FIELDS, Field
from sdforge.core.option import Option
from sdforge.core.request import DEFAULT_DISTILLED_CFG_SCALE, GenerationRequest
from sdforge.core.result import GenerationInfo, Processed
from sdforge.core.settings import OPTIONS, Settings
from sdforge.output.infotext_modules import module_overrides, module_parameters
from sdforge.output.infotext_passes import (
    WRITTEN_HERE,
    face_parameters,
    is_tiled,
    pass_parameters,
    pass_values,
    strength_of,
)

_NEGATIVE = "Negative prompt:"
# Our own key, see the module's docstring.
_PROMPT_LINES = "Prompt lines"
# Fewer pairs than this in the last line, and it is part of the prompt.
FEWEST_PAIRS = 3

_PAIR = re.compile(r"[^\w,]*(\w[\w \-/]+):\s*")
_SIZE = re.compile(r"\s*(\d+)\s*[x×]\s*(\d+)\s*")
_JSON = json.JSONDecoder(strict=False)

# These take their eta from the setting `eta_ddim`, all others from `eta_ancestral`.
_DDIM_SAMPLERS = ("DDIM", "DDIM CFG++", "PLMS", "UniPC")
# Before A1111 1.9 the schedule was the last word of the sampler's name.
_MERGED_SCHEDULES = ("Karras", "Exponential")
# Options that are request fields, or that are written from the result rather than the settings.
_WRITTEN_APART = frozenset(
    ("sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers", "eta_ddim", "eta_ancestral",
     "s_churn", "s_tmin", "s_tmax", "s_noise", "s_min_uncond", "eta_noise_seed_delta",
     "randn_source", *WRITTEN_HERE)
)  # fmt: skip
# Of a key the field reads whether, and this setting which.
_WHICH = ("face_restoration_model",)
# Of these the sampler takes the setting if it is not the default one, else the request's value.
_SETTING_BEATS_FIELD = ("s_churn", "s_tmin", "s_tmax", "s_noise")


@dataclass(frozen=True, kw_only=True)
class Infotext:
    """A parsed infotext: the prompts, and the keys of its last line in order, unquoted."""

    prompt: str = ""
    negative_prompt: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


# --- writing ----------------------------------------------------------------------------------


def write_infotext(info: GenerationInfo, settings: Settings) -> str:
    """Return the infotext of one picture; `settings` is the job's snapshot, overrides included."""
    return joined_infotext(info.prompt, info.negative_prompt, _parameters(info, settings))


def joined_infotext(prompt: str, negative: str, fields: Mapping[str, Any]) -> str:
    """Return the infotext of two prompts and some fields; those that are None are left out."""
    prompt, negative, parameters = prompt.strip(), negative.strip(), dict(fields)
    if _holds_marker(prompt) or _holds_marker(negative):
        parameters[_PROMPT_LINES] = prompt.count("\n") + 1 if prompt else 0
    lines = [prompt] if prompt else []
    if negative:
        lines.append(f"{_NEGATIVE} {negative}")
    pairs = ((key, value) for key, value in parameters.items() if value is not None)
    lines.append(", ".join(f"{key}: {_quote(value)}" for key, value in pairs))
    return "\n".join(lines)


def processed_text(processed: Processed) -> str:
    """Return what extras did to a picture, as one line."""
    return ", ".join(f"{key}: {_quote(value)}" for key, value in processed.steps.items())


def with_processing(processed: Processed) -> str:
    """Return what a picture said before and, at its end, what extras did to it."""
    return ", ".join(filter(None, (processed.infotext.strip(), processed_text(processed))))


def _parameters(info: GenerationInfo, settings: Settings) -> dict[str, Any]:
    """Return the keys of the last line in A1111's order; those with None are not written."""
    request, model = info.request, info.model
    varied = bool(request.subseed_strength)
    resized = request.seed_resize_from_w > 0 and request.seed_resize_from_h > 0
    distilled = request.distilled_cfg_scale
    with_hash, with_name = settings.add_model_hash_to_info, settings.add_model_name_to_info
    values: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": request.sampler,
        "Schedule type": request.schedule,
        "CFG scale": request.cfg_scale,
        "Distilled CFG Scale": (
            None if distilled in (None, DEFAULT_DISTILLED_CFG_SCALE) else distilled
        ),
        "Seed": info.seed,
        **face_parameters(request, settings),
        "Size": f"{request.width}x{request.height}" if request.width and request.height else None,
        "Model hash": model.short_hash if with_hash else None,
        "Model": (model.name or None) if with_name else None,
        "VAE hash": model.vae_sha256[:10] if with_hash and model.vae_sha256 else None,
        "VAE": model.vae_name if with_name else None,
        "Variation seed": info.subseed if varied else None,
        "Variation seed strength": request.subseed_strength if varied else None,
        "Seed resize from": (
            f"{request.seed_resize_from_w}x{request.seed_resize_from_h}" if resized else None
        ),
        "Denoising strength": strength_of(request),
        "Clip skip": info.clip_skip if info.clip_skip > 1 else None,
        "ENSD": settings.eta_noise_seed_delta or None,
        "RNG": settings.randn_source if settings.randn_source != "GPU" else None,
        "Tiling": is_tiled(request, settings) or None,
        **pass_parameters(info, settings),
        **_sampler_options(request, settings),
        **info.extra,
    }
    if settings.add_version_to_infotext and info.version:
        values["Version"] = f"sdforge-{info.version}"
    return values | module_parameters(settings)


def _sampler_options(request: GenerationRequest, settings: Settings) -> dict[str, Any]:
    """Return the values in force, except where nobody asked for another than the default."""
    values: dict[str, Any] = {}
    eta_option = OPTIONS["eta_ddim" if request.sampler in _DDIM_SAMPLERS else "eta_ancestral"]
    if request.eta is not None:
        values[str(FIELD["eta"].infotext)] = request.eta
    else:
        values[str(eta_option.infotext)] = _unless_default(eta_option, settings)
    least = request.s_min_uncond
    values[str(FIELD["s_min_uncond"].infotext)] = (
        _unless_default(OPTIONS["s_min_uncond"], settings) if least is None else least or None
    )
    for name in _SETTING_BEATS_FIELD:
        setting = _unless_default(OPTIONS[name], settings)
        values[str(FIELD[name].infotext)] = getattr(request, name) if setting is None else setting
    for option in OPTIONS.values():
        if option.infotext and option.key not in _WRITTEN_APART:
            values[option.infotext] = _unless_default(option, settings)
    return values


def _unless_default(option: Option, settings: Settings) -> Any:
    value = getattr(settings, option.key)
    return None if value == option.default else value


def _quote(value: object) -> str:
    """Return a value as the reader needs it: JSON-quoted where it could be mistaken."""
    text = str(value)
    ambiguous = text[:1] in ('"', "[", "{") or text != text.strip()
    if ambiguous or any(mark in text for mark in ",:\n"):
        return json.dumps(text, ensure_ascii=False)
    return text


def _holds_marker(prompt: str) -> bool:
    return any(line.strip().startswith(_NEGATIVE) for line in prompt.split("\n"))


# --- reading ----------------------------------------------------------------------------------


def parse_infotext(text: str) -> Infotext:
    """Return the parts of an infotext; any text is accepted, at worst all of it is prompt."""
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < FEWEST_PAIRS:
        lines, pairs = [*lines, last], []
    values = dict(pairs)
    prompt, negative = _split_prompts(lines, values.pop(_PROMPT_LINES, ""))
    return Infotext(prompt=prompt, negative_prompt=negative, fields=values)


def _split_prompts(lines: list[str], prompt_lines: str) -> tuple[str, str]:
    starts = (n for n, line in enumerate(lines) if line.strip().startswith(_NEGATIVE))
    split = int(prompt_lines) if prompt_lines.isdecimal() else next(starts, len(lines))
    negative = "\n".join(lines[split:]).strip().removeprefix(_NEGATIVE)
    return "\n".join(lines[:split]).strip(), negative.strip()


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Yield keys and unquoted values; what lies between commas and is no pair is skipped."""
    position = 0
    while position < len(line):
        match = _PAIR.match(line, position)
        if match is None:
            comma = line.find(",", position)
            position = len(line) if comma < 0 else comma + 1
            continue
        value, position = _value_at(line, match.end())
        yield match[1].strip(), value


def _value_at(line: str, start: int) -> tuple[str, int]:
    """Return the value that begins at `start`, and where the next pair begins."""
    if line[start : start + 1] in ('"', "[", "{"):
        try:
            decoded, end = _JSON.raw_decode(line, start)
        except (ValueError, RecursionError):
            end = start
        rest = line.find(",", end)
        rest = len(line) if rest < 0 else rest
        if end > start and not line[end:rest].strip():
            # Lists and objects (Civitai's resources) stay as they were written.
            value = decoded if isinstance(decoded, str) else line[start:end]
            return value, rest + 1
    comma = line.find(",", start)
    end = len(line) if comma < 0 else comma
    return line[start:end].strip(), end + 1


# --- to a request -----------------------------------------------------------------------------


def request_from_infotext(infotext: Infotext, current: Settings | None = None) -> GenerationRequest:
    """Return the request that makes the picture again; what cannot be used is left out.

    The model named becomes `checkpoint`. Keys that are settings go into `overrides`; with
    `current` only those whose value differs from it, including those that the text leaves out
    because the picture was made with their default.
    """
    fields = _modernised(infotext.fields)
    values: dict[str, Any] = {
        "prompt": infotext.prompt,
        "negative_prompt": infotext.negative_prompt,
        "checkpoint": fields.get("Model") or fields.get("Model hash") or "",
        **pass_values(fields),
    }
    pairs = {"Size": ("width", "height"), "Hires resize": ("hires_width", "hires_height"),
             "Seed resize from": ("seed_resize_from_w", "seed_resize_from_h")}  # fmt: skip
    for key, (first, second) in pairs.items():
        if match := _SIZE.fullmatch(fields.get(key, "")):
            _take(values, FIELD[first], match[1])
            _take(values, FIELD[second], match[2])
    for row in FIELDS:
        if row.name not in values and row.infotext in fields and row.infotext not in pairs:
            _take(values, row, fields[row.infotext])
    overrides = _setting_overrides(fields, current) if fields else {}
    overrides |= module_overrides(fields, current) if fields else {}
    return GenerationRequest(**values, overrides=overrides)


def _modernised(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields with the spellings of older versions replaced by today's."""
    values = dict(fields)
    sampler, _, schedule = values.get("Sampler", "").rpartition(" ")
    if schedule in _MERGED_SCHEDULES:
        values["Sampler"] = sampler
        values.setdefault("Schedule type", schedule)
    elif values.get("Sampler") == "Undefined":  # Civitai, where it does not know
        del values["Sampler"]
    first_pass = _SIZE.fullmatch(values.get("First pass size", ""))
    if first_pass and int(first_pass[1]) and int(first_pass[2]):
        values["Hires resize"] = values.get("Size", "")
        values["Size"] = values.pop("First pass size")
    return values


def _take(values: dict[str, Any], row: Field, text: str) -> None:
    """Add the value of a field if it is one that a request may have."""
    try:
        number = float(text) if row.kind in (int, float) else text
        # Some programs write whole numbers as 20.0.
        value = int(number) if row.kind is int and number == int(number) else number
        row.check(value)
    except (ValueError, OverflowError, InvalidRequest):
        return
    values[row.name] = value


def _setting_overrides(fields: Mapping[str, str], current: Settings | None) -> dict[str, Any]:
    request_keys = {row.infotext for row in FIELDS if row.infotext in fields}
    overrides: dict[str, Any] = {}
    for option in OPTIONS.values():
        if not option.infotext or option.key == "sd_model_checkpoint":
            continue
        if option.infotext in request_keys and option.key not in _WHICH:
            changed = current is not None and _unless_default(option, current) is not None
            if changed and option.key in _SETTING_BEATS_FIELD:
                overrides[option.key] = option.default
            continue
        text = fields.get(option.infotext)
        if text is None and (current is None or option.key in ("sd_vae", *_WHICH)):
            continue
        try:
            value = option.coerce(text)
        except InvalidRequest:
            continue
        if current is None or value != getattr(current, option.key):
            overrides[option.key] = value
    return overrides


# What A1111's parser fills in for keys that the text leaves out.
_FILL_INS = {
    "Clip skip": "1",
    "Hires resize-1": "0",
    "Hires resize-2": "0",
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": "32",
    "RNG": "GPU",
    "Schedule type": "Automatic",
    "Schedule max sigma": "0",
    "Schedule min sigma": "0",
    "Schedule rho": "0",
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "FP8 weight": "Disable",
    "Refiner switch by sampling steps": "False",
}


def a1111_parameters(infotext: Infotext) -> dict[str, str]:
    """Return the fields as A1111's `/sdapi/v1/png-info` does: all text, sizes split, filled in."""
    values: dict[str, str] = {}
    for key, value in _modernised(infotext.fields).items():
        if size := _SIZE.fullmatch(value):
            values[f"{key}-1"], values[f"{key}-2"] = size[1], size[2]
        else:
            values[key] = value
    prompt = infotext.prompt
    if network := values.get("Hypernet"):
        prompt += f"<hypernet:{network}:{values.get('Hypernet strength', '1.0')}>"
    values["Prompt"], values["Negative prompt"] = prompt, infotext.negative_prompt
    weighted = any(mark in prompt + infotext.negative_prompt for mark in "()[]")
    return _FILL_INS | ({"Emphasis": "Original"} if weighted else {}) | values
