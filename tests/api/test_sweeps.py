"""/api/v1/sweeps, and A1111's scripts that are sweeps."""

from __future__ import annotations

import base64
import csv
import io
import json
from typing import Any

import pytest
from PIL import Image

from tests.api.conftest import Server, StartServer, small

PATIENCE = 60.0
XYZ = "x/y/z plot"


def xyz(*axes: tuple[Any, str, Any], **flags: Any) -> list[Any]:
    """Return the 18 arguments of the script."""
    rows = [*axes, *[(0, "", [])] * (3 - len(axes))]
    known = {
        "draw_legend": True, "include_lone_images": False, "include_sub_grids": False,
        "no_fixed_seeds": False, "vary_seeds_x": False, "vary_seeds_y": False,
        "vary_seeds_z": False, "margin_size": 0, "csv_mode": False,
    }  # fmt: skip
    assert flags.keys() <= known.keys()
    return [value for row in rows for value in row] + list((known | flags).values())


def sizes(answer: dict[str, Any]) -> list[tuple[int, int]]:
    return [Image.open(io.BytesIO(base64.b64decode(one))).size for one in answer["images"]]


def draw(server: Server, args: Any, name: str = XYZ, **payload: Any) -> dict[str, Any]:
    return server.draw(script_name=name, script_args=args, **payload)


# --- A1111's script ------------------------------------------------------------------------------


def test_an_xyz_plot_answers_with_its_grid(server: Server) -> None:
    answer = draw(server, xyz((4, "1-3", []), (1, "5, 6", [])))
    info = json.loads(answer["info"])
    assert len(answer["images"]) == 1
    ((width, height),) = sizes(answer)
    assert width > 3 * 64 and height > 2 * 64
    assert info["index_of_first_image"] == 1
    assert 'X Type: Steps, X Values: 1-3, Y Type: Seed, Y Values: "5, 6"' in info["infotexts"][0]
    assert info["all_seeds"] == [5]
    assert answer["parameters"]["script_name"] == XYZ


def test_parts_and_single_pictures_come_after_the_grid(server: Server) -> None:
    args = xyz(
        ("Steps", "1, 2", None), ("Seed", "5, 6", None), ("CFG Scale", "1, 2, 3", None),
        include_lone_images=True, include_sub_grids=True, draw_legend=False, margin_size=2,
    )  # fmt: skip
    answer = draw(server, args)
    info = json.loads(answer["info"])
    assert sizes(answer) == [(3 * 130 + 4, 130)] + [(130, 130)] * 3 + [(64, 64)] * 12
    assert info["index_of_first_image"] == 4
    assert info["all_seeds"][4:8] == [5, 5, 6, 6]
    assert "CFG scale: 3.0" in info["infotexts"][-1]


@pytest.mark.parametrize(
    "args",
    [
        # Today's, today's by label, and the ones of older versions and of clients in other tongues.
        xyz((4, "1, 2", [])),
        xyz(("steps", "1, 2", None)),
        xyz(("4", "1, 2", "")),
        [4, "1, 2", "", 0, "", "", 0, "", "", "True", "False", "False", "False", 0],
        [4, "1, 2", "", 0, "", "", 0, "", "", "True", "False", "False", "False", 0, "False"],
        [4.0, "1, 2"],
        [{"x_type": "Steps", "x_values": "1, 2"}],
    ],
)
def test_arguments_are_read_in_every_shape_that_clients_send(server: Server, args: Any) -> None:
    info = json.loads(draw(server, args)["info"])
    assert 'X Type: Steps, X Values: "1, 2"' in info["infotexts"][0]
    assert len(server.runner.ran) == 2


def test_picked_values_count_unless_text_is_asked_for(server: Server) -> None:
    args = xyz((10, "Heun", ["Euler", "LMS"]), include_lone_images=True)
    texts = json.loads(draw(server, args)["info"])["infotexts"]
    assert [text for text in texts[1:] if "Sampler: Heun" in text] == []
    typed = xyz((10, "Heun", ["Euler", "LMS"]), include_lone_images=True, csv_mode=True)
    texts = json.loads(draw(server, typed)["info"])["infotexts"]
    assert "Sampler: Heun" in texts[1] and len(texts) == 2


