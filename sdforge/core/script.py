"""What a selectable script is: an extension that draws several times and makes its results of that.

A1111 calls both kinds "scripts". The ones that change how a picture is made are `Extension`s and
may be many at once; of these a job has one (`script_name`). It runs inside its job, on the model
thread: every drawing goes through the `Studio` it is given, so progress, cancelling and memory
need no word in it. `sdforge/extensions/builtin` has those that ship.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from sdforge.core.errors import InvalidRequest
from sdforge.core.extension import Active, Extension, Values
from sdforge.core.inputs import InputImage
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest, Limits
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings

if TYPE_CHECKING:
    from PIL import Image


class Studio(Protocol):
    """What a script works with; it lives as long as the job runs."""

    @property
    def settings(self) -> Settings:
        """The job's snapshot."""

    def draw(self, request: GenerationRequest) -> Iterator[ImageResult]:
        """Yield the pictures of a request, which is the job's or one made from it.

        Raises:
            Cancelled: the user stopped the job. What was reached has been yielded; a script that
                has something to show for it catches this, yields, and raises it again.
        """

    def picture(self, image: InputImage) -> Image.Image:
        """Return a picture that the request refers to, RGB, or RGBA where it is transparent."""

    def put(self, picture: Image.Image) -> InputImage:
        """Return a name for a picture, under which the next `draw` finds it, and only that one."""

    def enlarged(self, picture: Image.Image, width: int, height: int, upscaler: str) -> Image.Image:
        """Return a picture stretched to a size by an upscaler, which may be a model.

        Raises:
            UnknownName: there is none of that name.
        """

    def notice(self, text: str) -> None:
        """Tell the user what went otherwise than asked."""


class Script(Extension):
    """Base of all selectable scripts: draws what the request asks for, once."""

    def is_active(self, values: Values) -> bool:
        """Being named is all it takes."""
        return True

    def batch_count(self, request: GenerationRequest, values: Values) -> int:
        """Return how many batches `run` will draw of a resolved request."""
        return request.batch_count

    def picture_count(self, request: GenerationRequest, values: Values) -> int:
        """Return how many pictures those batches have, for the limits of a job."""
        return self.batch_count(request, values) * request.batch_size

    def result_size(self, request: GenerationRequest, values: Values) -> tuple[int, int]:
        """Return (width, height) of the largest picture that `run` makes, in pixels."""
        return request.final_size

    def run(
        self, request: GenerationRequest, values: Values, studio: Studio
    ) -> Iterator[ImageResult]:
        """Yield the job's pictures; they are numbered in the order they come.

        Args:
            request: resolved.
            values: complete and checked.
            studio: draws.
        """
        yield from studio.draw(request)


def script_of(active: Iterable[Active]) -> tuple[Script, Values] | None:
    """Return the script among a job's extensions and its values.

    Raises:
        InvalidRequest: there are several.
    """
    found = [(one.extension, one.values) for one in active if isinstance(one.extension, Script)]
    if len(found) > 1:
        names = ", ".join(script.label for script, _ in found)
        raise InvalidRequest("script_name", names, "one script a job")
    return found[0] if found else None


def runs_script(request: GenerationRequest, registry: Registry[Extension]) -> bool:
    """Tell whether a resolved request is for a script."""
    names: Mapping[str, Any] = request.extensions
    return any(name in registry and isinstance(registry.get(name), Script) for name in names)


def check_script(request: GenerationRequest, active: Iterable[Active], limits: Limits) -> None:
    """Raise `InvalidRequest` unless the script of a resolved request can run, if it has one."""
    found = script_of(active)
    if found is None:
        return
    script, values = found
    if request.kind not in script.kinds:
        raise InvalidRequest("script_name", script.label, f"a script of {request.kind}")
    width, height = script.result_size(request, values)
    if width * height > limits.pixels_per_image:
        allowed = f"at most {limits.pixels_per_image} pixels a picture"
        raise InvalidRequest("script_args", f"a result of {width}x{height}", allowed)
    pictures = script.picture_count(request, values)
    if pictures > limits.images_per_job:
        allowed = f"at most {limits.images_per_job} a job"
        raise InvalidRequest("script_args", f"{pictures} pictures to draw", allowed)
