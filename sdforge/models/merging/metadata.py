"""What a merged file says of itself: A1111's `sd_merge_recipe` and `sd_merge_models`, and more.

Both are JSON texts among the metadata; models that were merged before bring their own. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdforge.models.merging.plan import MergePlan

# True of the old files' bytes only.
_OF_THE_FILE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash", "sd_merge_recipe",
                "sd_merge_models")  # fmt: skip
_MODELS, _RECIPE = "sd_merge_models", "sd_merge_recipe"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One of the checkpoints that went in."""

    name: str
    sha256: str | None = None
    legacy_hash: str | None = None


def merged_metadata(plan: MergePlan, origins: Sequence[Origin]) -> dict[str, str]:
    """Return the metadata of the new file.

    Args:
        plan: what is written.
        origins: A, B and C, as far as the method uses them.
    """
    merge = plan.merge
    if not merge.save_metadata:
        return {}
    found: dict[str, str] = {"format": "pt"}
    used = plan.headers[: len(origins)]
    if merge.copy_metadata:
        for header in used:
            found |= {k: v for k, v in header.metadata.items() if k not in _OF_THE_FILE}
    found |= merge.metadata
    if merge.add_recipe:
        found[_RECIPE] = json.dumps(_recipe(plan, origins))
        models: dict[str, Any] = {}
        for header, origin in zip(used, origins, strict=True):
            models[origin.sha256 or origin.name] = {
                "name": origin.name,
                "legacy_hash": origin.legacy_hash,
                _RECIPE: _json(header.metadata, _RECIPE),
            }
            earlier = _json(header.metadata, _MODELS)
            models |= earlier if isinstance(earlier, dict) else {}
        found[_MODELS] = json.dumps(models)
    return found


def _recipe(plan: MergePlan, origins: Sequence[Origin]) -> dict[str, Any]:
    merge = plan.merge
    hashes = [origin.sha256 for origin in origins]
    first, second, third = [*hashes, None, None, None][:3]
    return {
        "type": "sdforge",
        "primary_model_hash": first,
        "secondary_model_hash": second,
        "tertiary_model_hash": third,
        "interp_method": merge.method,
        "multiplier": merge.multiplier,
        "save_as_half": merge.precision == "fp16",
        "precision": merge.precision or "as in the files",
        "custom_name": merge.name,
        "config_source": merge.config_from,
        "bake_in_vae": merge.vae or "None",
        "discard_weights": merge.discard,
        "is_inpainting": plan.special == "inpainting",
        "is_instruct_pix2pix": plan.special == "instruct-pix2pix",
    }


def _json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError):
        return None
