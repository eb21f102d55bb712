from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.core.errors import NotFound
from sdforge.core.inputs import InputImage
from sdforge.engine import JobStatus
from sdforge.ui import form
from sdforge.ui.checkpoints import Choice
from sdforge.ui.tab_actions import ANSWER, PICTURES, TASK_ID
from tests.ui.conftest import Backend

INFOTEXT = (
    "a red fox\nNegative prompt: blurry\nSteps: 31, Sampler: Euler, Schedule type: Karras, "
    "CFG scale: 5.5, Seed: 77, Size: 192x128, Model hash: 0123456789, Model: other, "
    "Variation seed: 9, Variation seed strength: 0.25, Batch size: 4, Version: x"
)


def filled(backend: Backend, tab: str = "txt2img", **changes: Any) -> dict[str, Any]:
    values = backend.actions.tabs[tab].load("")
    chosen = {key: one.value if isinstance(one, Choice) else one for key, one in values.items()}
    return {**chosen, TASK_ID: "task(x)", **changes}


def stored_picture(backend: Backend, size: tuple[int, int] = (96, 72)) -> InputImage:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "PNG")
    return backend.engine.add_input(file.getvalue(), "picture")


def test_submit_makes_a_job_with_the_pages_id(backend: Backend) -> None:
    answer = backend.tab.submit(filled(backend, prompt="a cat", seed=11.0))[ANSWER]
    assert answer == {"tab": "txt2img", "task": "task(x)", "accepted": "task(x)"}
    job = backend.engine.wait("task(x)", timeout=10)
    assert (job.status, job.origin) == (JobStatus.DONE, "ui")
    assert (job.request.prompt, job.request.seed, job.request.width) == ("a cat", 11, 64)


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("width", 5, "Width"),
        ("steps", None, "Sampling steps"),
        ("sampler", "Eular", "Sampling method"),
        ("batch_count", 1000, "Batch count"),
        ("seed", "x", "Seed"),
    ],
)
def test_a_bad_value_is_answered_with_its_field(
    backend: Backend, name: str, value: object, label: str
) -> None:
    changes = {name: value} | ({"batch_size": 8} if name == "batch_count" else {})
    answer = backend.tab.submit(filled(backend, **changes))[ANSWER]
    assert answer["task"] == "task(x)"
    assert answer["problem"]["field"] == name
    assert answer["problem"]["message"].startswith(label)
    with pytest.raises(NotFound):
        backend.engine.get("task(x)")


def test_the_same_form_sent_twice_makes_one_job(backend: Backend) -> None:
    backend.tab.submit(filled(backend))
    answer = backend.tab.submit(filled(backend))[ANSWER]
    assert "problem" in answer
    assert len(backend.engine.jobs()) == 1


def test_a_picture_from_elsewhere_is_enlarged_with_its_own_parameters(backend: Backend) -> None:
    first = stored_picture(backend, (128, 96)).to_json()
    values = filled(
        backend, prompt="a cat", steps=9, hires_scale=1.5, hires_steps=3, styles=["gone"]
    )  # fmt: skip
    own = INFOTEXT.replace("Batch size: 4", "Hires upscale: 3, Hires steps: 8")
    pictures = json.dumps({"first": first, "infotext": own})
    answer = backend.tab.submit(values | {TASK_ID: "task(own)", PICTURES: pictures})
    assert answer[ANSWER]["accepted"] == "task(own)"
    request = backend.engine.wait("task(own)", timeout=10).request
    assert (request.prompt, request.negative_prompt, request.styles) == ("a red fox", "blurry", ())
    assert (request.seed, request.subseed, request.subseed_strength) == (77, 9, 0.25)
    assert (request.steps, request.sampler, request.schedule) == (31, "Euler", "Karras")
    assert (request.width, request.height, request.batch_size) == (128, 96, 1)
    assert (request.hires, request.hires_scale, request.hires_steps) == (True, 1.5, 3)
    # Without a text the form's values count.
    pictures = json.dumps({"first": first, "infotext": ""})
    values |= {TASK_ID: "task(form)", PICTURES: pictures, "styles": []}
    assert backend.tab.submit(values)[ANSWER]["accepted"] == "task(form)"
    request = backend.engine.wait("task(form)", timeout=10).request
    assert (request.prompt, request.steps, request.hires_scale) == ("a cat", 9, 1.5)


