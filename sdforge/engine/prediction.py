"""How long a request will take, from what earlier jobs took. Pure.

Work is steps × pixels, twice where prompts guide, and each checkpoint has a pace of its own: a
request is taken apart into what each of its checkpoints draws. Pictures that a request refers to
are read once and then seen in each step, beside what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from sdforge.core.detail import Detail
from sdforge.core.request import DEFAULT_SIZE, GenerationRequest
from sdforge.engine.job import Job

# Pictures to refer to are shown no larger.
MEGAPIXEL = 1024**2
DetailsOf = Callable[[GenerationRequest], Sequence[Detail]]


def no_details(request: GenerationRequest) -> tuple[Detail, ...]:
    """Return the details of requests where nobody knows of any."""
    return ()


def predict_seconds(
    request: GenerationRequest, past: Iterable[Job], details_of: DetailsOf = no_details
) -> float | None:
    """Return how long a request will take by earlier jobs, newest first; None if none tells.

    The newest job with the same checkpoints tells most; else each checkpoint's pace is that of the
    newest job which it drew alone. Of every detail one find is expected. Loading is not counted.
    """
    usable = [job for job in past if "denoise" in job.timings and "reuse" not in job.timings]
    asked = work_of(request, details_of(request))
    for job in usable:
        done = work_of(job.request, details_of(job.request))
        if done.keys() == asked.keys():
            share = _total(asked, request.image_count) / _total(done, len(job.images))
            return round(job.timings["denoise"] * share + _around(request, job), 3)
    paces: dict[str, tuple[float, Job]] = {}
    for job in usable:
        done = work_of(job.request, details_of(job.request))
        (title, *others) = done
        if not others and title in asked and title not in paces:
            paces[title] = job.timings["denoise"] / _total(done, len(job.images)), job
    if paces.keys() != asked.keys():
        return None
    seconds = sum(work * request.image_count * paces[title][0] for title, work in asked.items())
    # What draws last decodes.
    return round(seconds + _around(request, paces[list(asked)[-1]][1]), 3)


def telling(past: Iterable[Job], details_of: DetailsOf = no_details) -> list[Job]:
    """Return the newest job of each set of checkpoints: all that predictions go by."""
    newest: dict[frozenset[str], Job] = {}
    for job in past:
        if "denoise" in job.timings and "reuse" not in job.timings:
            newest.setdefault(frozenset(work_of(job.request, details_of(job.request))), job)
    return list(newest.values())


def work_of(request: GenerationRequest, details: Sequence[Detail] = ()) -> dict[str, float]:
    """Return the work of one picture of a resolved request, by checkpoint, the last drawn last."""
    found: dict[str, float] = {}

    def add(title: str, work: float, cfg_scale: float | None) -> None:
        known = found.pop(title, 0.0)
        found[title] = known + work * (1 if cfg_scale == 1 else 2)

    width, height = request.width or DEFAULT_SIZE, request.height or DEFAULT_SIZE
    strength = 1.0 if request.denoising_strength is None else request.denoising_strength
    beside = _referred(request)
    steps = request.steps * (strength if request.init_images else 1.0)
    first = steps * (width * height + beside)
    # A refiner goes on where it takes over; with hires fix that is in the second pass.
    switch = request.refiner_switch_at if request.refiner else None
    refined = 0.0 if switch is None else 1.0 - switch
    if not request.hires:
        add(request.checkpoint, first * (1 - refined), request.cfg_scale)
        if refined:
            add(request.refiner, first * refined, request.cfg_scale)
    else:
        if request.first_picture is None:
            add(request.checkpoint, first, request.cfg_scale)
        large = request.hires_size
        steps = (request.hires_steps or request.steps) * strength
        work = steps * (large[0] * large[1] + beside)
        scale = request.hires_cfg_scale or request.cfg_scale
        add(request.hires_checkpoint or request.checkpoint, work * (1 - refined), scale)
        if refined:
            add(request.refiner, work * refined, scale)
    for detail in details:
        scale = request.cfg_scale if detail.cfg_scale is None else detail.cfg_scale
        add(detail.checkpoint or request.checkpoint, detail.work(request), scale)
    return found


def _total(work: Mapping[str, float], pictures: int) -> float:
    return max(sum(work.values()) * pictures, 1.0)


def _around(request: GenerationRequest, job: Job) -> float:
    """Return the seconds before and after sampling."""
    done = max(_pixels(job.request) * len(job.images), 1)
    share = _pixels(request) * request.image_count / done
    timings = job.timings
    detected = timings.get("detect", 0.0) * request.image_count / max(len(job.images), 1)
    decoding = timings.get("decode", 0.0)
    was_read = _given(job.request)
    # A job that read no picture tells by its decoding.
    reading = timings.get("input", 0.0) / was_read if was_read else decoding / done
    read = reading * _given(request)
    return timings.get("encode", 0.0) + decoding * share + detected + read


def _referred(request: GenerationRequest) -> int:
    """Return the pixels of all pictures that a request refers to, as they are shown."""
    return sum(min(one.width * one.height, MEGAPIXEL) for one in request.references)


def _given(request: GenerationRequest) -> int:
    """Return the pixels of all pictures that are read: to change, to refer to, to steer by."""
    shown = len(request.init_images) + sum(unit.image is not None for unit in request.control)
    return shown * _pixels(request) + _referred(request)


def _pixels(request: GenerationRequest) -> int:
    width, height = request.final_size
    return width * height