def test_img2img_has_its_own_indexes(server: Server) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    payload = small(
        init_images=[picture], script_name=XYZ, script_args=xyz((25, "0.3, 0.6", [])), steps=2
    )
    answer = server.client.post("/sdapi/v1/img2img", json=payload)
    assert answer.status_code == 200, answer.text
    assert "X Type: Denoising" in json.loads(answer.json()["info"])["infotexts"][0]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (xyz((4, "x", [])), "Steps"),
        (xyz((4, "0", [])), "Steps: got 0"),
        (xyz((10, "Eular", [])), "did you mean 'Euler'"),
        (xyz((12, "nothing-like-it", [])), "nothing-like-it"),
        (xyz((400, "1", [])), "got 400"),
        (xyz((4, "", [])), "at least one value"),
        (xyz((8, "horse, dog", [])), "did not find horse in prompt"),
        (xyz((4, "1-99999", [])), "at most 10000"),
        (xyz((4, "1", []), margin_size=501), "margin_size"),
        ([{"x_typo": 4}], "x_typo"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_value_named(
    server: Server, args: Any, said: str
) -> None:
    payload = small(script_name=XYZ, script_args=args)
    answer = server.client.post("/sdapi/v1/txt2img", json=payload)
    assert answer.status_code == 422
    assert said in answer.json()["message"]
    assert server.runner.ran == []


def test_an_axis_that_this_version_lacks_says_so(server: Server) -> None:
    rows = server.client.get("/api/v1/sweeps/axes").json()
    lacking = next((row for row in rows if row["missing"]), None)
    if lacking is None:
        pytest.skip("nothing is lacking")
    payload = small(script_name=XYZ, script_args=xyz((lacking["index"], "1", [])))
    answer = server.client.post("/sdapi/v1/txt2img", json=payload)
    assert answer.status_code == 422
    assert lacking["label"] in answer.json()["message"]


def test_script_info_lists_the_arguments_in_order(server: Server) -> None:
    titles = server.client.get("/sdapi/v1/scripts").json()
    assert {XYZ, "prompt matrix", "prompts from file or textbox"} <= set(titles["img2img"])
    info = server.client.get("/sdapi/v1/script-info").json()
    rows = [one for one in info if one["name"] == XYZ]
    assert [row["is_img2img"] for row in rows] == [False, True]
    assert [len(row["args"]) for row in rows] == [18, 18]
    kinds = rows[0]["args"][0]
    assert (kinds["label"], kinds["value"]) == ("X type", 1)
    assert kinds["choices"].index("Checkpoint name") == 12
    assert rows[1]["args"][0]["choices"].index("Checkpoint name") == 11
    margin = rows[0]["args"][16]
    assert (margin["minimum"], margin["maximum"], margin["step"]) == (0, 500, 2)


def test_an_interrupt_answers_with_what_there_is(server: Server) -> None:
    import threading

    server.runner.gate_step = 1
    answers: list[Any] = []
    payload = small(script_name=XYZ, script_args=xyz((1, "1-9", [])))
    call = threading.Thread(
        target=lambda: answers.append(server.client.post("/sdapi/v1/txt2img", json=payload))
    )
    call.start()
    assert server.runner.reached.acquire(timeout=PATIENCE)
    server.client.post("/sdapi/v1/interrupt")
    server.runner.gate.set()
    call.join(PATIENCE)
    assert answers[0].status_code == 200
    assert len(server.runner.ran) == 1
    assert any("not drawn" in text for text in json.loads(answers[0].json()["info"])["notices"])


def test_pictures_stay_off_the_disk_unless_they_are_to_be_saved(server: Server) -> None:
    draw(server, xyz((1, "1, 2", [])))
    assert not server.paths.resolve_output("outputs").exists()
    draw(server, xyz((1, "3, 4", [])), save_images=True)
    names = [path.name for path in server.paths.resolve_output("outputs").rglob("*.png")]
    assert len(names) == 3 and any(name.startswith("xyz_grid-0000-3") for name in names)


# --- prompt matrix, prompts from file ------------------------------------------------------------


def test_a_prompt_matrix_draws_every_subset(server: Server) -> None:
    args = [False, True, "positive", "comma", 0]
    answer = draw(server, args, name="Prompt matrix", prompt="a cat|in snow|at night, |oil")
    assert sorted(server.runner.ran) == sorted(
        ["a cat", "a cat, in snow", "a cat, at night", "a cat, in snow, at night", "a cat, oil",
         "a cat, in snow, oil", "a cat, at night, oil", "a cat, in snow, at night, oil"]
    )  # fmt: skip
    assert len(answer["images"]) == 1
    width, height = sizes(answer)[0]
    assert width > 4 * 64 and height > 2 * 64


def test_variable_parts_may_stand_first_and_in_the_negative_prompt(server: Server) -> None:
    draw(server, [True, False, "negative", "space"], name="prompt matrix", negative_prompt="bad|x")
    listed = server.client.get("/api/v1/jobs").json()
    assert {job["request"]["negative_prompt"] for job in listed} == {"bad", "x bad"}


def test_every_line_of_a_text_is_a_job(server: Server) -> None:
    text = 'an owl\n\n--prompt "a fox" --steps 2 --seed 9 --sampler_name Heun\n--prompt "a cow"'
    answer = draw(server, [True, False, "start", text, False], "Prompts from file or textbox",
                  prompt="at night")  # fmt: skip
    info = json.loads(answer["info"])
    assert info["all_prompts"] == ["an owl at night", "a fox at night", "a cow at night"]
    assert info["all_seeds"] == [5, 9, 7]
    assert "Steps: 2, Sampler: Heun" in info["infotexts"][1]
    assert len(answer["images"]) == 3 and info["index_of_first_image"] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one line"),
        ("a cat\n--stps 3", "line 2: got '--stps'"),
        ("--steps many", "line 1: steps: got 'many'"),
        ('--prompt "a cat', "quotes in pairs"),
        ("--outpath_samples /etc", "--outpath_samples"),
        ("--sampler_index 999", "sampler_index"),
        ("--sampler_name Eular", "did you mean 'Euler'"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(server: Server, text: str, said: str) -> None:
    payload = small(script_name="prompts from file or textbox",
                    script_args=[False, False, "start", text])  # fmt: skip
    answer = server.client.post("/sdapi/v1/txt2img", json=payload)
    assert answer.status_code == 422
    assert said in answer.json()["message"]


# --- our own routes ------------------------------------------------------------------------------


def a_body(*axes: tuple[str, Any], **more: Any) -> dict[str, Any]:
    rows = [{"axis": label, "values": values} for label, values in axes]
    return {"request": small(), "axes": rows, **more}


def ended(server: Server, sweep_id: str) -> dict[str, Any]:
    """Follow a sweep's events to their end; return the sweep."""
    with server.client.stream("GET", f"/api/v1/sweeps/{sweep_id}/events") as stream:
        lines = list(stream.iter_lines())
    assert "event: end" in lines
    return server.client.get(f"/api/v1/sweeps/{sweep_id}").json()  # type: ignore[no-any-return]


def test_a_sweep_over_four_axes_is_followed_by_events(server: Server) -> None:
    body = a_body(
        ("Seed", [1, 2]), ("Steps", "1, 2"), ("CFG Scale", "1-2"), ("Eta", [0, 1]), id="mine"
    )
    answer = server.client.post("/api/v1/sweeps", json=body)
    assert answer.status_code == 202, answer.text
    with server.client.stream("GET", "/api/v1/sweeps/mine/events") as stream:
        data = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith('data: {"')]
    seen = {cell["index"]: cell["status"] for event in data for cell in event["cells"]}
    assert seen == dict.fromkeys(range(16), "done")
    assert [event["revision"] for event in data] == sorted({event["revision"] for event in data})
    last = server.client.get("/api/v1/sweeps/mine").json()
    assert last["status"] == "done" and last["shape"] == [2, 2, 2, 2]
    assert last["counts"]["done"] == 16


def test_a_client_that_comes_back_hears_only_what_it_missed(server: Server) -> None:
    server.client.post("/api/v1/sweeps", json=a_body(("Seed", "1-3"), id="mine"))
    revision = ended(server, "mine")["revision"]
    headers = {"Last-Event-ID": str(revision)}
    with server.client.stream("GET", "/api/v1/sweeps/mine/events", headers=headers) as stream:
        data = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith('data: {"')]
    assert [event["cells"] for event in data] == [[]]


