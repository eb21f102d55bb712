"""Live mode over the real engine with the model that ships: frames, jobs beside them, keeping."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sdforge.core.errors import InvalidRequest, NotFound, QueueFull
from sdforge.core.frame import FULL, LINEAR, SMALL
from sdforge.core.request import GenerationRequest
from sdforge.live.live import MOST_SESSIONS
from tests.live_mode.conftest import Client, Demo

QUICK = {"steps": 1, "decoder": SMALL, "seed": 5}


def away(first: np.ndarray, second: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(file, "PNG")
    return file.getvalue()


def test_a_frame_is_what_was_asked_for_and_says_what_it_took(client: Client) -> None:
    drawn = client.draw("an owl, blue background", **QUICK)
    assert drawn.frame.pixels.shape == (128, 128, 3) and drawn.frame.decoder == SMALL
    corner = drawn.frame.pixels[:12, :12].reshape(-1, 3).mean(0)
    assert corner.argmax() == 2, f"the background is not blue: {corner}"
    assert {"tokenise", "encode", "denoise", "decode", "copy"} <= drawn.frame.timings.keys()
    assert "<lora:demo-turbo:1>" in drawn.request.prompt and drawn.request.cfg_scale == 1.0
    # The noise is the same each time, the text is known: nothing is tokenised, nothing changes.
    again = client.draw("an owl, blue background", **QUICK)
    assert "tokenise" not in again.frame.timings
    assert (again.frame.pixels == drawn.frame.pixels).all()
    client.wait_for(lambda: any(m["type"] == "pace" for m in client.messages))


def test_the_small_decoder_shows_what_the_vae_shows_and_the_linear_map_an_eighth(
    client: Client,
) -> None:
    full = client.draw("an owl", **QUICK | {"decoder": FULL}).frame
    small = client.draw("an owl", **QUICK).frame
    linear = client.draw("an owl", **QUICK | {"decoder": LINEAR}).frame
    assert (full.decoder, small.decoder) == (FULL, SMALL)
    assert away(full.pixels, small.pixels) < 12
    assert linear.pixels.shape == (16, 16, 3)


def test_typing_while_a_job_is_drawn_supersedes_and_the_job_goes_first(
    demo: Demo, client: Client
) -> None:
    client.draw("a", **QUICK)
    before = len(client.frames)
    job = demo.engine.submit(
        GenerationRequest(prompt="a cat", steps=6, sampler="Euler", seed=1), save_images=False
    )
    numbers = [client.ask("an owl"[: count + 1], **QUICK) for count in range(6)]
    assert demo.live.state(client.session)["state"] in ("waiting", "busy", "loading", "ready")
    client.frame(numbers[-1])
    # One may have begun before the job was there; of the others only the newest was drawn.
    assert len(client.frames) - before <= 2
    assert client.session.superseded >= 4
    assert demo.finished(job).status.value == "done"
    assert demo.engine.queue_state()["waiting"] == 0


def test_a_long_frame_gives_way_to_a_job_and_is_drawn_after_it(demo: Demo, client: Client) -> None:
    client.draw("an owl", **QUICK)
    for _ in range(5):
        number = client.ask("an owl", **QUICK | {"steps": 20})
        client.until(lambda: not demo.live.waits(client.session))
        job = demo.engine.submit(
            GenerationRequest(prompt="a cat", steps=1, sampler="Euler", seed=1), save_images=False
        )
        drawn = client.frame(number)
        started = demo.finished(job).started_at
        assert drawn.number == number and drawn.quality.steps == 20 and started is not None
        if client.came[-1] > started:
            return
        # The frame was done before the job was there: once more.
    pytest.fail("the job waited for the whole frame each time")


def test_a_paused_queue_does_not_hold_up_frames(demo: Demo, client: Client) -> None:
    demo.engine.pause()
    try:
        job = demo.engine.submit(GenerationRequest(prompt="a cat", steps=1), save_images=False)
        client.draw("an owl", **QUICK)
        assert not demo.engine.get(job.id).is_finished
    finally:
        demo.engine.pause(False)
    assert demo.finished(job).status.value == "done"


def test_a_kept_frame_is_drawn_again_by_a_job_and_saved(demo: Demo, client: Client) -> None:
    drawn = client.draw("a cat, red background", **QUICK | {"decoder": FULL})
    job = demo.finished(demo.live.keep(client.session, drawn.number))
    assert job.status.value == "done" and job.images[0].path is not None
    with Image.open(job.images[0].path) as saved:
        assert (np.asarray(saved) == drawn.frame.pixels).all(), "the same picture to the bit"
        assert "<lora:demo-turbo:1>" in saved.info["parameters"]
    with pytest.raises(NotFound):
        demo.live.keep(client.session, 10_000)


def test_a_sketch_is_where_frames_start_and_strength_says_how_far(
    demo: Demo, client: Client
) -> None:
    values = QUICK | {"decoder": FULL, "source": "picture"}
    demo.live.set_picture(client.session, png((200, 30, 30)))
    near = client.draw("an owl, red background", **values, strength=0.3)
    far = client.draw("an owl, red background", **values, strength=1.0)
    red = np.full((128, 128, 3), (200, 30, 30))
    assert away(near.frame.pixels, red) < away(far.frame.pixels, red)
    again = client.draw("a cat, red background", **values, strength=0.3)
    assert "input" in near.frame.timings and "input" not in again.frame.timings, "encoded once"
    job = demo.finished(demo.live.keep(client.session, again.number))
    with Image.open(str(job.images[0].path)) as saved:
        assert (np.asarray(saved) == again.frame.pixels).all()
    demo.live.set_picture(client.session, b"")
    plain = client.draw("an owl, red background", **values)
    assert plain.sketch is None and plain.request.denoising_strength is None
    with pytest.raises(InvalidRequest):
        demo.live.set_picture(client.session, b"no picture")


def test_frames_go_on_from_the_last_one(demo: Demo, client: Client) -> None:
    values = QUICK | {"source": "frame"}
    first = client.draw("an owl", **values)
    assert not first.frame.went_on
    second = client.draw("a cat", **values, strength=0.4)
    fresh = client.draw("a cat", **QUICK)
    assert second.frame.went_on
    assert away(second.frame.pixels, first.frame.pixels) < away(
        fresh.frame.pixels, first.frame.pixels
    )
    job = demo.finished(demo.live.keep(client.session, second.number))
    assert job.status.value == "done" and job.kind == "img2img"


def test_what_cannot_be_drawn_is_said_and_the_next_wish_is_drawn(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        client.ask("an owl", strength=2.0)
    client.ask("an owl", sampler="no such", **QUICK)
    client.wait_for(lambda: any(m["type"] == "error" for m in client.messages))
    error = next(m for m in client.messages if m["type"] == "error")
    assert "no such" in error["message"] and error["number"] == client.number
    client.draw("an owl <lora:not there:1>", **QUICK)
    assert any("not there" in note for note in client.frames[-1].frame.notes)


def test_the_budget_is_obeyed_by_giving_up_steps_and_decoder(client: Client) -> None:
    for _ in range(3):
        rich = client.draw("an owl", seed=5, budget_ms=60_000)
    assert (rich.quality.steps, rich.quality.decoder) == (4, FULL)
    for _ in range(2):
        poor = client.draw("an owl", seed=5, budget_ms=20)
    assert (poor.quality.steps, poor.quality.width) == (1, 128)


def test_sessions_take_turns_and_there_is_an_end_to_them(demo: Demo, client: Client) -> None:
    other = Client(demo.live)
    try:
        for _ in range(3):
            numbers = client.ask("an owl", **QUICK), other.ask("a cat", **QUICK)
            assert client.frame(numbers[0]).number == numbers[0]
            assert other.frame(numbers[1]).number == numbers[1]
    finally:
        demo.live.close(other.session)
    extra = []
    try:
        with pytest.raises(QueueFull):
            for _ in range(MOST_SESSIONS):
                extra.append(demo.live.open(lambda: None))
    finally:
        for session in extra:
            demo.live.close(session)


def test_a_job_with_other_networks_does_not_change_the_frames_after_it(
    demo: Demo, client: Client
) -> None:
    before = client.draw("an owl", **QUICK)
    request = GenerationRequest(
        prompt="a cat <lora:demo-flat-style:1>", steps=1, sampler="Euler", seed=1
    )
    demo.finished(demo.engine.submit(request, save_images=False))
    after = client.draw("an owl", **QUICK)
    assert (after.frame.pixels == before.frame.pixels).all()


def test_unloading_gives_back_what_frames_hold(demo: Demo, client: Client) -> None:
    client.draw("an owl", **QUICK)
    demo.until_quiet()
    demo.engine.unload().result(60)
    assert demo.engine.model_state()["title"] == ""
    # The session goes on: what it needs is loaded again.
    assert client.draw("an owl", **QUICK).frame.decoder == SMALL
    assert demo.engine.model_state()["loading"] is False
