"""What a merge of checkpoints is: which, how they are mixed, and how the result is saved.

A request with `merge` draws nothing; it makes a checkpoint. Field names in errors are A1111's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sdforge.core.errors import InvalidRequest

NO_INTERPOLATION, WEIGHTED_SUM, ADD_DIFFERENCE = METHODS = (
    "No interpolation", "Weighted sum", "Add difference",
)  # fmt: skip
# "" leaves numbers as the files have them.
PRECISIONS = ("", "fp32", "fp16", "bf16", "fp8")
# A1111's "Copy config from": the first that has one, B's, C's, none.
CONFIG_FROM_ANY, CONFIG_FROM_B, CONFIG_FROM_C, NO_CONFIG = range(4)
SUFFIX = ".safetensors"

_LONGEST_NAME_BYTES = 180
_LONGEST_PATTERN = 300
_MOST_REPEATS = 2
_MOST_METADATA = 2_000_000
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]+')
_WINDOWS_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """One merge, with A1111's meanings.

    Attributes:
        primary: name of checkpoint A.
        secondary: of B; "" where the method needs none.
        tertiary: of C.
        method: one of `METHODS`: A as it is, A·(1 − M) + B·M, or A + (B − C)·M.
        multiplier: M, 0 to 1.
        precision: one of `PRECISIONS`; fp8 is for the denoiser's large weights, the rest is fp16.
        vae: name of a VAE to put in; "" or "None" for none.
        discard: regular expression; tensors whose names it finds are left out.
        name: of the new file; "" makes one from the others'.
        overwrite: whether a file of that name may be replaced, unless it is one that goes in.
        config_from: whose .yaml file is copied beside the new file.
        save_metadata: whether the file has any.
        copy_metadata: whether those of A, B and C go in.
        add_recipe: whether they say what was merged.
        metadata: further ones.
    """

    primary: str
    secondary: str = ""
    tertiary: str = ""
    method: str = WEIGHTED_SUM
    multiplier: float = 0.3
    precision: str = ""
    vae: str = ""
    discard: str = ""
    name: str = ""
    overwrite: bool = False
    config_from: int = CONFIG_FROM_ANY
    save_metadata: bool = True
    copy_metadata: bool = True
    add_recipe: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The checkpoints that the method uses, A first."""
        count = {NO_INTERPOLATION: 1, WEIGHTED_SUM: 2}.get(self.method, 3)
        return (self.primary, self.secondary, self.tertiary)[:count]

    @property
    def bakes_vae(self) -> bool:
        """Whether another VAE goes in."""
        return self.vae.strip().casefold() not in ("", "none")

    def check(self) -> None:
        """Raise `InvalidRequest`, by A1111's field names, unless every value can be used."""
        if self.method not in METHODS:
            raise InvalidRequest("interp_method", self.method, ", ".join(METHODS))
        for letter, field_name, name in zip("ABC", _MODEL_FIELDS, self.names, strict=False):
            if not name.strip():
                wanted = f"the name of a checkpoint; {self.method} needs {letter}"
                raise InvalidRequest(field_name, name, wanted)
        if not (math.isfinite(self.multiplier) and 0 <= self.multiplier <= 1):
            raise InvalidRequest("multiplier", self.multiplier, "a number from 0 to 1")
        if self.precision not in PRECISIONS:
            allowed = f"{', '.join(PRECISIONS[1:])}, or nothing to keep it"
            raise InvalidRequest("precision", self.precision, allowed)
        if not CONFIG_FROM_ANY <= self.config_from <= NO_CONFIG:
            raise InvalidRequest("config_source", self.config_from, "0 (A, B or C), 1, 2 or 3")
        if sum(map(len, (*self.metadata, *self.metadata.values()))) > _MOST_METADATA:
            raise InvalidRequest("metadata_json", "text", f"at most {_MOST_METADATA} characters")
        discard_pattern(self.discard)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `from_json` is the inverse."""
        return asdict(self) | {"metadata": dict(self.metadata)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Merge:
        """Build it from `to_json`'s result; keys of other versions are left out."""
        known = {row.name for row in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


_MODEL_FIELDS = ("primary_model_name", "secondary_model_name", "tertiary_model_name")


def discard_pattern(text: str) -> re.Pattern[str] | None:
    """Return the pattern of the tensors to leave out, None for "".

    A client's pattern must not keep the server busy for hours: groups may not be repeated, and
    between two `|` there may be two of `*`, `+` and `{`.

    Raises:
        InvalidRequest: it is no such regular expression.
    """
    if not text:
        return None
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "x", re.sub(r"\\.", "x", text))
    is_slow = re.search(r"\)\s*[*+{]", plain) or any(
        len(re.findall(r"[*+{]", part)) > _MOST_REPEATS for part in plain.split("|")
    )
    has_reference = re.search(r"\\[1-9]|\(\?", text)
    if len(text) > _LONGEST_PATTERN or is_slow or has_reference:
        allowed = (
            f"a regular expression of at most {_LONGEST_PATTERN} characters without repeated "
            f"groups, and with at most {_MOST_REPEATS} of * + {{ between two |"
        )
        raise InvalidRequest("discard_weights", text, allowed)
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidRequest("discard_weights", text, f"a regular expression ({error})") from error


def file_name(text: str) -> str:
    """Return the name of a file in the checkpoint folder, made of what somebody typed.

    What no file system takes becomes "_", folders and endings of model files go.

    Raises:
        InvalidRequest: nothing is left.
    """
    stem = text.strip()
    for suffix in (SUFFIX, ".sft", ".ckpt", ".pt"):
        if stem.casefold().endswith(suffix):
            stem = stem[: -len(suffix)]
    stem = _FORBIDDEN.sub("_", stem).strip(" .")
    if _WINDOWS_NAMES.match(stem):
        stem = f"_{stem}"
    stem = stem.encode("utf-8", "ignore")[:_LONGEST_NAME_BYTES].decode("utf-8", "ignore").rstrip()
    if not stem.strip("_"):
        raise InvalidRequest("custom_name", text, "a name for the new checkpoint")
    return stem + SUFFIX


def usual_name(method: str, multiplier: float, stems: tuple[str, ...]) -> str:
    """Return the name that a merge has when nobody gave one; `stems` are those of A, B and C."""
    share = f"{multiplier:.4g}"
    if method == NO_INTERPOLATION:
        return stems[0]
    if method == WEIGHTED_SUM:
        return f"{1 - multiplier:.4g}({stems[0]}) + {share}({stems[1]})"
    return f"{stems[0]} + {share}({stems[1]} - {stems[2]})"
