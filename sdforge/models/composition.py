"""Which file each network of a model comes from: the checkpoint, and files given beside it.

A checkpoint may lack a VAE and text encoders (Flux, Z-Image); A1111's `sd_vae` and Forge's
`forge_additional_modules` name files that bring them. What a file holds, `parts.py` says; what of
that a family has a place for, the family. Headers only, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.families.base import Family
from sdforge.models.hashes import Stamp
from sdforge.models.opening import open_model
from sdforge.models.parts import Part, parts

_FILES_KEPT = 64
SETTING = "forge_additional_modules"


def files_of(
    family: Family, checkpoint: Path, vae: Path | None = None, modules: Sequence[Path] = ()
) -> dict[str, Path]:
    """Return which file each role of a family comes from; optional ones may have none.

    Args:
        family: of the checkpoint.
        checkpoint: its file.
        vae: a file to take the VAE from, before the checkpoint's own.
        modules: files to take parts from, before all others.

    Raises:
        MissingModel: no file holds some part; says which and what it is usually called. Or a file
            is gone.
        UnsupportedCheckpoint: a module holds nothing that the family has a place for.
    """
    given = {role: path for path in modules for role in _roles(family, path)}
    if vae is not None:
        given.setdefault("vae", vae)
    own = dict.fromkeys(family.roles, checkpoint)
    if family.apart:
        held = {family.role_of(part) for part in _held(checkpoint)}
        own = {role: path for role, path in own.items() if role in held}
    files = own | given
    missing = [role for role in family.roles if role not in files and role not in family.optional]
    if missing:
        raise _lacking(family, checkpoint, missing)
    return {role: files[role] for role in family.roles if role in files}


def _roles(family: Family, path: Path) -> list[str]:
    found = _held(path)
    roles = [role for part in found if (role := family.role_of(part)) and role != "denoiser"]
    if roles:
        return roles
    what = " and ".join(part.label for part in found) or "no VAE and no text encoder"
    wanted = ", ".join(words for words, _ in family.apart.values()) or "a VAE"
    raise UnsupportedCheckpoint(
        f"{path.name} holds {what}, which {family.label} has no place for; it takes {wanted}: "
        f"change {SETTING}"
    )


def _held(path: Path) -> tuple[Part, ...]:
    try:
        return _read(path, Stamp.of(path))
    except OSError as error:
        raise MissingModel(f"{path} cannot be opened: {error.strerror or error}") from error


@lru_cache(maxsize=_FILES_KEPT)
def _read(path: Path, stamp: Stamp) -> tuple[Part, ...]:
    """Look into a file once per state of it; `stamp` is what tells states apart."""
    return parts(open_model(path).layout)


def _lacking(family: Family, checkpoint: Path, missing: Sequence[str]) -> MissingModel:
    words = [family.apart[role][0] if role in family.apart else role for role in missing]
    files = [family.apart[role][1] for role in missing if role in family.apart]
    return MissingModel(
        f"this {family.label} file has no {' and no '.join(words)}: choose {', '.join(files)} "
        f"under VAE / Text Encoder ({SETTING}) for {checkpoint.name}; such files belong into "
        "models/VAE and models/text_encoder"
    )
