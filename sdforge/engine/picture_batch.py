"""A batch of pictures, as A1111's img2img and its ControlNet units have one: a job for each.

The pictures are sent by the client or lie in a folder that the server's owner allowed. What is
wrong with one of them is said with its name, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import InvalidRequest, QueueFull, SdforgeError
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.engine.job import Job
from sdforge.output.infotext import parse_infotext, request_from_infotext
from sdforge.output.metadata import read_infotext

if TYPE_CHECKING:
    from sdforge.engine.engine import Engine

PROMPT, NEGATIVE_PROMPT, MODEL_HASH = "Prompt", "Negative prompt", "Model hash"
# What may be taken from a picture's text, by A1111's names: the request's values that it sets.
_VALUES: Mapping[str, tuple[str, ...]] = {
    "Seed": ("seed",),
    "CFG scale": ("cfg_scale",),
    "Sampler": ("sampler", "schedule"),
    "Steps": ("steps",),
}
REUSABLE = (PROMPT, NEGATIVE_PROMPT, *_VALUES, MODEL_HASH)

# From a picture and its mask to the request that redraws it.
MakeRequest = Callable[[InputImage, InputImage | None], GenerationRequest]
# From pictures by the place of their ControlNet unit to the request that they steer.
MakeControlled = Callable[[Mapping[int, InputImage]], GenerationRequest]


@dataclass(frozen=True, kw_only=True)
class PictureBatch:
    """Which pictures are redrawn, and what else comes from files.

    Attributes:
        images: stored pictures and the names of their files; counts where `input_dir` is empty.
        input_dir: a folder of pictures on the server.
        output_dir: where results go, called like their pictures; "" for the settings' folder.
        mask_dir: a folder of masks: one for all, or for each picture one of its name.
        reuse: which of `REUSABLE` come from each picture's own text.
        info_dir: a folder of pictures of the same names whose texts count instead.
    """

    images: tuple[tuple[InputImage, str], ...] = ()
    input_dir: str = ""
    output_dir: str = ""
    mask_dir: str = ""
    reuse: tuple[str, ...] = ()
    info_dir: str = ""


@dataclass(frozen=True, kw_only=True)
class BatchAnswer:
    """The jobs that were queued, in order, and a sentence for each picture that was not."""

    jobs: tuple[Job, ...]
    failures: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A picture of a batch: where it lies, or what it is stored as."""

    name: str
    image: InputImage | None = None
    path: Path | None = None


@dataclass(frozen=True)
class _Folders:
    """The folders of a batch, looked at once, before anything is queued."""

    output: str
    masks: Sequence[Path] = ()
    infos: Mapping[str, Path] = field(default_factory=dict)


def submit_batch(
    engine: Engine, batch: PictureBatch, make: MakeRequest, *, first_id: str | None = None,
    origin: str = "ui",
) -> BatchAnswer:  # fmt: skip
    """Queue a job for every picture of a batch.

    Args:
        engine: takes the jobs.
        batch: the pictures.
        make: called for each, with its mask where there is one.
        first_id: the first job's; the others get new ones.
        origin: "ui" or "api".

    Raises:
        InvalidRequest: there are no pictures or too many, or a folder may not be read.
        SdforgeError: no picture could be queued; the sentence names the first of them.
    """
    sources = _sources(engine, batch)
    folders = _folders(engine, batch)

    def request_of(number: int) -> GenerationRequest:
        return _request_of(engine, batch, folders, sources[number], make)

    names = [source.name for source in sources]
    return _submit_each(engine, names, request_of, first_id=first_id, origin=origin)


def submit_control_batch(
    engine: Engine, batches: Mapping[int, PictureBatch], make: MakeControlled, *,
    first_id: str | None = None, origin: str = "ui",
) -> BatchAnswer:  # fmt: skip
    """Queue a job for every picture that ControlNet units look at in turn.

    Several units go through theirs together, as in Forge; the shortest says how many jobs there
    are. Of a batch `images` and `input_dir` count here.

    Args:
        engine: takes the jobs.
        batches: the pictures by the units' places in the request, one at least.
        make: called for each job with the pictures of its units.
        first_id: the first job's; the others get new ones.
        origin: "ui" or "api".

    Raises:
        InvalidRequest: there are no pictures or too many, or a folder may not be read.
        SdforgeError: no job could be queued; the sentence names the first picture.
    """
    lists = {place: _sources(engine, batch) for place, batch in batches.items()}
    count = min(map(len, lists.values()))
    names = [source.name for source in next(iter(lists.values()))[:count]]
    is_named = engine.settings.current.img2img_batch_use_original_name

    def request_of(number: int) -> GenerationRequest:
        request = make({place: _image(engine, found[number]) for place, found in lists.items()})
        return replace(request, file_name=PurePath(names[number]).stem if is_named else "")

    return _submit_each(engine, names, request_of, first_id=first_id, origin=origin)


