"""The names of Z-Image's layers, as its authors write them and as diffusers does.

Checkpoints and LoRA files come in both. The authors hold query, key and value in one matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Beginnings and parts of the authors' names → diffusers'.
STARTS = {"x_embedder.": "all_x_embedder.2-1.", "final_layer.": "all_final_layer.2-1."}
PLACES = {
    ".attention.out.": ".attention.to_out.0.",
    ".attention.q_norm.": ".attention.norm_q.",
    ".attention.k_norm.": ".attention.norm_k.",
}
FUSED = ".attention.qkv."
PARTS = ("to_q", "to_k", "to_v")


def authors_z_image_names(layers: Iterable[str]) -> dict[str, str]:
    """Return the authors' name of each of diffusers' layers that is whole in their files."""
    found = {}
    for layer in layers:
        name = f"{layer}."
        for theirs, ours in STARTS.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
        for theirs, ours in PLACES.items():
            name = name.replace(ours, theirs)
        if name != f"{layer}.":
            found[layer] = name.removesuffix(".")
    return found


def fused_z_image_names(
    rows: Mapping[str, int],
) -> dict[str, list[tuple[str, tuple[int, int, int]]]]:
    """Return, by the authors' name of a fused matrix, its layers and which rows they are.

    Args:
        rows: of the weights of diffusers' layers.

    Returns:
        name → (layer, (first row, row behind the last, rows of the whole)).
    """
    found: dict[str, list[tuple[str, tuple[int, int, int]]]] = {}
    for query in rows:
        lead, _, part = query.rpartition(".")
        layers = [f"{lead}.{one}" for one in PARTS]
        if part != PARTS[0] or not all(layer in rows for layer in layers):
            continue
        total, first = sum(rows[layer] for layer in layers), 0
        parts = found.setdefault(f"{lead}.qkv", [])
        for layer in layers:
            parts.append((layer, (first, first + rows[layer], total)))
            first += rows[layer]
    return found
