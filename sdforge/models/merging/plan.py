"""What a merge writes, decided from headers: each tensor's name, type, place, sources. No torch.

Names are those of the first checkpoint; the others may write text encoders' names otherwise, or
lack networks, which then stay as the first has them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sdforge.core.errors import InvalidRequest, ModelError, UnsupportedCheckpoint
from sdforge.core.merge import ADD_DIFFERENCE, WEIGHTED_SUM, Merge, discard_pattern
from sdforge.models.architectures import architecture, denoiser_tensors
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.detect import detect
from sdforge.models.formats.ggml_types import BLOCK_TYPES
from sdforge.models.layout import DTYPE_BITS, TensorInfo
from sdforge.models.parts import Part, parts
from sdforge.models.scales import SCALE_ENDINGS

# Which types are numbers that can be mixed, the most precise first.
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E5M2", "F8_E4M3")
_TARGETS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "fp8": "F16"}
_FP8 = "F8_E4M3"
# Smaller weights would save nothing that anybody notices, and pictures suffer most from them.
_FEWEST_FP8_NUMBERS = 4096
_PACKED_ENDINGS = (*SCALE_ENDINGS, ".absmax", ".SCB", ".quant_map", ".comfy_quant")
# A1111 writes the ones, diffusers leaves them out; none of them is a weight.
_TABLES = ("position_ids", "num_updates")
_BARE_CLIP = re.compile(r"(\.transformer\.)(embeddings|encoder|final_layer_norm)\.")
_VAE_NAMES = (
    "encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "conv1.", "conv2.", "bn.",
)  # fmt: skip
_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
# U-Nets that see a mask or a picture besides latents, by their input channels (A1111's rule).
_WIDER_INPUTS = {9: "inpainting", 8: "instruct-pix2pix"}


@dataclass(frozen=True)
class Piece:
    """One tensor of the new file.

    `sources` are (which header, which tensor), A's first: one where it is only copied or converted,
    two for a weighted sum, three where a difference is added. `start` and `end` count bytes from
    the end of the header.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[tuple[int, TensorInfo], ...]
    start: int = 0
    end: int = 0

    @property
    def is_partial(self) -> bool:
        """Whether the others have fewer input channels than A, and reach the first of them only."""
        return len(self.sources) > 1 and _numbers(self.sources[1][1]) != _numbers(
            self.sources[0][1]
        )


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """Everything that is written, and what the user should know of it.

    `headers` are those of A, B and C, as far as the method uses them, and then the VAE's.
    """

    merge: Merge
    headers: tuple[CheckpointHeader, ...]
    family: str
    pieces: tuple[Piece, ...]
    notices: tuple[str, ...]
    special: str = ""

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.pieces[-1].end


def plan_merge(
    merge: Merge, headers: Sequence[CheckpointHeader], vae: CheckpointHeader | None = None
) -> MergePlan:
    """Decide what a merge writes.

    Args:
        merge: what was asked for, checked.
        headers: of the checkpoints that its method uses, under the original names.
        vae: of the VAE to put in.

    Raises:
        UnsupportedCheckpoint: they cannot be merged; says why.
        InvalidRequest: nothing would be left to write.
    """
    for header in (*headers, *([vae] if vae else [])):
        _refuse_packed(header)
    family = _common_family(merge, headers)
    first = headers[0]
    counterparts = [_by_plain_name(header) for header in headers[1:]]
    _refuse_other_layouts(first, headers[1:], counterparts)
    pieces = []
    unmatched: list[str] = []
    for name, info in first.tensors.items():
        others = [names.get(_plain(name)) for names in counterparts]
        sources = _sources(merge, name, info, others, headers)
        if len(headers) > 1 and others[0] is None and _is_weight(name, info):
            unmatched.append(name)
        pieces.append(Piece(name, _kept_type(sources), info.shape, sources))
    notices = _missing_notice(unmatched, headers[1]) if unmatched else ()
    if vae is not None:
        pieces = _with_vae(pieces, first, vae, place=len(headers))
    pattern = discard_pattern(merge.discard)
    if pattern is not None:
        pieces = [piece for piece in pieces if not pattern.search(piece.name)]
    if not pieces:
        raise InvalidRequest("discard_weights", merge.discard, "a pattern that leaves something")
    shape = first.shape(_INPUT)
    return MergePlan(
        merge=merge,
        headers=(*headers, *([vae] if vae else [])),
        family=family,
        pieces=_placed([_saved(piece, merge.precision, first) for piece in pieces]),
        notices=notices,
        special=_WIDER_INPUTS.get(shape[1], "") if shape and len(shape) == 4 else "",
    )