def test_cells_grid_table_and_page_can_be_had(server: Server) -> None:
    body = a_body(("Seed", "1-3"), ("Checkpoint name", ["tiny", "broken"]), id="mine")
    server.client.post("/api/v1/sweeps", json=body)
    sweep = ended(server, "mine")
    get = server.client.get
    first, hole = sweep["cells"][0], sweep["cells"][3]
    assert get(first["images"][0]["url"]).content.startswith(b"\x89PNG")
    assert "broken" in hole["error"] and hole["images"] == []
    cell = get("/api/v1/sweeps/mine/cells/1").json()
    assert cell["legends"][0] == "Seed: 2" and cell["request"]["seed"] == 2
    assert "Seed: 2" in cell["infotexts"][0]
    assert get("/api/v1/sweeps/mine/cells/3").json()["request"] is None
    assert get(sweep["urls"]["grid"]).content.startswith(b"\x89PNG")
    assert get(sweep["urls"]["grid"], params={"format": "webp"}).content[8:12] == b"WEBP"
    rows = list(csv.DictReader(io.StringIO(get(sweep["urls"]["table"]).text)))
    assert [row["seed"] for row in rows] == ["1", "2", "3", "", "", ""]
    page = get(sweep["urls"]["page"])
    assert page.text.count("<img") == 3
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_single_cells_are_skipped_drawn_first_and_again(server: Server) -> None:
    server.runner.gate_step = 1
    post = server.client.post
    post("/api/v1/sweeps", json=a_body(("Seed", "1-6"), id="mine"))
    assert server.runner.reached.acquire(timeout=PATIENCE)
    assert post("/api/v1/sweeps/mine/cells/4/skip").status_code == 200
    assert post("/api/v1/sweeps/mine/cells/5/first").status_code == 200
    server.runner.gate_step = None
    server.runner.gate.set()
    sweep = ended(server, "mine")
    assert sweep["counts"] == {"waiting": 0, "running": 0, "done": 5, "failed": 0, "skipped": 1}
    assert post("/api/v1/sweeps/mine/retry").json()["status"] == "running"
    assert ended(server, "mine")["counts"]["done"] == 6
    post("/api/v1/sweeps/mine/cells/0/retry")
    assert ended(server, "mine")["cells"][0]["attempt"] == 1


