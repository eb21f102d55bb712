"""The extra networks of a batch: from the prompt to what is in force, and into the infotext."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sdforge.core.errors import SdforgeError
from sdforge.core.events import Notice
from sdforge.models.adapters.block_weights import BlockWeights, parse_block_weights
from sdforge.models.adapters.lora import Applied, NetworkUse
from sdforge.models.bundle import ModelBundle
from sdforge.pipeline.context import RunContext
from sdforge.prompt.networks import ExtraNetwork, take_networks
from sdforge.prompt.tokens import chunk_prompt

log = logging.getLogger(__name__)

# A1111 once had a kind of its own for LyCORIS files.
_KINDS = ("lora", "lyco")


class BadNetwork(SdforgeError):
    """A network is named with arguments that cannot be read."""


def apply_networks(
    context: RunContext, bundle: ModelBundle, networks: Iterable[ExtraNetwork]
) -> Applied:
    """Put the networks of a prompt in force on the bundle; says what is left out, and goes on."""
    notes: list[str] = []
    uses: list[NetworkUse] = []
    for network in networks:
        if network.kind not in _KINDS:
            notes.append(
                f"<{network.kind}:{network.name}> was left out: this version cannot apply networks "
                "of this kind"
            )
            continue
        try:
            uses.append(network_use(network))
        except BadNetwork as error:
            notes.append(error.message)
    keep = context.settings.lora_in_memory_limit
    applied = context.adapters.apply(bundle, uses, keep=keep)
    for note in dict.fromkeys(notes):
        log.warning("%s", note)
    for note in dict.fromkeys((*notes, *applied.notes)):
        context.emit(Notice(text=note))
    return applied


def network_use(network: ExtraNetwork) -> NetworkUse:
    """Return what `<lora:name:te:unet:dyn>` means; te, unet, dyn and lbw may be given by name.

    Raises:
        BadNetwork: a multiplier is no number.
    """
    values = dict(zip(("te", "unet", "dyn"), network.args[1:], strict=False)) | {
        key: value for key, value in network.named.items() if key in ("te", "unet", "dyn")
    }
    numbers = {key: _number(network, key, text) for key, text in values.items() if text}
    dyn = numbers.get("dyn")
    return NetworkUse(
        name=network.name,
        te=numbers.get("te", 1.0),
        unet=numbers.get("unet"),
        dyn=int(dyn) if dyn else None,
        blocks=_blocks(network),
    )


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
