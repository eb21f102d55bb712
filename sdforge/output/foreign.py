"""How a picture of another program was made, as the infotext that everything here reads.

ComfyUI, InvokeAI, Fooocus and NovelAI keep JSON of their own in text chunks. What it says that an
infotext has a key for is said; the rest stays where it is. `metadata.py` finds the texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sdforge.output import comfyui, foreign_names
from sdforge.output.infotext import FEWEST_PAIRS, joined_infotext

_FOOOCUS_LORA = re.compile(r"lora_combined_\d+")
_NUMBERS = re.compile(r"\d+")
_LONGEST_JSON = 8 * 2**20
# The graph is walked back from many of its nodes.
_MOST_NODES = 1000
# What the reading of JSON of any shape may raise; all of it means that it is not what it seemed.
_WRONG_SHAPE = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)

Said = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What another program wrote: an infotext, or in `problem` why it cannot be read."""

    program: str
    infotext: str = ""
    problem: str = ""


def foreign_infotext(items: Mapping[str, str]) -> Foreign | None:
    """Return what the texts of a picture file say in another program's way, None without any."""
    for program, finds, reads in _PROGRAMS:
        if text := finds(items):
            return _read(program, text, items, reads)
    return None


def _read(
    program: str,
    text: str,
    items: Mapping[str, str],
    reads: Callable[[Any, Mapping[str, str]], Said],
) -> Foreign:
    if len(text) > _LONGEST_JSON:
        return Foreign(program=program, problem=f"{program}'s data is too long to be read")
    try:
        made = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = str(error) if isinstance(error, json.JSONDecodeError) else "nested too deep"
        return Foreign(program=program, problem=f"{program}'s data is no whole JSON: {what}")
    try:
        prompt, negative, fields = reads(made, items)
    except Unreadable as error:
        return Foreign(program=program, problem=f"{program}'s data {error}")
    except _WRONG_SHAPE:
        problem = f"{program}'s data has a shape that is not known here"
        return Foreign(program=program, problem=problem)
    known = {key: value for key, value in fields.items() if value not in (None, "")}
    if len(known) < FEWEST_PAIRS:
        return Foreign(program=program, problem=f"{program}'s data says too little")
    return Foreign(program=program, infotext=joined_infotext(prompt, negative, known))


class Unreadable(Exception):
    """What a program wrote holds no picture's parameters; the text goes on the program's name."""


# --- ComfyUI ------------------------------------------------------------------------------------


def _comfyui_text(items: Mapping[str, str]) -> str:
    """Return the graph that ran, or what the page saved."""
    for name in ("prompt", "workflow"):
        if items.get(name, "").lstrip().startswith("{"):
            return items[name]
    return ""


def _comfyui(made: Any, items: Mapping[str, str]) -> Said:
    graph = made if comfyui.is_graph(made) else comfyui.graph_of_workflow(made)
    if len(graph) > _MOST_NODES:
        raise Unreadable(f"has {len(graph)} nodes; at most {_MOST_NODES} are read")
    said = comfyui.said_by(graph)
    if said is None:
        kinds = sorted({str(node.get("class_type")) for node in graph.values()})
        raise Unreadable(f"has no sampler that is known here, only {', '.join(kinds[:8])}")
    return said


# --- InvokeAI -----------------------------------------------------------------------------------


def _invoke_text(items: Mapping[str, str]) -> str:
    return items.get("invokeai_metadata") or items.get("sd-metadata") or ""


def _invoke(made: Any, items: Mapping[str, str]) -> Said:
    if "image" in made:
        return _old_invoke(made)
    sampler, schedule = foreign_names.invoke_sampler(str(made.get("scheduler") or "euler"))
    networks = [
        f"<lora:{_invoke_name(one.get('model') or one.get('lora'))}:{one.get('weight', 1)}>"
        for one in made.get("loras") or ()
    ]
    prompt = " ".join(filter(None, (str(made.get("positive_prompt") or ""), *networks)))
    skipped = made.get("clip_skip")
    refiner = _invoke_name(made.get("refiner_model"))
    fields = {
        "Steps": made.get("steps"),
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": made.get("cfg_scale"),
        "Seed": made.get("seed"),
        "Size": _size(made.get("width"), made.get("height")),
        "Model": _invoke_name(made.get("model")),
        "VAE": _invoke_name(made.get("vae")),
        "Denoising strength": made.get("strength"),
        # Theirs counts the layers left out, A1111's the one that is taken from the end.
        "Clip skip": skipped + 1 if isinstance(skipped, int) and skipped > 0 else None,
        "RNG": "CPU" if made.get("rand_device", "cpu") == "cpu" else None,
        "Tiling": True if made.get("seamless_x") and made.get("seamless_y") else None,
        "Refiner": refiner,
        "Refiner switch at": made.get("refiner_start") if refiner else None,
    }
    return prompt, str(made.get("negative_prompt") or ""), fields


