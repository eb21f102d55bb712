"""ControlNets on demand: diffusers' `ControlNetModel`, filled from files of either layout.

They lie in a store of their own, so that loading one never pushes the checkpoint out that it is to
steer. What they add to a picture is `pipeline.control`'s. Model thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sdforge.core.control import UNION_TYPES
from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.memory.arena import ALIGNMENT
from sdforge.memory.component import Component
from sdforge.memory.holdings import Holding, Limits, StoreReport
from sdforge.memory.manager import MemoryManager
from sdforge.memory.store import HostStore
from sdforge.models.adapters.authors_controlnet import control_sources
from sdforge.models.adapters.control_lora import control_lora
from sdforge.models.adapters.controlnet_library import ControlNetInfo, ControlNetLibrary
from sdforge.models.adapters.controlnet_shapes import (
    CONTROL_LORA,
    IP_ADAPTER,
    LLLITE,
    ORIGINAL,
    T2I_ADAPTER,
    TRANSFORMER,
    UNION,
    controlnet_config,
    hint_name,
    layers_per_block,
    match_controlnet,
    original_names,
    union_config,
)
from sdforge.models.adapters.ip_adapter import (
    check_attentions,
    ip_adapter_recipe,
    is_ip_network,
)
from sdforge.models.adapters.lllite import is_lllite_network, lllite_layers, lllite_recipe
from sdforge.models.adapters.t2i_adapter import FULL_XL, adapter_shape
from sdforge.models.adapters.transformer_controlnet import (
    is_transformer_control,
    transformer_control,
    transformer_facts,
    transformer_modes,
)
from sdforge.models.bundle import ModelBundle
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.clip_vision import clip_vision_recipe
from sdforge.models.content import Content
from sdforge.models.families.base import Recipe, Source
from sdforge.models.hashes import Stamp
from sdforge.models.key_map import key_map
from sdforge.models.quant import Storage
from sdforge.models.skeleton import Skeleton
from sdforge.models.weights import LoadPlan, load_component

log = logging.getLogger(__name__)

ROLE = "controlnet"
OnRead = Callable[[int], None]
# Beside those of the running job, so many stay in memory for the next.
_KEPT = 2
_VECTOR = (
    ("label_emb.0.0.", "add_embedding.linear_1."),
    ("label_emb.0.2.", "add_embedding.linear_2."),
)


def controlnet_recipe(header: CheckpointHeader) -> Recipe:
    """Return how to make a ControlNet from a file, all shapes checked.

    Raises:
        MissingModel: some of it is missing.
        UnsupportedCheckpoint: it is no ControlNet, of a kind that cannot be run, or its shapes do
            not fit together.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel
    from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel

    from sdforge.models.attention import use_direct_attention

    match = match_controlnet(header)
    if match.layout == T2I_ADAPTER:
        return _adapter_recipe(header)
    if match.layout == IP_ADAPTER:
        return ip_adapter_recipe(header, ROLE)
    if match.layout == LLLITE:
        return lllite_recipe(header, ROLE)
    if match.layout == TRANSFORMER:
        module = transformer_control(header)
        names = set(module.state_dict())
        sources = {name: one for name, one in control_sources(header).items() if name in names}
        _check(header, module, sources)
        return Recipe(role=ROLE, layout=header.layout, skeleton=Skeleton(module), sources=sources)
    sources = _original(header) if match.layout == ORIGINAL else _diffusers(header)
    shapes = {name: source.shape for name, source in sources.items()}
    is_union = match.layout == UNION
    try:
        with torch.device("meta"):
            module = (
                ControlNetUnionModel(**union_config(shapes, header))
                if is_union
                else ControlNetModel(**controlnet_config(shapes, header))
            )
            use_direct_attention(module)
    except (ValueError, AssertionError) as error:
        raise UnsupportedCheckpoint(
            f"the ControlNet in {header.path.name} cannot be run: {error}"
        ) from error
    _check(header, module, sources)
    return Recipe(role=ROLE, layout=header.layout, skeleton=Skeleton(module), sources=sources)


def _adapter_recipe(header: CheckpointHeader) -> Recipe:
    from diffusers.models.adapter import T2IAdapter

    shape = adapter_shape(header)
    with torch.device("meta"):
        module = T2IAdapter(**dict(shape.config))
    sources = {name: Source(key, header.tensors[key].shape) for name, key in shape.names.items()}
    _check(header, module, sources)
    return Recipe(role=ROLE, layout=header.layout, skeleton=Skeleton(module), sources=sources)


