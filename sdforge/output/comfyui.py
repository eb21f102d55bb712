"""What a graph of ComfyUI draws, as far as one infotext can say it.

From the node that saves the picture the graph is walked back to what sampled it; two samplers in a
row are hires fix, where the picture grows between them, or a refiner. Unknown nodes are passed
through. Plain dicts in, plain values out; `foreign.py` reads the JSON and writes the infotext.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any, TypeAlias

from sdforge.output import foreign_names

Node: TypeAlias = Mapping[str, Any]
Graph: TypeAlias = Mapping[str, Node]

# Where a custom sampler keeps what others have as inputs of their own.
_HELPERS = ("noise", "guider", "sampler", "sigmas")
_TEXTS = ("text", "text_g", "t5xxl", "string", "value", "prompt", "clip_l")
_SEEDS = ("seed", "noise_seed")
_SIDES = ("positive", "negative", "cond", "cond1", "cond2")
# What pictures and latents go through.
_PICTURES = ("images", "image", "samples", "latent_image", "latent", "pixels")
_MODELS = ("ckpt_name", "unet_name")
_MAX_STEPS_BACK = 2000
_MOST_SAMPLERS = 32
# What the page of ComfyUI keeps by position, by the kind of node; "" is for the page alone.
_WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler",
        "start_at_step", "end_at_step", "return_with_leftover_noise",
    ),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "VAELoader": ("vae_name",),
    "CLIPLoader": ("clip_name",),
    "DualCLIPLoader": ("clip_name1", "clip_name2"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "CLIPTextEncode": ("text",),
    "FluxGuidance": ("guidance",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "LatentUpscale": ("upscale_method", "width", "height", "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "ImageScaleBy": ("upscale_method", "scale_by"),
    "UpscaleModelLoader": ("model_name",),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
}  # fmt: skip


def is_graph(value: Any) -> bool:
    """Whether this is the graph that ComfyUI ran, and not something else in JSON."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(one, Mapping) and "class_type" in one for one in value.values())
    )


def graph_of_workflow(workflow: Mapping[str, Any]) -> Graph:
    """Return the graph of what the page saved, which has values by position and links by number.

    Raises:
        TypeError, ValueError, KeyError: it has another shape.
    """
    sources = {link[0]: [str(link[1]), int(link[2])] for link in workflow.get("links") or ()}
    graph: dict[str, Node] = {}
    for node in workflow["nodes"]:
        names = _WIDGETS.get(node["type"], ())
        kept = node.get("widgets_values") or ()
        values = kept if isinstance(kept, Mapping) else dict(zip(names, kept, strict=False))
        inputs = {name: value for name, value in values.items() if name}
        for socket in node.get("inputs") or ():
            if socket.get("link") in sources:
                inputs[socket["name"]] = sources[socket["link"]]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def said_by(graph: Graph) -> tuple[str, str, dict[str, Any]] | None:
    """Return prompt, negative prompt and the infotext's fields; None where nothing samples."""
    return _Reader(graph).said()