def test_the_second_passes_files_are_chosen_read_and_remembered(backend: Backend) -> None:
    vae = backend.paths.vaes[0] / "mine.safetensors"
    write_checkpoint(vae, prefix="first_stage_model.")
    offered = backend.tab.load("")["hires_modules"]
    assert offered.value == ["Use same choices"]
    assert [value for _, value in offered.options] == ["Use same choices", "mine.safetensors"]
    for chosen, wanted in (
        (["Use same choices"], None), (["mine.safetensors"], ("mine.safetensors",)),
    ):  # fmt: skip
        task = f"task({chosen[0][:4]})"
        answer = backend.tab.submit(
            filled(backend, hires=True, hires_modules=chosen) | {TASK_ID: task}
        )
        assert answer[ANSWER]["accepted"] == task
        assert backend.engine.wait(task, timeout=10).request.hires_modules == wanted
    kept = json.dumps({"values": {"hires_modules": ["mine.safetensors", "gone"]}})
    assert backend.tab.load(kept)["hires_modules"].value == ["mine.safetensors"]
    kept = json.dumps({"values": {"hires_modules": ["gone"]}})
    assert backend.tab.load(kept)["hires_modules"].value == ["Use same choices"]
    text = "a\nSteps: 5, Sampler: Euler, Hires upscale: 2, Hires Module 1: {}"
    read = backend.tab.read_prompt(filled(backend, prompt=text.format("mine")))
    assert read["hires_modules"] == ["mine.safetensors"]
    read = backend.tab.read_prompt(filled(backend, prompt=text.format("theirs")))
    assert read["hires_modules"] == ["Use same choices"]
    assert "'theirs' is not known here" in read[ANSWER]["note"]
    read = backend.tab.read_prompt(filled(backend, prompt=text.format("Built-in")))
    assert read["hires_modules"] == []


def test_reading_a_pictures_text_fills_the_form(backend: Backend) -> None:
    result = backend.tab.read_prompt(filled(backend, prompt=INFOTEXT))
    assert (result["prompt"], result["negative_prompt"]) == ("a red fox", "blurry")
    assert (result["steps"], result["sampler"], result["schedule"]) == (31, "Euler", "Karras")
    assert (result["width"], result["height"], result["cfg_scale"]) == (192, 128, 5.5)
    assert (result["seed"], result["subseed"], result["subseed_strength"]) == (77, 9, 0.25)
    assert result[form.SEED_EXTRAS] is True
    assert "batch_size" not in result


def test_names_are_read_in_any_spelling_and_unknown_ones_are_left(backend: Backend) -> None:
    text = "owl\nSteps: 9, Sampler: k_euler, Schedule type: Unheard, Seed: 1"
    result = backend.tab.read_prompt(filled(backend, prompt=text))
    assert (result["sampler"], result["steps"]) == ("Euler", 9)
    assert "schedule" not in result
    assert "Schedule type 'Unheard' is not known here." in result[ANSWER]["note"]


def test_a_prompt_without_parameters_stays_as_it_is(backend: Backend) -> None:
    result = backend.tab.read_prompt(filled(backend, prompt="just a red fox"))
    assert set(result) == {ANSWER}
    assert "no parameters" in result[ANSWER]["note"]


def test_tokens_are_counted_for_both_prompts(backend: Backend) -> None:
    counts = backend.tab.count_tokens({"prompt": "a red fox", "negative_prompt": ""})[ANSWER]
    assert [list(pair) for pair in counts["tokens"].values()] == [[3, 75], [0, 75]]


def test_what_the_browser_remembers_wins_over_the_advice(backend: Backend) -> None:
    stored = {"checkpoint": "small.safetensors", "values": {"width": 256, "prompt": "hi"}}
    values = backend.tab.load(json.dumps(stored))
    assert (values["width"], values["height"], values["prompt"]) == (256, 64, "hi")


def test_a_form_remembered_for_another_checkpoint_follows_to_this_one(backend: Backend) -> None:
    stored = {
        "checkpoint": "large.safetensors",
        "values": {"width": 1024, "height": 768, "steps": 30, "prompt": "hi"},
    }
    values = backend.tab.load(json.dumps(stored))
    assert (values["width"], values["height"], values["steps"]) == (64, 768, 4)


def test_hires_values_count_only_while_it_is_ticked(backend: Backend) -> None:
    values = filled(backend, hires_scale=1.5, hires_steps="nonsense")
    assert "accepted" in backend.tab.submit(values)[ANSWER]
    request = backend.engine.wait("task(x)", timeout=10).request
    assert (request.hires, request.hires_scale, request.denoising_strength) == (False, 2.0, None)
    ticked = values | {"hires": True, "hires_steps": 3, "denoising_strength": 0.5, TASK_ID: "b"}
    backend.tab.submit(ticked)
    request = backend.engine.wait("b", timeout=10).request
    assert (request.hires_scale, request.hires_steps) == (1.5, 3)
    assert (request.denoising_strength, request.hires_cfg_scale) == (0.5, None)


def test_a_bad_hires_value_is_named_as_the_page_labels_it(backend: Backend) -> None:
    values = filled(backend, hires=True, hires_upscaler="Latnet")
    told = backend.tab.submit(values)[ANSWER]["problem"]
    assert told["field"] == "hires_upscaler"
    assert told["message"].startswith("Hires upscaler: ")