def _submit_each(
    engine: Engine,
    names: Sequence[str],
    request_of: Callable[[int], GenerationRequest],
    *,
    first_id: str | None,
    origin: str,
) -> BatchAnswer:
    """Queue a job for each of `names`; what is wrong with one is said with its name."""
    jobs: list[Job] = []
    failures: list[str] = []
    for number, name in enumerate(names):
        try:
            job_id = None if jobs else first_id
            jobs.append(engine.submit(request_of(number), job_id=job_id, origin=origin))
        except QueueFull as error:
            if not jobs:
                raise
            left = len(names) - number
            failures.append(f"{name} and what follows ({left} in all): {error.message}")
            break
        except SdforgeError as error:
            failures.append(f"{name}: {error.message}")
    if not jobs:
        more = f" ({len(failures)} pictures failed)" if len(failures) > 1 else ""
        raise InvalidRequest("Batch", failures[0] + more, "at least one picture that can be drawn")
    return BatchAnswer(jobs=tuple(jobs), failures=tuple(failures))


def _sources(engine: Engine, batch: PictureBatch) -> list[_Source]:
    most = engine.settings.current.max_queued_jobs
    if batch.input_dir.strip():
        paths = engine.folders.pictures(batch.input_dir, "Input directory", most)
        return [_Source(path.name, path=path) for path in paths]
    if not 0 < len(batch.images) <= most:
        raise InvalidRequest("Batch", f"{len(batch.images)} pictures", f"1 to {most}")
    return [
        _Source(PurePath(name.replace("\\", "/")).name or f"picture {number}", image=image)
        for number, (image, name) in enumerate(batch.images, start=1)
    ]


def _folders(engine: Engine, batch: PictureBatch) -> _Folders:
    most = engine.settings.current.max_queued_jobs
    output = batch.output_dir.strip()
    masks = batch.mask_dir.strip()
    infos = batch.info_dir.strip() if batch.reuse else ""
    found = engine.folders.pictures(infos, "PNG info directory", most) if infos else []
    return _Folders(
        output=str(engine.folders.folder(output, "Output directory")) if output else "",
        masks=engine.folders.pictures(masks, "Inpaint batch mask directory", most) if masks else (),
        infos={path.name: path for path in found},
    )


def _request_of(
    engine: Engine, batch: PictureBatch, folders: _Folders, source: _Source, make: MakeRequest
) -> GenerationRequest:
    image = _image(engine, source)
    mask = _mask_of(engine, folders, source.name)
    request = make(image, mask)
    if batch.reuse:
        if batch.info_dir.strip():
            told = folders.infos.get(source.name)
            data = _read(told, "PNG info") if told else b""
        else:
            data = engine.inputs.read(image)
        request = _with_infotext(request, read_infotext(data), batch.reuse)
    is_named = folders.output or engine.settings.current.img2img_batch_use_original_name
    return replace(
        request,
        folder=folders.output,
        file_name=PurePath(source.name).stem if is_named else "",
    )


def _image(engine: Engine, source: _Source) -> InputImage:
    if source.image:
        engine.inputs.check(source.image)
    return source.image or engine.add_input(_read(source.path, "picture"), "picture")


def _read(path: Path | None, field: str) -> bytes:
    try:
        return path.read_bytes() if path else b""
    except OSError as error:
        raise InvalidRequest(field, error.strerror, "a file that can be read") from error


def _mask_of(engine: Engine, folders: _Folders, name: str) -> InputImage | None:
    """Return the mask of a picture: the only one there is, or the one of its name (A1111)."""
    if not folders.masks:
        return None
    found = list(folders.masks)
    if len(found) > 1:
        stem = PurePath(name).stem
        found = [path for path in found if path.stem == stem]
    if not found:
        allowed = "one with the picture's name in the mask directory"
        raise InvalidRequest("mask", "none", allowed)
    return engine.add_input(_read(found[0], "mask"), f"mask {found[0].name}")


def _with_infotext(
    request: GenerationRequest, text: str, reuse: Sequence[str]
) -> GenerationRequest:
    """Return a request with what a picture's text says; prompts are appended (A1111)."""
    infotext = parse_infotext(text)
    told = request_from_infotext(infotext)
    changes: dict[str, Any] = {}
    if PROMPT in reuse:
        changes["prompt"] = f"{request.prompt} {infotext.prompt}".strip()
    if NEGATIVE_PROMPT in reuse:
        negative = f"{request.negative_prompt} {infotext.negative_prompt}"
        changes["negative_prompt"] = negative.strip()
    for key, names in _VALUES.items():
        if key in reuse and key in infotext.fields:
            changes |= {name: getattr(told, name) for name in names}
    model = infotext.fields.get(MODEL_HASH)
    if MODEL_HASH in reuse and model:
        changes["overrides"] = {**request.overrides, "sd_model_checkpoint": model}
    return replace(request, **changes)
