"""The extra networks of a batch: from the prompt to what is in force, and into the infotext."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sdforge.core.errors import SdforgeError
from sdforge.core.events import Notice
from sdforge.models.adapters.block_weights import BlockWeights, parse_block_weights
from sdforge.models.adapters.lora import Applied
from sdforge.models.adapters.network_use import NetworkUse
from sdforge.models.adapters.step_weights import (
    Moment,
    StepWeights,
    parse_moment,
    parse_points,
    parse_range,
)
from sdforge.models.bundle import ModelBundle
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.hypernetworks import KIND as HYPERNETWORK
from sdforge.prompt.networks import ExtraNetwork, take_networks
from sdforge.prompt.tokens import chunk_prompt

log = logging.getLogger(__name__)

Points = tuple[tuple[Moment, float], ...]
Weight = float | Points
# Weights by name; those of the second pass stand in for the others, the more particular first.
_WEIGHTS = ("te", "unet", "hr", "hrte", "hrunet")
_TE_OF_HIRES = ("hrte", "hr", "te")
_UNET_OF_HIRES = ("hrunet", "hr", "unet")

# A1111 once had a kind of its own for LyCORIS files.
_KINDS = ("lora", "lyco")


class BadNetwork(SdforgeError):
    """A network is named with arguments that cannot be read."""


def apply_networks(
    context: RunContext,
    bundle: ModelBundle,
    networks: Iterable[ExtraNetwork],
    *,
    hires: bool = False,
) -> Applied:
    """Put the LoRA of a prompt in force on the bundle; says what is left out, and goes on.

    With `hires` as they are to be in the second pass.
    """
    notes: list[str] = []
    uses: list[NetworkUse] = []
    for network in networks:
        if network.kind == HYPERNETWORK:
            continue
        if network.kind not in _KINDS:
            notes.append(
                f"<{network.kind}:{network.name}> was left out: this version cannot apply networks "
                "of this kind"
            )
            continue
        try:
            uses.append(network_use(network, hires=hires))
        except BadNetwork as error:
            notes.append(error.message)
    keep = context.settings.lora_in_memory_limit
    applied = context.adapters.apply(bundle, uses, keep=keep)
    for note in dict.fromkeys(notes):
        log.warning("%s", note)
    for note in dict.fromkeys((*notes, *applied.notes)):
        context.emit(Notice(text=note))
    return applied


def network_use(network: ExtraNetwork, *, hires: bool = False) -> NetworkUse:
    """Return what `<lora:name:te:unet:dyn>` means; te, unet, dyn and lbw may be given by name.

    A weight may be a list over time, `1@0,0.5@10`, of which text encoders know the first;
    `step`, `start` and `stop` bound the steps. In the second pass (`hires`) `hrte` and `hrunet`
    stand in for te and unet, `hr` for both.

    Raises:
        BadNetwork: a multiplier is no number, or a time none.
    """
    values = dict(zip(("te", "unet", "dyn"), network.args[1:], strict=False)) | {
        key: value for key, value in network.named.items() if key in (*_WEIGHTS, "dyn")
    }
    weights = {key: _weight(network, key, values[key]) for key in _WEIGHTS if values.get(key)}
    dyn = _number(network, "dyn", values["dyn"]) if values.get("dyn") else None
    te = _first(weights, _TE_OF_HIRES if hires else ("te",))
    unet = _first(weights, _UNET_OF_HIRES if hires else ("unet",))
    over = te if unet is None else unet
    points = over if isinstance(over, tuple) else ()
    if isinstance(te, tuple):
        te = te[0][1]
    return NetworkUse(
        name=network.name,
        te=1.0 if te is None else te,
        unet=1.0 if points or isinstance(unet, tuple) else unet,
        dyn=int(dyn) if dyn else None,
        blocks=_blocks(network),
        over_steps=_over_steps(network, points),
    )


def _first(weights: Mapping[str, Weight], keys: Iterable[str]) -> Weight | None:
    """Return the first weight that is given."""
    return next((weights[key] for key in keys if key in weights), None)


def _weight(network: ExtraNetwork, key: str, text: str) -> Weight:
    """Return a weight: a number, or weights over time."""
    if "@" not in text and "~" not in text:
        return _number(network, key, text)
    found = parse_points(text)
    if found is None:
        raise BadNetwork(
            f"<{network.kind}:{network.name}> was left out: {text[:60]!r} is no list of "
            "weights over steps such as 1@0,0.5@10"
        )
    return found


def _over_steps(network: ExtraNetwork, points: Points) -> StepWeights | None:
    """Return the weights over steps of a list, `step=`, `start=` and `stop=`; None for none."""
    named = network.named
    start, stop = (parse_moment(named[key]) if key in named else None for key in ("start", "stop"))
    is_wrong = ("start" in named and start is None) or ("stop" in named and stop is None)
    if "step" in named:
        found = parse_range(named["step"])
        start, stop = found or (None, None)
        is_wrong = found is None
    if is_wrong:
        raise BadNetwork(
            f"<{network.kind}:{network.name}> was left out: step takes a range such as 5-10 or "
            "0.2-0.8, start and stop take one of its ends"
        )
    if not points and start is None and stop is None:
        return None
    return StepWeights(points=points, start=start, stop=stop)


def _number(network: ExtraNetwork, key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (key == "dyn" and number < 0):
        raise BadNetwork(
            f"<{network.kind}:{network.name}> was left out: its {key} is {text!r}, not a number"
        )
    return number


def _blocks(network: ExtraNetwork) -> BlockWeights | None:
    text = network.named.get("lbw")
    if text is None:
        return None
    found = parse_block_weights(text)
    if found is None:
        raise BadNetwork(
            f"<{network.kind}:{network.name}> was left out: lbw takes 12, 17, 20 or 26 numbers "
            f"with commas between, not {text[:60]!r}"
        )
    return found


def network_infotext(
    context: RunContext, bundle: ModelBundle, applied: Applied, texts: Iterable[str]
) -> Mapping[str, str]:
    """Return the infotext keys of one picture: the hashes of its LoRA and embeddings.

    Args:
        context: of the run.
        bundle: the model that drew it.
        applied: what was in force.
        texts: the picture's prompts; only embeddings that they name are listed.
    """
    settings = context.settings
    values: dict[str, str] = {}
    if settings.lora_add_hashes_to_infotext and applied.loras:
        pairs = (
            _Named(lora.mentioned, context.adapters.lora_hash(lora.info)) for lora in applied.loras
        )
        values["Lora hashes"] = _joined(pairs)
    if settings.textual_inversion_add_hashes_to_infotext:
        bundled = {found.name for found in applied.bundled}
        named = (name for text in texts for name in _named_embeddings(context, bundle, text))
        pairs = (
            _Named(name, bundle.text.embeddings.entries[name].short_hash())
            for name in dict.fromkeys(named)
            if settings.lora_bundled_ti_to_infotext or name not in bundled
        )
        values["TI hashes"] = _joined(pairs)
    return {key: value for key, value in values.items() if value}


@dataclass(frozen=True)
class _Named:
    name: str
    short_hash: str


def _joined(pairs: Iterable[_Named]) -> str:
    """Return "name: hash, name: hash"; A1111 leaves colons and commas out of names."""
    shown = ((pair.name.replace(":", "").replace(",", ""), pair.short_hash) for pair in pairs)
    return ", ".join(f"{name}: {short}" for name, short in shown if short)


def _named_embeddings(context: RunContext, bundle: ModelBundle, text: str) -> list[str]:
    table = bundle.text.embeddings
    if not table.entries:
        return []
    plain, _ = take_networks(text)
    chunks = chunk_prompt(plain, table.tokenizer, emphasis=context.settings.emphasis)
    return table.used([number for chunk in chunks for number in chunk.ids])
