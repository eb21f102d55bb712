"""What fields of extensions may choose among files: detectors, checkpoints and VAEs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdforge.extensions.detail_fields import NO_MODEL
from sdforge.ui.checkpoints import Checkpoints, Choice
from sdforge.ui.extensions import Extensions, widgets_of_lists

# The first tab's detector, which a new page has chosen: switching ADetailer on is enough.
_CHOSEN = "adetailer.ad_model"


def choices_on_disk(
    checkpoints: Checkpoints,
    extensions: Extensions,
    values: Mapping[str, Any],
    remembered: Mapping[str, Any] | None = None,
) -> dict[str, Choice]:
    """Return the lists of an extension's widgets, by their names; what is gone stays to be seen.

    Args:
        checkpoints: of the engine.
        extensions: of the tab.
        values: the form's.
        remembered: what the browser kept where a page is loaded; None where lists are refreshed.
    """
    library = checkpoints.library
    lists = {
        "detectors": library.detectors.names(),
        "vaes": [vae.name for vae in library.vaes()],
        "checkpoints": [title for title, _ in checkpoints.options()],
    }
    found = {}
    for name, field in widgets_of_lists(extensions).items():
        names = lists[str(field.choices)]
        chosen = str(values.get(name) or field.default)
        is_new = name == _CHOSEN and remembered is not None and name not in remembered
        if is_new and chosen == NO_MODEL:
            chosen = next(iter(names), NO_MODEL)
        listed = dict.fromkeys((field.default, *names, chosen))
        found[name] = Choice(tuple((one, one) for one in listed), chosen)
    return found
