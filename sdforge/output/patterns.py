"""File and folder names from A1111's patterns: `[seed]-[prompt_words]`, `[date]`…

A name never leaves its folder and is valid on Linux, macOS and Windows, whatever prompt or pattern
it is made from. Numbers in front of names are `writer.py`'s.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo
from sdforge.core.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_NAME_CHARS = 128
# File systems allow 255 bytes; number, extension and the name of the temporary file need some.
_MAX_NAME_BYTES = 180

_TOKEN = re.compile(r"\[(\w+)((?:<[^<>]*>)*)\]")
_ARGUMENT = re.compile(r"<([^<>]*)>")
_FORBIDDEN = re.compile(r'[#<>:"/\\|?*]')
_NO_LETTERS = re.compile(r"""[\s'"\[\](){}.,;:!?#*/\\<>|+=_-]+""")
_DEVICES = re.compile(r"(?:CON|PRN|AUX|NUL|COM\d|LPT\d)(?:\.|$)", re.IGNORECASE)
_TIMESTAMP = "%Y%m%d%H%M%S"


@dataclass(frozen=True, kw_only=True, eq=False)
class NameSource:
    """What a name can be made from; `pixels` are uint8 (height, width, 3)."""

    info: GenerationInfo
    settings: Settings
    pixels: npt.NDArray[np.uint8]
    now: datetime
    started_at: datetime

    @property
    def request(self) -> GenerationRequest:
        """The job's resolved request."""
        return self.info.request


def expand(pattern: str, source: NameSource) -> str:
    """Return the pattern with its tokens replaced; unknown ones stay as they are.

    A token without meaning for this picture vanishes together with the text before it, so that
    `[seed]-[batch_number]` of a single picture is the seed alone.
    """
    parts: list[str] = []
    position = 0
    for match in _TOKEN.finditer(pattern):
        before = pattern[position : match.start()]
        position = match.end()
        token = _TOKENS.get(match[1].lower())
        value = token(source, _ARGUMENT.findall(match[2])) if token else match[0]
        if value is not None:
            parts += (before, value)
    return "".join((*parts, pattern[position:]))


def file_stem(pattern: str, source: NameSource) -> str:
    """Return a file name without number and extension; it may be empty."""
    return clean_name(expand(pattern, source))


def folder_parts(pattern: str, source: NameSource) -> PurePosixPath:
    """Return a relative folder; slashes in the pattern make sub-folders, `..` counts nothing."""
    names = (clean_name(name) for name in re.split(r"[/\\]", expand(pattern, source)))
    return PurePosixPath(*(name for name in names if name))


def clean_name(text: str, *, keep_spaces: bool = True) -> str:
    """Return text as one part of a path: no separators, controls, leading dots, device names."""
    text = "".join(mark if mark.isprintable() else "_" for mark in _FORBIDDEN.sub("_", text))
    if not keep_spaces:
        text = text.replace(" ", "_")
    text = text.lstrip(". ")[:MAX_NAME_CHARS]
    text = text.encode()[:_MAX_NAME_BYTES].decode(errors="ignore").rstrip(". ")
    return f"_{text}" if _DEVICES.match(text) else text


Token = Callable[[NameSource, list[str]], str | None]


def _number(arguments: list[str], default: int) -> int:
    return int(arguments[0]) if arguments and arguments[0].isdecimal() else default


def _text_hash(text: str, arguments: list[str]) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[: _number(arguments, 8)]


def _image_hash(source: NameSource, arguments: list[str]) -> str:
    return hashlib.sha256(source.pixels.tobytes()).hexdigest()[: _number(arguments, 64)]


def _moment(source: NameSource, arguments: list[str]) -> str:
    """`[datetime<format><time zone>]`; an unknown zone or bad format counts as not given."""
    moment = source.now
    if len(arguments) > 1:
        try:
            moment = moment.astimezone(ZoneInfo(arguments[1]))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            moment = source.now
    try:
        return clean_name(moment.strftime(arguments[0] if arguments else _TIMESTAMP))
    except ValueError:
        return moment.strftime(_TIMESTAMP)


def _words(source: NameSource, _: list[str]) -> str:
    words = [word for word in _NO_LETTERS.split(source.info.prompt) if word]
    limit = source.settings.directories_max_prompt_words
    return clean_name(" ".join(words[:limit])) or "empty"


def _has_prompt(source: NameSource, arguments: list[str]) -> str | None:
    """`[hasprompt<girl><boy|nobody>]`: each word if the prompt holds it, else what follows |."""
    prompt = source.info.prompt.lower()
    found = ""
    for argument in arguments:
        word, _, otherwise = argument.partition("|")
        found += word if word.lower() in prompt else otherwise
    return clean_name(found) if arguments else None


def _sampler_and_schedule(source: NameSource, _: list[str]) -> str:
    schedule = source.request.schedule
    words = source.request.sampler if schedule == "Automatic" else (
        f"{source.request.sampler} {schedule}"
    )  # fmt: skip
    return clean_name(words, keep_spaces=False)


def _if_batched(source: NameSource, value: int) -> str | None:
    return str(value) if source.request.batch_size > 1 else None


def _vae(source: NameSource, _: list[str]) -> str:
    return clean_name(source.info.model.vae_name or "NoneType", keep_spaces=False)


# fmt: off
_TOKENS: dict[str, Token] = {
    "seed": lambda s, _: str(s.info.seed),
    "seed_first": lambda s, _: str(s.request.image_seed(0)),
    "seed_last": lambda s, _: _if_batched(s, s.request.image_seed(s.request.image_count - 1)),
    "steps": lambda s, _: str(s.request.steps),
    "cfg": lambda s, _: str(s.request.cfg_scale),
    "width": lambda s, _: str(s.pixels.shape[1]),
    "height": lambda s, _: str(s.pixels.shape[0]),
    "styles": lambda s, _: clean_name(", ".join(s.request.styles)) or "None",
    "sampler": lambda s, _: clean_name(s.request.sampler, keep_spaces=False),
    "scheduler": lambda s, _: clean_name(s.request.schedule, keep_spaces=False),
    "sampler_scheduler": _sampler_and_schedule,
    "model_hash": lambda s, _: s.info.model.short_hash or "",
    "model_name": lambda s, _: clean_name(s.info.model.name, keep_spaces=False),
    "vae_filename": _vae,
    "date": lambda s, _: s.now.strftime("%Y-%m-%d"),
    "datetime": _moment,
    "job_timestamp": lambda s, _: s.started_at.strftime(_TIMESTAMP),
    "prompt": lambda s, _: clean_name(s.info.prompt, keep_spaces=False),
    "prompt_no_styles": lambda s, _: clean_name(
        s.request.prompt if s.request.styles else s.info.prompt, keep_spaces=False
    ),
    "prompt_spaces": lambda s, _: clean_name(s.info.prompt),
    "prompt_words": _words,
    "prompt_hash": lambda s, a: _text_hash(s.info.prompt, a),
    "negative_prompt_hash": lambda s, a: _text_hash(s.info.negative_prompt, a),
    "full_prompt_hash": lambda s, a: _text_hash(f"{s.info.prompt} {s.info.negative_prompt}", a),
    "hasprompt": _has_prompt,
    "batch_number": lambda s, _: _if_batched(s, s.info.index % s.request.batch_size + 1),
    "batch_size": lambda s, _: str(s.request.batch_size),
    "generation_number": lambda s, _: str(s.info.index + 1) if s.request.image_count > 1 else None,
    "clip_skip": lambda s, _: str(s.info.clip_skip),
    "image_hash": _image_hash,
    "denoising": lambda s, _: None,
    "user": lambda s, _: None,
    "none": lambda s, _: "",
}
# fmt: on
