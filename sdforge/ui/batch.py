"""What img2img's Batch says: which pictures are redrawn, and what else comes from files.

Plain values, no Gradio. Pictures that are chosen in the browser come with the others that a form
refers to, see `passes.Pictures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage
from sdforge.engine.picture_batch import NEGATIVE_PROMPT, PROMPT, REUSABLE, PictureBatch

SOURCE = "batch_source"
SOURCE_FILES, SOURCE_FOLDER = "upload", "from dir"
# A1111's words.
SOURCES = (("Upload", SOURCE_FILES), ("From directory", SOURCE_FOLDER))
INPUT_DIR, OUTPUT_DIR, MASK_DIR = "batch_input_dir", "batch_output_dir", "batch_mask_dir"
USE_INFO, INFO_DIR, INFO_PROPS = "batch_use_png_info", "batch_png_info_dir", "batch_png_info_props"
NAMES = (SOURCE, INPUT_DIR, OUTPUT_DIR, MASK_DIR, USE_INFO, INFO_DIR, INFO_PROPS)
DEFAULTS: Mapping[str, Any] = {
    SOURCE: SOURCE_FILES, INPUT_DIR: "", OUTPUT_DIR: "", MASK_DIR: "", USE_INFO: False,
    INFO_DIR: "", INFO_PROPS: [PROMPT, NEGATIVE_PROMPT],
}  # fmt: skip
_LONGEST = 4096


def read_value(name: str, value: Any) -> Any:
    """Return one of the values of `NAMES`.

    Raises:
        InvalidRequest: it cannot be used.
    """
    if name == USE_INFO:
        return bool(value)
    if name == INFO_PROPS:
        chosen = value if isinstance(value, list) else []
        return [one for one in REUSABLE if one in chosen]
    if name == SOURCE:
        known = [kept for _, kept in SOURCES]
        if value not in known:
            raise InvalidRequest("Batch", value, f"one of {', '.join(known)}")
        return value
    text = value or ""
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise InvalidRequest(name, value, "a folder's path")
    return text


def batch_of_form(
    values: Mapping[str, Any], images: tuple[tuple[InputImage, str], ...]
) -> PictureBatch:
    """Return the batch that a form means.

    Args:
        values: the form's.
        images: those chosen in the browser, with the names of their files.

    Raises:
        InvalidRequest: a value cannot be used, or no picture is named.
    """
    given = {name: read_value(name, values.get(name, DEFAULTS[name])) for name in NAMES}
    from_folder = given[SOURCE] == SOURCE_FOLDER
    if from_folder and not given[INPUT_DIR].strip():
        raise InvalidRequest("Input directory", "nothing", "a folder on the server")
    if not from_folder and not images:
        raise InvalidRequest("Batch", "no pictures", "pictures to redraw: choose some files")
    return PictureBatch(
        images=() if from_folder else images,
        input_dir=given[INPUT_DIR] if from_folder else "",
        output_dir=given[OUTPUT_DIR],
        mask_dir=given[MASK_DIR],
        reuse=tuple(given[INFO_PROPS]) if given[USE_INFO] else (),
        info_dir=given[INFO_DIR],
    )