def test_a_sweep_is_cancelled_and_resumed(server: Server) -> None:
    server.runner.gate_step = 1
    server.client.post("/api/v1/sweeps", json=a_body(("Seed", "1-6"), id="mine"))
    assert server.runner.reached.acquire(timeout=PATIENCE)
    assert server.client.post("/api/v1/sweeps/mine/cancel").json()["status"] == "cancelled"
    server.runner.gate_step = None
    server.runner.gate.set()
    assert ended(server, "mine")["counts"]["done"] == 0
    server.client.post("/api/v1/sweeps/mine/resume")
    assert ended(server, "mine")["counts"]["done"] == 6


def test_a_dry_run_draws_nothing(server: Server) -> None:
    body = a_body(("Checkpoint name", ["tiny", "other", "broken"]), ("Seed", "1-4"))
    plan = server.client.post("/api/v1/sweeps/dry-run", json=body).json()
    assert (plan["cells"], plan["to_draw"], plan["loads"]) == (12, 8, 2)
    assert plan["fits"] is False and "broken" in plan["problems"][0]["reason"]
    assert plan["text"].startswith("12 cells, 8 to draw, 2 model loads")
    assert server.client.get("/api/v1/sweeps").json() == []


def test_a_script_can_be_submitted_without_waiting(server: Server) -> None:
    body = {"request": small(prompt="a|b"), "script": "prompt matrix", "id": "mine"}
    assert server.client.post("/api/v1/sweeps", json=body).status_code == 202
    assert ended(server, "mine")["counts"]["done"] == 2


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (a_body(("Steps", "x")), 422, "Steps"),
        (a_body(("Colour", "red")), 422, "no axis named 'Colour'"),
        (a_body(("Seed", "1"), request={"steps": "many"}), 422, "request.steps"),
        (a_body(("Seed", "1"), kind="img2img"), 404, "Init image not found"),
        (a_body(("Seed", "1"), id="../x"), 422, "id"),
        (a_body(("Seed", "1"), options={"margin_px": -1}), 422, "margin_px"),
        (a_body(*[("Seed", "1")] * 9), 422, "axes"),
        (a_body(("Seed", "1"), script="nothing"), 422, "script"),
        ({"axis": []}, 422, "axis"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(
    shared_server: Server, body: dict[str, Any], status: int, said: str
) -> None:
    for route in ("/api/v1/sweeps", "/api/v1/sweeps/dry-run"):
        if "id" in body and route.endswith("dry-run"):
            continue
        answer = shared_server.client.post(route, json=body)
        assert answer.status_code == status, answer.text
        assert said in answer.text


def test_what_is_not_there_is_404(shared_server: Server) -> None:
    get, post = shared_server.client.get, shared_server.client.post
    for path in ("", "/events", "/grid", "/table.csv", "/page", "/cells/0", "/cells/0/images/0"):
        assert get(f"/api/v1/sweeps/nowhere{path}").status_code == 404, path
    for action in ("cancel", "resume", "retry", "cells/0/skip", "cells/0/retry", "cells/0/first"):
        assert post(f"/api/v1/sweeps/nowhere/{action}").status_code == 404, action


def test_a_sweep_outlives_its_server(start_server: StartServer) -> None:
    first = start_server()
    first.client.post("/api/v1/sweeps", json=a_body(("Seed", "1-3"), id="mine"))
    ended(first, "mine")
    first.engine.close(timeout=10)
    second = start_server()
    listed = second.client.get("/api/v1/sweeps").json()
    assert [(one["id"], one["status"]) for one in listed] == [("mine", "done")]
    assert second.client.get("/api/v1/sweeps/mine/grid").content.startswith(b"\x89PNG")


def test_a_sweep_without_axes_is_one_cell_and_has_a_page(server: Server) -> None:
    sweep = {"id": "one", "request": small(), "axes": []}
    assert server.client.post("/api/v1/sweeps", json=sweep).status_code in (200, 201, 202)
    server.client.get("/api/v1/sweeps/one/events")
    answer = server.client.get("/api/v1/sweeps/one/page")
    assert answer.status_code == 200
    assert "<html" in answer.text
