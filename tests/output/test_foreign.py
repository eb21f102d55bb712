"""Pictures of ComfyUI, InvokeAI, Fooocus and NovelAI: their formats, made here as they document."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from sdforge.output import foreign_names
from sdforge.output.foreign import foreign_infotext
from sdforge.output.infotext import Infotext, parse_infotext, request_from_infotext
from sdforge.output.metadata import USER_COMMENT, read_texts
from sdforge.postprocess.upscalers import LATENT_MODES
from sdforge.sampling.names import SAMPLER_TABLE, SCHEDULE_TABLE


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def text(words: Any, clip: list[Any] | None = None) -> dict[str, Any]:
    return node("CLIPTextEncode", text=words, clip=clip or ["4", 1])


def sampler(latent: str = "5", **changes: Any) -> dict[str, Any]:
    values = {
        "seed": 42, "steps": 30, "cfg": 5.5, "sampler_name": "dpmpp_2m_sde_gpu",
        "scheduler": "karras", "denoise": 1.0, "model": ["4", 0], "positive": ["6", 0],
        "negative": ["7", 0], "latent_image": [latent, 0],
    }  # fmt: skip
    return node("KSampler", **(values | changes))


PLAIN: dict[str, Any] = {
    "3": sampler(),
    "4": node("CheckpointLoaderSimple", ckpt_name="sdxl\\mine.v2.safetensors"),
    "5": node("EmptyLatentImage", width=832, height=1216, batch_size=1),
    "6": text("a red fox, snow"),
    "7": text("blurry"),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
}  # fmt: skip


def picture(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, value in texts.items():
        info.add_text(name, value)
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def read(**texts: Any) -> Infotext:
    """Return the parsed infotext of a picture with these texts, JSON where they are no text."""
    written = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in texts.items()
    }
    found = read_texts(picture(**written))
    assert found.foreign is not None and not found.foreign.problem, found.foreign
    return parse_infotext(found.items["parameters"])


def changed(**nodes: Any) -> dict[str, Any]:
    return copy.deepcopy(PLAIN) | nodes


def test_a_graph_of_comfyui_becomes_a_request() -> None:
    found = read(prompt=PLAIN, workflow={"nodes": []})
    assert (found.prompt, found.negative_prompt) == ("a red fox, snow", "blurry")
    assert found.fields == {
        "Steps": "30", "Sampler": "DPM++ 2M SDE", "Schedule type": "Karras", "CFG scale": "5.5",
        "Seed": "42", "Size": "832x1216", "Model": "mine.v2", "RNG": "CPU",
    }  # fmt: skip
    request = request_from_infotext(found)
    assert (request.width, request.height, request.seed) == (832, 1216, 42)
    assert (request.sampler, request.schedule, request.checkpoint) == (
        "DPM++ 2M SDE", "Karras", "mine.v2",
    )  # fmt: skip
    assert request.overrides["randn_source"] == "CPU"


def test_what_lies_between_model_and_sampler_is_said() -> None:
    graph = changed(
        **{
            "3": sampler(model=["11", 0], seed=["12", 0]),
            "10": node("LoraLoader", lora_name="a/one.safetensors", strength_model=0.8,
                       strength_clip=1.0, model=["4", 0], clip=["4", 1]),
            "11": node("LoraLoaderModelOnly", lora_name="two.safetensors", strength_model=0.5,
                       model=["10", 0]),
            "12": node("PrimitiveInt", value=77),
            "13": node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["10", 1]),
            "6": text(["14", 0], ["13", 0]),
            "14": node("StringLiteral", string="an owl"),
            "15": node("VAELoader", vae_name="soft.safetensors"),
        }
    )  # fmt: skip
    found = read(prompt=graph)
    assert found.prompt == "an owl, <lora:one:0.8> <lora:two:0.5>"
    assert (found.fields["Seed"], found.fields["Clip skip"]) == ("77", "2")
    assert found.fields["VAE"] == "soft"


@pytest.mark.parametrize(
    ("kind", "joined"),
    [("ConditioningCombine", "a red fox, snow AND an owl"),
     ("ConditioningConcat", "a red fox, snow BREAK an owl")],
)  # fmt: skip
def test_joined_prompts_are_joined(kind: str, joined: str) -> None:
    names = ("conditioning_1", "conditioning_2")
    if kind == "ConditioningConcat":
        names = ("conditioning_to", "conditioning_from")
    both = dict(zip(names, (["6", 0], ["21", 0]), strict=True))
    control = node("ControlNetApplyAdvanced", positive=["22", 0], negative=["7", 0], strength=1)
    graph = changed(
        **{"3": sampler(positive=["20", 0], negative=["20", 1]), "20": control,
           "21": text("an owl"), "22": node(kind, **both)}
    )  # fmt: skip
    found = read(prompt=graph)
    assert (found.prompt, found.negative_prompt) == (joined, "blurry")


def test_a_second_sampler_over_enlarged_latents_is_hires_fix() -> None:
    graph = changed(
        **{
            "20": node("LatentUpscaleBy", upscale_method="bicubic", scale_by=1.5,
                       samples=["3", 0]),
            "21": sampler("20", steps=12, denoise=0.45, sampler_name="euler", cfg=4.0, seed=1),
            "8": node("VAEDecode", samples=["21", 0], vae=["4", 2]),
            "30": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
            "2": node("PreviewImage", images=["30", 0]),
        }
    )  # fmt: skip
    request = request_from_infotext(read(prompt=graph))
    assert (request.hires, request.hires_scale, request.hires_steps) == (True, 1.5, 12)
    assert (request.denoising_strength, request.hires_sampler) == (0.45, "Euler")
    assert (request.hires_upscaler, request.hires_cfg_scale) == ("Latent (bicubic)", 4.0)
    assert (request.steps, request.seed, request.width) == (30, 42, 832)
    by_model = graph | {
        "20": node("VAEEncode", pixels=["23", 0], vae=["4", 2]),
        "23": node("ImageScale", upscale_method="lanczos", width=1664, height=2432,
                   image=["24", 0]),
        "24": node("ImageUpscaleWithModel", upscale_model=["25", 0], image=["30", 0]),
        "25": node("UpscaleModelLoader", model_name="4x_big.pth"),
    }  # fmt: skip
    request = request_from_infotext(read(prompt=by_model))
    assert (request.hires_width, request.hires_height) == (1664, 2432)
    assert request.hires_upscaler == "4x_big"


def test_a_second_checkpoint_for_the_last_steps_is_a_refiner() -> None:
    def part(latent: str, model: str, start: int, end: int) -> dict[str, Any]:
        values = sampler(latent, model=[model, 0])["inputs"]
        values["noise_seed"] = values.pop("seed")
        return node("KSamplerAdvanced", **values, start_at_step=start, end_at_step=end)

    graph = changed(
        **{
            "3": part("5", "4", 0, 24),
            "20": part("3", "21", 24, 10000),
            "21": node("CheckpointLoaderSimple", ckpt_name="refiner.safetensors"),
            "8": node("VAEDecode", samples=["20", 0], vae=["4", 2]),
        }
    )
    request = request_from_infotext(read(prompt=graph))
    assert (request.refiner, request.refiner_switch_at) == ("refiner", 0.8)
    assert (request.seed, request.hires) == (42, False)


def test_flux_with_its_parts_apart() -> None:
    graph = {
        "1": node("SaveImage", images=["2", 0]),
        "2": node("VAEDecode", samples=["3", 0], vae=["10", 0]),
        "3": node("SamplerCustomAdvanced", noise=["4", 0], guider=["5", 0], sampler=["6", 0],
                  sigmas=["7", 0], latent_image=["8", 0]),
        "4": node("RandomNoise", noise_seed=5),
        "5": node("BasicGuider", model=["9", 0], conditioning=["11", 0]),
        "6": node("KSamplerSelect", sampler_name="euler"),
        "7": node("BasicScheduler", scheduler="simple", steps=20, denoise=1, model=["9", 0]),
        "8": node("EmptySD3LatentImage", width=1024, height=768, batch_size=1),
        "9": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "10": node("VAELoader", vae_name="ae.safetensors"),
        "11": node("FluxGuidance", guidance=2.5, conditioning=["12", 0]),
        "12": text("a lighthouse", ["13", 0]),
        "13": node("DualCLIPLoader", clip_name1="t5xxl.safetensors", clip_name2="clip_l.sft"),
    }  # fmt: skip
    found = read(prompt=graph)
    request = request_from_infotext(found)
    assert (request.prompt, request.steps, request.seed) == ("a lighthouse", 20, 5)
    assert (request.cfg_scale, request.distilled_cfg_scale) == (1.0, 2.5)
    assert (request.sampler, request.schedule, request.width) == ("Euler", "Simple", 1024)
    assert request.overrides["forge_additional_modules"] == ["ae", "t5xxl", "clip_l"]


def test_what_only_the_page_of_comfyui_saved_is_read_too() -> None:
    def saved(number: int, kind: str, values: list[Any], **links: int) -> dict[str, Any]:
        inputs = [{"name": name, "link": link} for name, link in links.items()]
        return {"id": number, "type": kind, "widgets_values": values, "inputs": inputs}

    workflow = {
        "nodes": [
            saved(1, "KSampler", [9, "randomize", 25, 6, "euler", "normal", 1], model=1,
                  positive=2, negative=3, latent_image=4),
            saved(2, "CheckpointLoaderSimple", ["base.safetensors"]),
            saved(3, "CLIPTextEncode", ["a boat"], clip=5),
            saved(4, "CLIPTextEncode", ["rain"], clip=5),
            saved(5, "EmptyLatentImage", [640, 512, 1]),
            saved(6, "VAEDecode", [], samples=6, vae=7),
            saved(7, "SaveImage", ["x"], images=8),
        ],
        "links": [[1, 2, 0, 1, 0, "MODEL"], [2, 3, 0, 1, 1, "C"], [3, 4, 0, 1, 2, "C"],
                  [4, 5, 0, 1, 3, "LATENT"], [5, 2, 1, 3, 0, "CLIP"], [6, 1, 0, 6, 0, "LATENT"],
                  [7, 2, 2, 6, 1, "VAE"], [8, 6, 0, 7, 0, "IMAGE"]],
    }  # fmt: skip
    found = read(workflow=workflow)
    assert (found.prompt, found.negative_prompt) == ("a boat", "rain")
    assert found.fields == {
        "Steps": "25", "Sampler": "Euler", "Schedule type": "Normal", "CFG scale": "6",
        "Seed": "9", "Size": "640x512", "Model": "base", "RNG": "CPU",
    }  # fmt: skip


INVOKE: dict[str, Any] = {
    "app_version": "5.4", "generation_mode": "txt2img", "positive_prompt": "a castle",
    "negative_prompt": "fog", "width": 512, "height": 640, "seed": 8, "cfg_scale": 7.5,
    "steps": 28, "scheduler": "dpmpp_2m_k", "clip_skip": 1, "rand_device": "cpu",
    "model": {"key": "k", "hash": "blake3:x", "name": "dream", "base": "sd-1", "type": "main"},
    "vae": {"name": "soft"}, "loras": [{"model": {"name": "oil"}, "weight": 0.75}],
}  # fmt: skip


def test_invokeai_of_today_and_of_version_3() -> None:
    found = read(invokeai_metadata=INVOKE)
    assert (found.prompt, found.negative_prompt) == ("a castle <lora:oil:0.75>", "fog")
    assert found.fields == {
        "Steps": "28", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "7.5",
        "Seed": "8", "Size": "512x640", "Model": "dream", "VAE": "soft", "Clip skip": "2",
        "RNG": "CPU",
    }  # fmt: skip
    older = INVOKE | {
        "model": {"model_name": "dream", "base_model": "sd-1"},
        "loras": [{"lora": {"model_name": "oil"}, "weight": 0.75}],
    }
    assert read(invokeai_metadata=older).prompt == found.prompt
    refined = INVOKE | {"refiner_model": {"name": "fine"}, "refiner_start": 0.7}
    request = request_from_infotext(read(invokeai_metadata=refined))
    assert (request.refiner, request.refiner_switch_at) == ("fine", 0.7)


def test_invokeai_before_version_3() -> None:
    image = {
        "prompt": [{"prompt": "a castle [fog] at night", "weight": 1.0}], "steps": 50,
        "cfg_scale": 7.5, "sampler": "k_euler_a", "seed": 3, "width": 512, "height": 512,
    }  # fmt: skip
    found = read(**{"sd-metadata": {"model_weights": "sd-1.5", "image": image}})
    assert (found.prompt, found.negative_prompt) == ("a castle at night", "fog")
    assert (found.fields["Sampler"], found.fields["Model"]) == ("Euler a", "sd-1.5")


FOOOCUS: dict[str, Any] = {
    "prompt": "a tiger", "full_prompt": ["cinematic a tiger", "sharp"], "negative_prompt": "",
    "full_negative_prompt": ["anime"], "styles": "['Fooocus V2']", "performance": "Speed",
    "steps": 30, "resolution": "(1152, 896)", "guidance_scale": 4.0, "sharpness": 2.0,
    "base_model": "juggernaut", "base_model_hash": "abcdef0123", "refiner_model": "None",
    "refiner_switch": 0.5, "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras",
    "seed": "1234", "lora_combined_1": "offset : 0.1", "version": "Fooocus v2.5.5",
}  # fmt: skip


def test_fooocus_in_png_and_jpeg() -> None:
    found = read(parameters=FOOOCUS, fooocus_scheme="fooocus")
    assert found.prompt == "cinematic a tiger, sharp <lora:offset:0.1>"
    assert found.negative_prompt == "anime"
    assert found.fields == {
        "Steps": "30", "Sampler": "DPM++ 2M SDE", "Schedule type": "Karras", "CFG scale": "4.0",
        "Seed": "1234", "Size": "1152x896", "Model hash": "abcdef0123", "Model": "juggernaut",
        "RNG": "CPU",
    }  # fmt: skip
    block, file = Image.Exif(), io.BytesIO()
    block[USER_COMMENT] = json.dumps(FOOOCUS)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG", exif=block.tobytes())
    assert parse_infotext(read_texts(file.getvalue()).items["parameters"]) == found


def test_novelai_of_every_age() -> None:
    made = {"steps": 28, "sampler": "k_dpmpp_2m", "seed": 5, "scale": 11.0, "uc": "ugly",
            "width": 512, "height": 768}  # fmt: skip
    old = read(Software="NovelAI", Description="a fox", Comment=made)
    assert (old.prompt, old.fields["Sampler"], old.fields["ENSD"]) == ("a fox", "DPM++ 2M", "31337")
    caption = {"base_caption": "two girls", "char_captions": [{"char_caption": "red hair"}]}
    new = {key: value for key, value in made.items() if key != "uc"} | {
        "noise_schedule": "karras", "v4_prompt": {"caption": caption},
        "v4_negative_prompt": {"caption": {"base_caption": "blurry", "char_captions": []}},
    }  # fmt: skip
    found = read(Software="NovelAI", Comment=new)
    assert (found.prompt, found.negative_prompt) == ("two girls, red hair", "blurry")
    assert found.fields["Schedule type"] == "Karras" and "ENSD" not in found.fields


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"prompt": '{"3": {"class_type"'}, "ComfyUI's data is no whole JSON: "),
        ({"prompt": "{}"}, "ComfyUI's data has a shape that is not known here"),
        ({"prompt": json.dumps({"1": node("LoadImage", image="x.png")})}, "only LoadImage"),
        (
            {"prompt": json.dumps({str(one): node("KSampler") for one in range(1001)})},
            "has 1001 nodes; at most 1000 are read",
        ),
        ({"workflow": '{"nodes": 5}'}, "ComfyUI's data has a shape"),
        ({"prompt": '{"a":' * 5000}, "ComfyUI's data is no whole JSON: "),
        ({"invokeai_metadata": "[1]"}, "InvokeAI's data has a shape"),
        ({"invokeai_metadata": "{}"}, "InvokeAI's data says too little"),
        ({"invokeai_metadata": '{"loras": 3}'}, "InvokeAI's data has a shape"),
        ({"parameters": '{"base_model": '}, "Fooocus's data is no whole JSON"),
        ({"Software": "NovelAI", "Comment": "no json"}, "NovelAI's data is no whole JSON"),
        ({"Software": "NovelAI", "Comment": "{}"}, "NovelAI's data has a shape"),
    ],
)
def test_what_cannot_be_read_is_told(texts: dict[str, str], said: str) -> None:
    found = read_texts(picture(**texts))
    assert found.foreign is not None
    assert said in found.foreign.problem
    assert "parameters" not in found.items


def test_an_infotext_beside_a_graph_counts_and_other_texts_are_left_alone() -> None:
    for prompt in ("a cat", "{red|green} apple"):
        ours = f"{prompt}\nSteps: 5, Sampler: Euler, Seed: 1"
        found = read_texts(picture(parameters=ours, prompt=json.dumps(PLAIN)))
        assert (found.items["parameters"], found.foreign) == (ours, None)
    assert read_texts(picture(prompt="a cat")).foreign is None


def test_every_name_of_theirs_is_known_here() -> None:
    for name in foreign_names._SAMPLERS:
        assert SAMPLER_TABLE.canonical(foreign_names.sampler(name)), name
    for name in foreign_names._SCHEDULES:
        assert SCHEDULE_TABLE.canonical(foreign_names.schedule(name)), name
    for name in foreign_names._INVOKE:
        assert SAMPLER_TABLE.canonical(foreign_names.invoke_sampler(f"{name}_k")[0]), name
    for name in foreign_names._LATENT:
        assert foreign_names.latent_upscaler(name) in LATENT_MODES, name


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([["3", 0], ["5", 0], ["99", 1]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)  # fmt: skip


@settings(deadline=None)
@given(
    places=st.lists(
        st.tuples(
            st.sampled_from(sorted(PLAIN)),
            st.sampled_from(["class_type", "inputs", "text", "model", "latent_image", "images",
                             "positive", "steps", "width", "samples", "clip"]),
            VALUES,
        ),
        max_size=6,
    ),
    program=st.sampled_from(["prompt", "invokeai_metadata", "parameters", "Comment"]),
)  # fmt: skip
def test_no_json_of_any_shape_raises(places: list[tuple[str, str, Any]], program: str) -> None:
    """Circles, wrong types, missing parts: an infotext or a sentence, never an exception."""
    base: Any = {"prompt": PLAIN, "invokeai_metadata": INVOKE, "parameters": FOOOCUS}
    made = copy.deepcopy(base.get(program, {"steps": 1, "sampler": "x", "v4_prompt": {}}))
    for key, name, value in places:
        node = made.get(key)
        if isinstance(node, dict) and name in ("class_type", "inputs"):
            node[name] = value
        elif isinstance(node, dict) and isinstance(node.get("inputs"), dict):
            node["inputs"][name] = value
        else:
            made[sorted(made)[len(name) % len(made)]] = value
    found = foreign_infotext({program: json.dumps(made), "Software": "NovelAI"})
    if found is not None and found.infotext:
        request_from_infotext(parse_infotext(found.infotext))
    else:
        assert found is None or found.problem