def _refuse_packed(header: CheckpointHeader) -> None:
    for name, info in header.tensors.items():
        if info.dtype in BLOCK_TYPES:
            kind = f"GGUF blocks ({info.dtype})"
        elif info.four_bit is not None:
            kind = f"4-bit numbers ({info.dtype})"
        elif name.endswith(_PACKED_ENDINGS):
            kind = f"packed numbers ({name} says so)"
        else:
            continue
        raise UnsupportedCheckpoint(
            f"{header.path.name} cannot be merged: its weights are {kind}; take the fp16 file of "
            "this model"
        )


def _common_family(merge: Merge, headers: Sequence[CheckpointHeader]) -> str:
    found = []
    for header in headers:
        kind = architecture(header.layout)
        if kind is None:
            detect(header)
            raise UnsupportedCheckpoint(f"{header.path.name} holds no denoiser to merge")
        found.append((kind.family, kind.label, _prediction(header, kind.prediction)))
    family, label, prediction = found[0]
    for header, (other_family, other_label, other_prediction) in zip(
        headers[1:], found[1:], strict=True
    ):
        if other_family != family:
            raise UnsupportedCheckpoint(
                f"{headers[0].path.name} and {header.path.name} cannot be merged: one is {label}, "
                f"the other {other_label}; their networks have nothing in common"
            )
        if merge.method == WEIGHTED_SUM and other_prediction != prediction:
            raise UnsupportedCheckpoint(
                f"{headers[0].path.name} and {header.path.name} cannot be merged: one predicts "
                f"{prediction}, the other {other_prediction}"
            )
    return family


def _prediction(header: CheckpointHeader, usual: str) -> str:
    try:
        return detect(header).prediction or usual
    except ModelError:
        return usual


def _plain(name: str) -> str:
    """Return a name as most files write it: text encoders below `text_model.`."""
    return _BARE_CLIP.sub(r"\1text_model.\2.", name)


def _by_plain_name(header: CheckpointHeader) -> dict[str, TensorInfo]:
    return {_plain(name): info for name, info in header.tensors.items()}


def _refuse_other_layouts(
    first: CheckpointHeader,
    others: Sequence[CheckpointHeader],
    counterparts: Sequence[Mapping[str, TensorInfo]],
) -> None:
    """Refuse files that hold the same network as A does, but cut up in another way."""
    for header, names in zip(others, counterparts, strict=True):
        held = {(part.role, part.kind) for part in parts(header.layout)}
        for part in parts(first.layout):
            own = first.under(part.prefix).values()
            if (part.role, part.kind) in held and not any(_plain(name) in names for name in own):
                raise UnsupportedCheckpoint(
                    f"{first.path.name} and {header.path.name} cannot be merged: the {part.label} "
                    "of one is laid out otherwise than that of the other (a single file and a "
                    "folder of diffusers?)"
                )


def _is_weight(name: str, info: TensorInfo) -> bool:
    """Say whether a tensor is mixed; tables of schedules and counters are A's."""
    is_named = "." in name and not name.startswith("denoiser.") and not name.endswith(_TABLES)
    return info.dtype in _FLOATS and is_named


def _sources(
    merge: Merge,
    name: str,
    own: TensorInfo,
    others: Sequence[TensorInfo | None],
    headers: Sequence[CheckpointHeader],
) -> tuple[tuple[int, TensorInfo], ...]:
    """Return what a tensor is made of; where that is one file's, nothing is computed at all."""
    alone = ((0, own),)
    if not others or not _is_weight(name, own) or merge.multiplier == 0:
        return alone
    if any(other is None for other in others):
        # A difference between what is there and what is not would be the whole weight.
        return alone
    known = [other for other in others if other is not None]
    for header, other in zip(headers[1:], known, strict=True):
        _check_shape(name, own, other, headers[0], header)
    if merge.method == WEIGHTED_SUM and merge.multiplier == 1 and own.shape == known[0].shape:
        return ((1, known[0]),)
    if merge.method == ADD_DIFFERENCE and _numbers(known[0]) != _numbers(known[1]):
        raise UnsupportedCheckpoint(
            f"{headers[1].path.name} and {headers[2].path.name} have no difference: {name} has "
            f"{list(known[0].shape)} numbers in one, {list(known[1].shape)} in the other"
        )
    return ((0, own), *((place, info) for place, info in enumerate(known, start=1)))