class _Reader:
    """One graph while it is read."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def said(self) -> tuple[str, str, dict[str, Any]] | None:
        samplers = self._samplers()
        if not samplers:
            return None
        last, first = samplers[0], samplers[-1]
        between = self._until(last, first)
        fields = self._sampling(first)
        guidance = self._value_back(self._start(first, "positive"), "guidance")
        model = self._model(first)
        fields |= {
            "Distilled CFG Scale": guidance,
            **self._size(first),
            **model,
            **self._clip_skip(first),
        }
        if last is not first:
            if refined := self._refiner(first, last, model):
                fields |= refined
            else:
                fields |= self._hires(last, between)
        # ComfyUI draws all noise on the CPU.
        fields["RNG"] = "CPU"
        prompt = ", ".join(filter(None, (self._text(first, "positive"), self._networks(first))))
        return prompt, self._text(first, "negative"), fields

    # --- walking -----------------------------------------------------------------------------

    def _node(self, link: Any) -> Node | None:
        """Return the node that a link comes from."""
        is_link = isinstance(link, (list, tuple)) and len(link) == 2
        return self._graph.get(str(link[0])) if is_link else None

    def _inputs(self, node: Node | None) -> Mapping[str, Any]:
        inputs = (node or {}).get("inputs")
        return inputs if isinstance(inputs, Mapping) else {}

    def _back(self, *starts: Node | None, only: tuple[str, ...] = ()) -> Iterator[Node]:
        """Yield nodes from some on back, nearest first, through all links or some only."""
        waiting = deque(node for node in starts if node is not None)
        seen: set[int] = set()
        while waiting and len(seen) < _MAX_STEPS_BACK:
            node = waiting.popleft()
            if id(node) in seen:
                continue
            seen.add(id(node))
            yield node
            inputs = self._inputs(node)
            links = (inputs.get(name) for name in only) if only else inputs.values()
            waiting.extend(found for link in links if (found := self._node(link)))

    def _samplers(self) -> list[Node]:
        """Return what sampled the picture, last first; along latents and pictures only."""
        savers = [node for node in self._graph.values() if "images" in self._inputs(node)]
        starts = savers or list(self._graph.values())
        found = [node for node in self._back(*starts, only=_PICTURES) if self._is_sampler(node)]
        found = found or [node for node in self._graph.values() if self._is_sampler(node)]
        # What comes after most others; pictures of earlier ones may be saved too. No infotext says
        # more than two, and for each all that lies before it is walked.
        return sorted(
            found[:_MOST_SAMPLERS],
            key=lambda node: -sum(map(self._is_sampler, self._upstream(node))),
        )

    def _upstream(self, node: Node) -> Iterator[Node]:
        return self._back(node, only=_PICTURES)

    def _is_sampler(self, node: Node) -> bool:
        inputs = self._inputs(node)
        return "latent_image" in inputs and ("steps" in inputs or "sigmas" in inputs)

    def _until(self, last: Node, first: Node) -> list[Node]:
        """Return the nodes between two samplers."""
        found = []
        for node in self._back(self._node(self._inputs(last).get("latent_image"))):
            if node is first:
                break
            found.append(node)
        return found

    def _value(self, node: Node | None, *names: str) -> Any:
        """Return an input that is a value, here, in a helper, or in what feeds it."""
        for name in names:
            for one in self._back(node, only=(*_HELPERS, name)):
                value = self._inputs(one).get(name)
                if _is_plain(value):
                    return value
                feeder = self._node(value)
                for key in ("value", "int", "float", "number", *_TEXTS, *_SEEDS):
                    fed = self._inputs(feeder).get(key)
                    if _is_plain(fed):
                        return fed
        return None

    def _value_back(self, start: Node | None, name: str) -> Any:
        """Return the nearest value of a name among all that leads to a node."""
        for node in self._back(start):
            if _is_plain(value := self._inputs(node).get(name)):
                return value
        return None

    def _start(self, sampler: Node, name: str) -> Node | None:
        """Return what is linked to an input of a sampler, or to one of its guider's."""
        for node in self._back(sampler, only=_HELPERS):
            inputs = self._inputs(node)
            link = inputs.get(name, inputs.get("conditioning") if name == "positive" else None)
            if found := self._node(link):
                return found
        return None

    # --- what is said ------------------------------------------------------------------------

    def _sampling(self, node: Node) -> dict[str, Any]:
        denoise = self._value(node, "denoise")
        is_part = isinstance(denoise, (int, float)) and denoise < 1
        return {
            "Steps": self._value(node, "steps"),
            "Sampler": foreign_names.sampler(str(self._value(node, "sampler_name") or "euler")),
            "Schedule type": foreign_names.schedule(str(self._value(node, "scheduler") or "")),
            "CFG scale": self._value(node, "cfg") or 1.0,
            "Seed": self._value(node, *_SEEDS),
            "Denoising strength": denoise if is_part else None,
        }

    def _size(self, sampler: Node) -> dict[str, str]:
        for node in self._back(self._node(self._inputs(sampler).get("latent_image"))):
            width, height = self._value(node, "width"), self._value(node, "height")
            if _is_length(width) and _is_length(height):
                return {"Size": f"{width}x{height}"}
        return {}

    def _model(self, sampler: Node) -> dict[str, Any]:
        """Return the model, and what was loaded beside it."""
        start = self._start(sampler, "model")
        for node in self._back(start, only=("model",)):
            inputs = self._inputs(node)
            name = next((inputs[key] for key in _MODELS if _is_plain(inputs.get(key))), None)
            if name is None:
                continue
            files = self._files("vae_name")
            if "ckpt_name" in inputs:
                vae = {"VAE": files[0]} if files else {}
                return {"Model": _stem(name), **vae}
            files += self._files("clip_name", "clip_name1", "clip_name2", "clip_name3")
            modules = {f"Module {number}": file for number, file in enumerate(files, start=1)}
            return {"Model": _stem(name), **modules}
        return {}

    def _files(self, *names: str) -> list[str]:
        found = [self._inputs(node).get(key) for node in self._graph.values() for key in names]
        return list(dict.fromkeys(_stem(name) for name in found if isinstance(name, str)))

    def _networks(self, sampler: Node) -> str:
        """Return the LoRAs on the way from the model, as prompts name them."""
        found = []
        for node in self._back(self._start(sampler, "model"), only=("model",)):
            inputs = self._inputs(node)
            if isinstance(name := inputs.get("lora_name"), str):
                weight = inputs.get("strength_model", 1.0)
                found.append(f"<lora:{_stem(name)}:{weight if _is_plain(weight) else 1.0}>")
        return " ".join(reversed(found))

    def _clip_skip(self, sampler: Node) -> dict[str, Any]:
        layer = self._value_back(self._start(sampler, "positive"), "stop_at_clip_layer")
        return {"Clip skip": -layer} if isinstance(layer, int) and layer < -1 else {}

    def _text(self, sampler: Node, side: str) -> str:
        """Return the texts that lead to a side of the guidance, joined as they are combined."""
        texts: list[str] = []
        joint = " AND "
        # A ControlNet has both sides; only the one that was asked for counts.
        other = "negative" if side == "positive" else "positive"
        for node in self._back_without(self._start(sampler, side), other):
            kind = str(node.get("class_type"))
            if "ZeroOut" in kind:
                return ""
            if "ConditioningConcat" in kind:
                joint = " BREAK "
            value = next((v for v in (self._value(node, n) for n in _TEXTS) if v), None)
            if isinstance(value, str) and "clip" in self._inputs(node):
                texts.append(value.strip())
        return joint.join(dict.fromkeys(filter(None, texts)))

    def _back_without(self, start: Node | None, without: str) -> Iterator[Node]:
        """Yield the conditioning nodes from one on back."""
        only = tuple(
            name
            for node in self._graph.values()
            for name in self._inputs(node)
            if name != without and (name.startswith("conditioning") or name in _SIDES)
        )
        return self._back(start, only=only or ("conditioning",))

    def _refiner(self, first: Node, last: Node, model: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of a second sampler that goes on where the first stopped."""
        start, steps = self._value(last, "start_at_step"), self._value(last, "steps")
        other = self._model(last).get("Model")
        is_refined = isinstance(start, int) and isinstance(steps, int) and 0 < start < steps
        if not is_refined or other in (None, model.get("Model")):
            return {}
        return {"Refiner": other, "Refiner switch at": round(start / steps, 4)}

    def _hires(self, last: Node, between: list[Node]) -> dict[str, Any]:
        """Return the keys of a second sampler over an enlarged result of the first."""
        size: dict[str, Any] = {}
        upscaler = "Latent"
        for node in between:
            inputs = self._inputs(node)
            method = inputs.get("upscale_method")
            width, height = inputs.get("width"), inputs.get("height")
            if _is_length(width) and _is_length(height) and method:
                size = {"Hires resize": f"{width}x{height}"}
            elif isinstance(inputs.get("scale_by"), (int, float)):
                size = {"Hires upscale": inputs["scale_by"]}
            if isinstance(method, str):
                is_latent = "samples" in inputs
                upscaler = foreign_names.latent_upscaler(method) if is_latent else "Lanczos"
        models = [self._inputs(node).get("model_name") for node in between]
        model = next((name for name in models if isinstance(name, str)), None)
        return {
            "Denoising strength": self._value(last, "denoise"),
            **(size or {"Hires upscale": 1.0}),
            "Hires sampler": foreign_names.sampler(str(self._value(last, "sampler_name") or "")),
            "Hires schedule type": foreign_names.schedule(
                str(self._value(last, "scheduler") or "")
            ),
            "Hires CFG Scale": self._value(last, "cfg"),
            "Hires steps": self._value(last, "steps"),
            "Hires upscaler": _stem(model) if model else upscaler,
        }


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _stem(name: str) -> str:
    """Return a file's name without its folders, of any system, and its ending."""
    return PureWindowsPath(name).stem