def test_a_shown_picture_is_enlarged_with_its_seed(backend: Backend) -> None:
    first = stored_picture(backend)
    sent = json.dumps({"first": first.to_json(), "seed": 7})
    backend.tab.submit(filled(backend, batch_count=3, **{PICTURES: sent}))
    request = backend.engine.wait("task(x)", timeout=10).request
    assert request.hires
    assert request.first_picture == first
    assert (request.width, request.height, request.seed, request.image_count) == (96, 72, 7, 1)


def test_an_img2img_form_carries_picture_mask_and_factor(backend: Backend) -> None:
    picture, mask = stored_picture(backend), stored_picture(backend, (96, 71))
    sent = json.dumps({"init": picture.to_json(), "mask": mask.to_json()})
    tab = backend.actions.tabs["img2img"]
    values = filled(
        backend, "img2img", mode="inpaint", mask_blur_x=9, only_masked=True, sizing="by",
        scale=1.5, width="unused", **{PICTURES: sent},
    )  # fmt: skip
    assert "accepted" in tab.submit(values)[ANSWER]
    request = backend.engine.wait("task(x)", timeout=10).request
    assert (request.init_images, request.mask) == ((picture,), mask)
    assert (request.mask_blur_x, request.mask_blur_y, request.only_masked) == (9, 9, True)
    assert (request.width, request.height, request.denoising_strength) == (144, 104, 0.75)
    plain = tab.submit(values | {"mode": "img2img", TASK_ID: "plain"})[ANSWER]
    request = backend.engine.wait(plain["accepted"], timeout=10).request
    assert (request.mask, request.mask_blur_x, request.only_masked) == (None, 4, False)


@pytest.mark.parametrize(
    ("mode", "sent", "wanted"), [("img2img", (), "Picture: "), ("inpaint", ("init",), "Mask: ")]
)
def test_a_missing_picture_is_named(
    backend: Backend, mode: str, sent: tuple[str, ...], wanted: str
) -> None:
    pictures = json.dumps({name: stored_picture(backend).to_json() for name in sent})
    values = filled(backend, "img2img", mode=mode, **{PICTURES: pictures})
    answer = backend.actions.tabs["img2img"].submit(values)[ANSWER]
    assert answer["problem"]["message"].startswith(wanted)
    assert backend.engine.jobs() == []


def test_a_pictures_text_switches_hires_fix_and_the_refiner(backend: Backend) -> None:
    text = (
        "fox\nSteps: 9, Sampler: Euler, Seed: 1, Denoising strength: 0.4, Hires upscale: 1.5, "
        "Hires upscaler: Lanczos, Refiner: large, Refiner switch at: 0.6"
    )
    result = backend.tab.read_prompt(filled(backend, prompt=text, hires_steps=7))
    assert (result["hires"], result["hires_upscaler"], result["hires_scale"]) == (
        True, "Lanczos", 1.5,
    )  # fmt: skip
    assert (result["denoising_strength"], result["hires_steps"]) == (0.4, 0)
    assert (result["refiner_on"], result["refiner"]) == (True, "large.safetensors")
    plain = backend.tab.read_prompt(
        filled(backend, prompt="fox\nSteps: 9, Sampler: Euler, Seed: 1")
    )
    assert (plain["hires"], plain["refiner_on"]) == (False, False)


def test_an_img2img_form_says_how_much_the_picture_weighs_where_a_checkpoint_asks(
    backend: Backend,
) -> None:
    tab = backend.actions.tabs["img2img"]
    sent = json.dumps({"init": stored_picture(backend).to_json()})
    values = filled(backend, "img2img", **{PICTURES: sent})
    assert tab._request(values).image_cfg_scale == 1.5
    text = "a fox\nSteps: 2, Sampler: Euler, Seed: 1, Image CFG scale: 2.25, Version: x"
    assert tab.read_prompt(values | {"prompt": text})["image_cfg_scale"] == 2.25
    assert "image_cfg_scale" not in form.FORM_NAMES["txt2img"]


def test_an_img2img_form_is_remembered(backend: Backend) -> None:
    tab = backend.actions.tabs["img2img"]
    kept = {"mode": "inpaint", "scale": 2.5, "masked_content": 2, "only_masked": True, "sizing": 3}
    values = tab.load(json.dumps({"checkpoint": "small.safetensors", "values": kept}))
    assert (values["mode"], values["scale"], values["sizing"]) == ("inpaint", 2.5, "to")
    assert (values["masked_content"], values["only_masked"]) == (2, True)