def _check_shape(
    name: str,
    own: TensorInfo,
    other: TensorInfo,
    first: CheckpointHeader,
    header: CheckpointHeader,
) -> None:
    if other.dtype not in _FLOATS:
        raise UnsupportedCheckpoint(f"{header.path.name}: {name} holds {other.dtype}, no weights")
    if _without_ones(own.shape) == _without_ones(other.shape) or _is_wider(name, own, other):
        return
    raise UnsupportedCheckpoint(
        f"{first.path.name} and {header.path.name} cannot be merged: {name} is "
        f"{list(own.shape)} in one and {list(other.shape)} in the other"
    )


def _is_wider(name: str, own: TensorInfo, other: TensorInfo) -> bool:
    """Tell an inpainting or instruct-pix2pix U-Net and a plain one apart by their input."""
    same_otherwise = own.shape[:1] + own.shape[2:] == other.shape[:1] + other.shape[2:]
    is_input = name == _INPUT and len(own.shape) == len(other.shape) == 4 and same_otherwise
    return is_input and own.shape[1] in _WIDER_INPUTS and other.shape[1] == 4


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without what 1 × 1 kernels have more than matrices."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _numbers(info: TensorInfo) -> int:
    return math.prod(info.shape)


def _kept_type(sources: Sequence[tuple[int, TensorInfo]]) -> str:
    """Return the most precise type among the sources; fp16 and bf16 need fp32 between them."""
    types = {info.dtype for _, info in sources}
    if {"F16", "BF16"} <= types and not types & {"F32", "F64"}:
        return "F32"
    return next((dtype for dtype in _FLOATS if dtype in types), sources[0][1].dtype)


def _saved(piece: Piece, precision: str, first: CheckpointHeader) -> Piece:
    """Return a piece in the type that it is saved in."""
    if not precision or piece.dtype not in _FLOATS:
        return piece
    dtype = _TARGETS[precision]
    tensors = denoiser_tensors(first.layout)
    is_large = len(piece.shape) > 1 and math.prod(piece.shape) >= _FEWEST_FP8_NUMBERS
    if precision == "fp8" and is_large and tensors and piece.name.startswith(tensors.prefix):
        dtype = _FP8
    return replace(piece, dtype=dtype)


def _missing_notice(unmatched: Sequence[str], other: CheckpointHeader) -> tuple[str, ...]:
    count = len(unmatched)
    subject = "tensor has" if count == 1 else "tensors have"
    return (
        f"{count} {subject} no counterpart in {other.path.name} and stay as in A "
        f"({unmatched[0]}{', …' if count > 1 else ''})",
    )


def _with_vae(
    pieces: Sequence[Piece], first: CheckpointHeader, vae: CheckpointHeader, *, place: int
) -> list[Piece]:
    """Return the pieces with another VAE in place of the checkpoint's."""
    given = _vae_part(vae)
    if given is None:
        raise UnsupportedCheckpoint(f"{vae.path.name} holds no VAE to bake in")
    before = _vae_part(first)
    if before is not None and before.kind != given.kind:
        raise UnsupportedCheckpoint(
            f"{vae.path.name} cannot be baked into {first.path.name}: it is a {given.label}, and "
            f"the checkpoint's is a {before.label}"
        )
    prefix = before.prefix if before is not None else _usual_vae_prefix(first)
    kept = [
        piece
        for piece in pieces
        if not (prefix and piece.name.removeprefix(prefix).startswith(_VAE_NAMES)
                and piece.name.startswith(prefix))
    ]  # fmt: skip
    baked = [
        Piece(prefix + name, vae.tensors[key].dtype, vae.tensors[key].shape,
              ((place, vae.tensors[key]),))
        for name, key in vae.under(given.prefix).items()
        if name.startswith(_VAE_NAMES)
    ]  # fmt: skip
    return [*kept, *baked]


def _vae_part(header: CheckpointHeader) -> Part | None:
    return next((part for part in parts(header.layout) if part.role == "vae"), None)


def _usual_vae_prefix(header: CheckpointHeader) -> str:
    return "vae." if header.has_prefix("text_encoders.") else "first_stage_model."


def _placed(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return the pieces one behind the other, wide numbers first, so that all lie aligned.

    Otherwise in the order of the files, which are then read from front to back.
    """
    order = sorted(
        pieces,
        key=lambda one: (-DTYPE_BITS[one.dtype], one.sources[0][0], one.sources[0][1].start),
    )
    placed, end = [], 0
    for piece in order:
        start = end
        end += (math.prod(piece.shape) * DTYPE_BITS[piece.dtype] + 7) // 8
        placed.append(replace(piece, start=start, end=end))
    return tuple(placed)