def _diffusers(header: CheckpointHeader) -> dict[str, Source]:
    return {key: Source(key, info.shape) for key, info in header.tensors.items()}


def _original(header: CheckpointHeader) -> dict[str, Source]:
    """Return diffusers' names → sources, by diffusers' converter but for the hint and the vector.

    The converter knows the hint's depth in Stable Diffusion alone, and no vector.
    """
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    names = original_names(header)
    layers = layers_per_block(names)
    hints = {name: key for name, key in names.items() if name.startswith("input_hint_block.")}

    def convert(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        converted = convert_controlnet_checkpoint(tensors, {"layers_per_block": layers})
        return {name: tensor for name, tensor in converted.items() if tensor is not None}

    if "time_embed.0.weight" not in names or not layers:
        raise MissingModel(
            f"the ControlNet in {header.path.name} is incomplete: it has no time_embed or "
            "input_blocks"
        )
    others = {name: key for name, key in names.items() if name not in hints}
    sources = key_map(header.layout, others, convert)
    for name, key in (hints | others).items():
        target = hint_name(name, hints) or _vector_name(name)
        if target:
            sources[target] = Source(key, header.tensors[key].shape)
    return sources


def _vector_name(name: str) -> str | None:
    for old, new in _VECTOR:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None


def _check(header: CheckpointHeader, module: nn.Module, sources: dict[str, Source]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = [name for name in wanted if name not in sources]
    if missing:
        raise MissingModel(
            f"the ControlNet in {header.path.name} is incomplete: {len(missing)} of {len(wanted)} "
            f"tensors are missing, for one {missing[0]}"
        )
    for name, shape in wanted.items():
        if sources[name].shape != shape:
            raise UnsupportedCheckpoint(
                f"the ControlNet in {header.path.name} cannot be run: {sources[name].key} has the "
                f"shape {list(sources[name].shape)}, {list(shape)} was expected"
            )


def check_fits(component: Component, bundle: ModelBundle) -> None:
    """Raise `UnsupportedCheckpoint` unless what a ControlNet adds fits a bundle's denoiser."""
    if is_ip_network(component.module):
        unet = bundle.denoiser.component.module
        check_attentions(component.name, component.module, unet, bundle.info.title)
        return
    if is_lllite_network(component.module):
        _check_lllite(component, bundle)
        return
    facts = _facts_of(component.module)
    control, network = facts(component.module), facts(bundle.denoiser.component.module)
    differing = [
        f"{what} {control[what]} instead of {network[what]}"
        for what in control
        if control[what] != network[what]
    ]
    if differing:
        raise UnsupportedCheckpoint(
            f"the ControlNet {component.name} was made for another kind of model than "
            f"{bundle.info.title} ({bundle.family}): it has {', '.join(differing)}; take one for "
            "this kind"
        )


def _check_lllite(component: Component, bundle: ModelBundle) -> None:
    try:
        lllite_layers(component.module, bundle.denoiser.component.module)
    except UnsupportedCheckpoint as error:
        raise UnsupportedCheckpoint(
            f"the ControlNet-LLLite {component.name} was made for another kind of model than "
            f"{bundle.info.title} ({bundle.family}): {error.message}; take one for this kind"
        ) from error


def _facts_of(module: nn.Module) -> Callable[[nn.Module], dict[str, object]]:
    if is_transformer_control(module):
        return transformer_facts
    return _adapter_facts if is_adapter(module) else _facts


def is_adapter(module: nn.Module) -> bool:
    """Say whether a network is a T2I-Adapter and no ControlNet."""
    return "adapter_type" in (getattr(module, "config", None) or {})


def union_kinds(module: nn.Module) -> Mapping[str, int]:
    """Return the numbers of the kinds of pictures that a union tells apart, {} for others."""
    if is_transformer_control(module):
        return transformer_modes(module)
    count = (getattr(module, "config", None) or {}).get("num_control_type") or 0
    return {name: number for number, name in enumerate(UNION_TYPES[:count])}


def _adapter_facts(module: nn.Module) -> dict[str, object]:
    """Return what adapters and U-Nets must agree in.

    SDXL's U-Net has three levels; the adapter's fourth is for its middle.
    """
    config = getattr(module, "config", None) or {}
    kind = config.get("adapter_type")
    widths = tuple(config.get("channels") or config.get("block_out_channels") or ())
    is_xl = len(widths) == 3 if kind is None else kind == FULL_XL
    if len(widths) == 3:
        widths = (*widths, widths[-1])
    return {"levels of widths": widths, "halvings of the picture": 4 if is_xl else 3}


def _facts(module: nn.Module) -> dict[str, object]:
    config = getattr(module, "config", None) or {}
    return {
        "text states of width": config.get("cross_attention_dim"),
        "levels of widths": tuple(config.get("block_out_channels") or ()),
        "blocks a level": config.get("layers_per_block"),
        "latent channels": config.get("in_channels"),
        "a size embedding of width": config.get("projection_class_embeddings_input_dim"),
    }


def _unheard(count: int) -> None:
    """Read on."""


class ControlNets:
    """Gives out ControlNets, loading those that are not in memory."""

    def __init__(
        self, library: ControlNetLibrary, memory: MemoryManager, *, compute: torch.dtype
    ) -> None:
        """Load nothing yet; `compute` is the type that denoisers compute in."""
        self.library = library
        self.store = HostStore(memory.release)
        self._memory = memory
        self._storage = Storage(compute)

    def get(
        self, info: ControlNetInfo, *, wanted: int = 1, on_read: OnRead = _unheard
    ) -> Component:
        """Return a ControlNet's network on the host, read now unless it is held.

        Args:
            info: from the library.
            wanted: how many the job needs at once; others leave before them.
            on_read: called with the bytes of each part that was read; what it raises ends it.

        Raises:
            MissingModel: the file is gone or incomplete.
            UnsupportedCheckpoint: it cannot be run.
            CorruptCheckpoint: damaged.
            OutOfMemory: main memory cannot hold it.
        """
        key = self._holding(info, wanted, on_read).slots[0]
        component = self.store.component(key)
        if component is None:
            raise MissingModel(f"the ControlNet {info.stem} left memory while it was being taken")
        return component

    @contextmanager
    def lease(
        self,
        info: ControlNetInfo,
        bundle: ModelBundle,
        *,
        wanted: int = 1,
        on_read: OnRead = _unheard,
    ) -> Iterator[Component]:
        """Keep a ControlNet in main memory while the block runs, as `get` returns it.

        A Control-LoRA is made of the bundle's own weights, and is gone after the block.

        Raises:
            UnsupportedCheckpoint: it does not fit the bundle, too.
        """
        if info.layout == CONTROL_LORA:
            component = control_lora(info, bundle)
            try:
                yield component
            finally:
                self._memory.release(component)
            return
        holding = self._holding(info, wanted, on_read)
        with self.store.lease(holding):
            component = self.get(info, wanted=wanted)
            check_fits(component, bundle)
            yield component

    @contextmanager
    def encoder(
        self, adapter: nn.Module, *, wanted: int = 1, on_read: OnRead = _unheard
    ) -> Iterator[Component]:
        """Keep the CLIP encoder in main memory that an IP-Adapter sees with, in the block.

        Raises:
            MissingModel: there is no file of it.
        """
        config: Any = adapter.config
        is_plus = config["ip_adapter"] == "plus"
        info = self.library.encoder(config["seen"], of_places=is_plus)
        holding = self._holding(info, wanted + 1, on_read)
        with self.store.lease(holding):
            yield self.get(info, wanted=wanted + 1)

    def unload(self) -> int:
        """Give back all memory; return the bytes freed."""
        return self.store.evict_all()

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self.store.report()

    def _holding(self, info: ControlNetInfo, wanted: int, on_read: OnRead = _unheard) -> Holding:
        try:
            stamp = Stamp.of(info.path)
        except OSError as error:
            raise MissingModel(
                f"{info.path} cannot be opened: {error.strerror or error}"
            ) from error
        key = f"{stamp}|{self._storage}"
        held = self.store.holding(key)
        if held is not None:
            return held
        self.store.configure(Limits(holdings=max(wanted, _KEPT)))
        started = time.perf_counter()
        header = read_header(info.path)
        recipe = (
            controlnet_recipe(header) if info.vision is None else clip_vision_recipe(header, ROLE)
        )
        content = Content.of(recipe, header, self._storage, stamp)
        alignment = ALIGNMENT if self._memory.device.is_host else 1
        plan = LoadPlan(recipe, header, self._storage, alignment)

        def make() -> Component:
            return load_component(
                plan, name=info.stem, fingerprint=content.key, on_progress=on_read
            )

        with self.store.loading(plan.host_bytes):
            self.store.load(content.key, ROLE, info.stem, make)
            held = self.store.hold(key, info.relative, [content.key], info)
        log.info(
            "loaded the ControlNet %s in %.2f s: %s",
            info.relative,
            time.perf_counter() - started,
            info.reason,
        )
        return held