def test_hires_fix_offers_upscaler_models_and_forgets_those_that_are_gone(backend: Backend) -> None:
    stored = {"values": {"hires_upscaler": "4x-Gone"}, "checkpoint": ""}
    for remembered in ("", json.dumps(stored)):
        choice = backend.tab.load(remembered)["hires_upscaler"]
        names = [value for _, value in choice.options]
        assert names[0] == "Latent"
        assert names[-1] == "R-ESRGAN AnimeVideo"
        assert choice.value == "Latent"
    again = backend.tab.refresh_lists({"hires_upscaler": "R-ESRGAN AnimeVideo"})["hires_upscaler"]
    assert again.value == "R-ESRGAN AnimeVideo"


def painted_layer(backend: Backend) -> dict[str, Any]:
    layer = Image.new("RGBA", (96, 72), (0, 0, 0, 0))
    layer.paste((255, 0, 0, 255), (10, 10, 40, 40))
    file = io.BytesIO()
    layer.save(file, "PNG")
    return backend.engine.add_input(file.getvalue(), "paint").to_json()


def read_back(backend: Backend, image: InputImage | None) -> Image.Image:
    assert image is not None
    return Image.open(io.BytesIO(backend.engine.inputs.read(image)))


def test_a_sketch_is_what_the_job_starts_from(backend: Backend) -> None:
    tab = backend.actions.tabs["img2img"]
    sent = json.dumps({"init": stored_picture(backend).to_json(), "paint": painted_layer(backend)})
    values = filled(backend, "img2img", mode="sketch", **{PICTURES: sent})
    assert "accepted" in tab.submit(values)[ANSWER]
    request = backend.engine.wait("task(x)", timeout=10).request
    start = read_back(backend, request.init_images[0])
    assert start.getpixel((20, 20)) == (255, 0, 0)
    assert start.getpixel((60, 60)) == (0, 128, 128)
    assert request.mask is None


def test_an_inpaint_sketch_is_start_and_mask(backend: Backend) -> None:
    tab = backend.actions.tabs["img2img"]
    pictures = {"init": stored_picture(backend).to_json(), "paint": painted_layer(backend)}
    values = filled(
        backend, "img2img", mode="inpaint_sketch", mask_blur_x=0, mask_alpha=50,
        **{PICTURES: json.dumps(pictures)},
    )  # fmt: skip
    assert "accepted" in tab.submit(values)[ANSWER]
    request = backend.engine.wait("task(x)", timeout=10).request
    mask = read_back(backend, request.mask)
    assert (mask.getpixel((20, 20)), mask.getpixel((60, 60))) == (255, 0)
    mixed = read_back(backend, request.init_images[0]).getpixel((20, 20))
    assert isinstance(mixed, tuple) and abs(mixed[0] - 128) <= 1 and abs(mixed[1] - 64) <= 1
    del pictures["paint"]
    again = values | {TASK_ID: "task(y)", PICTURES: json.dumps(pictures)}
    assert tab.submit(again)[ANSWER]["problem"]["message"].startswith("Mask: ")


def test_a_batch_of_files_is_a_job_each_of_its_own_size(backend: Backend) -> None:
    tab = backend.actions.tabs["img2img"]
    images = [stored_picture(backend), stored_picture(backend, (64, 128))]
    sent = [image.to_json() | {"name": f"{number}.png"} for number, image in enumerate(images)]
    values = filled(
        backend, "img2img", mode="batch", sizing="by", scale=2, batch_output_dir="outputs/made",
        **{PICTURES: json.dumps({"batch": [*sent, {**sent[0], "sha256": "0" * 64, "name": "x"}]})},
    )  # fmt: skip
    answer = tab.submit(values)[ANSWER]
    assert answer["accepted"] == answer["batch"][0] == "task(x)"
    assert len(answer["batch"]) == 2 and answer["failures"][0].startswith("x: ")
    requests = [backend.engine.wait(one, timeout=10).request for one in answer["batch"]]
    assert [(one.width, one.height) for one in requests] == [(192, 144), (128, 256)]
    assert [one.file_name for one in requests] == ["0", "1"]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "Batch: "),
        ({"batch_source": "from dir"}, "Input directory: "),
        ({"batch_source": "from dir", "batch_input_dir": "/etc"}, "Input directory: "),
        ({"batch_source": "from dir", "batch_input_dir": "x" * 5000}, "batch_input_dir: "),
    ],
)
def test_a_batch_that_names_no_pictures_is_refused(
    backend: Backend, changes: dict[str, Any], wanted: str
) -> None:
    values = filled(backend, "img2img", mode="batch", **changes)
    answer = backend.actions.tabs["img2img"].submit(values)[ANSWER]
    assert answer["problem"]["message"].startswith(wanted)


def test_a_batch_is_estimated_at_the_forms_size(backend: Backend) -> None:
    values = filled(backend, "img2img", mode="batch")
    assert "phases" in backend.actions.tabs["img2img"].estimate(values)[ANSWER]["fit"]