def _invoke_name(model: Any) -> str:
    """Return a model's name from any version's way to tell it."""
    if isinstance(model, Mapping):
        model = model.get("name") or model.get("model_name")
    return model if isinstance(model, str) else ""


def _old_invoke(made: Any) -> Said:
    """Read the format before 3.0: the negative prompt stands in brackets within the prompt."""
    image = made["image"]
    parts = image["prompt"]
    text = parts if isinstance(parts, str) else " ".join(str(part["prompt"]) for part in parts)
    against = " ".join(re.findall(r"\[([^\[\]]*)\]", text))
    sampler, schedule = foreign_names.invoke_sampler(str(image.get("sampler") or "k_lms"))
    fields = {
        "Steps": image.get("steps"),
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": image.get("cfg_scale"),
        "Seed": image.get("seed"),
        "Size": _size(image.get("width"), image.get("height")),
        "Model": made.get("model_weights"),
    }
    return re.sub(r"\s*\[[^\[\]]*\]", "", text).strip(), against, fields


# --- Fooocus ------------------------------------------------------------------------------------


def _fooocus_text(items: Mapping[str, str]) -> str:
    text = items.get("parameters", "").strip()
    return text if text.startswith("{") and '"base_model"' in text else ""


def _fooocus(made: Any, items: Mapping[str, str]) -> Said:
    networks = [
        "<lora:{}:{}>".format(*str(value).rsplit(" : ", 1))
        for key, value in made.items()
        if _FOOOCUS_LORA.fullmatch(key) and " : " in str(value)
    ]
    refiner = made.get("refiner_model")
    refiner = None if refiner in (None, "", "None") else refiner
    fields = {
        "Steps": made.get("steps"),
        "Sampler": foreign_names.sampler(str(made.get("sampler") or "")),
        "Schedule type": foreign_names.schedule(str(made.get("scheduler") or "")),
        "CFG scale": made.get("guidance_scale"),
        "Seed": made.get("seed"),
        "Size": _size(*_NUMBERS.findall(str(made.get("resolution")))[:2]),
        "Model hash": made.get("base_model_hash"),
        "Model": made.get("base_model"),
        "RNG": "CPU",
        "Refiner": refiner,
        "Refiner switch at": made.get("refiner_switch") if refiner else None,
    }
    texts = (_fooocus_prompt(made, ""), _fooocus_prompt(made, "negative_"))
    return " ".join(filter(None, (texts[0], *networks))), texts[1], fields


def _fooocus_prompt(made: Mapping[str, Any], side: str) -> str:
    """Return what was drawn, styles and their expansion included, else what was typed."""
    whole = made.get(f"full_{side}prompt")
    if isinstance(whole, list) and whole:
        return ", ".join(str(part).strip() for part in whole if str(part).strip())
    return str(made.get(f"{side}prompt") or "")


# --- NovelAI ------------------------------------------------------------------------------------


def _novelai_text(items: Mapping[str, str]) -> str:
    is_theirs = items.get("Software") == "NovelAI" and "parameters" not in items
    return items.get("Comment", "") if is_theirs else ""


def _novelai(made: Any, items: Mapping[str, str]) -> Said:
    prompt = items.get("Description") or made.get("prompt") or _novelai_caption(made, "v4_prompt")
    against = made.get("uc") or _novelai_caption(made, "v4_negative_prompt")
    # Their first models draw with clip skip 2 and this noise; later ones say a schedule.
    is_old = "noise_schedule" not in made
    fields = {
        "Steps": made["steps"],
        "Sampler": foreign_names.novelai_sampler(str(made["sampler"])),
        "Schedule type": foreign_names.schedule(str(made.get("noise_schedule") or "")),
        "CFG scale": made["scale"],
        "Seed": made["seed"],
        "Size": _size(made["width"], made["height"]),
        "Denoising strength": made.get("strength"),
        "Clip skip": 2 if is_old else None,
        "ENSD": 31337 if is_old else None,
    }
    return str(prompt), str(against), fields


def _novelai_caption(made: Mapping[str, Any], name: str) -> str:
    """Return the texts of the fourth model on: a common one, and one for each character."""
    caption = (made.get(name) or {}).get("caption") or {}
    characters = [one.get("char_caption") for one in caption.get("char_captions") or ()]
    return ", ".join(str(text) for text in (caption.get("base_caption"), *characters) if text)


def _size(width: Any = None, height: Any = None) -> str | None:
    return f"{width}x{height}" if width and height else None


_PROGRAMS: tuple[
    tuple[
        str, Callable[[Mapping[str, str]], str], Callable[[Any, Mapping[str, str]], Said]
    ],
    ...,
] = (
    ("Fooocus", _fooocus_text, _fooocus),
    ("InvokeAI", _invoke_text, _invoke),
    ("NovelAI", _novelai_text, _novelai),
    ("ComfyUI", _comfyui_text, _comfyui),
)  # fmt: skip
