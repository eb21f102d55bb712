"""The form's script: a sweep that Generate begins instead of a job, and what it would take.

The controls are the page's own (`assets/script.js`); what they say comes as JSON, with the names of
`sweeps.scripts`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdforge.core.errors import InvalidRequest, NotAvailable
from sdforge.core.request import GenerationRequest
from sdforge.sweeps.request import SweepRequest
from sdforge.sweeps.scripts import SWEEP_SCRIPTS, find_script, sweep_request
from sdforge.sweeps.sweeps import Sweeps

# The script's title and values, as JSON; "" for none.
SCRIPT = "script"


def asks_for_script(values: Mapping[str, Any]) -> bool:
    """Say whether a form is for a sweep."""
    return bool(str(values.get(SCRIPT) or "").strip())


def sweep_of_form(
    values: Mapping[str, Any], base: GenerationRequest, sweeps: Sweeps | None, limit: int
) -> tuple[Sweeps, SweepRequest]:
    """Return what a form asks for beside its request.

    Raises:
        InvalidRequest: the script or one of its values cannot be used.
        NotAvailable: this page belongs to no sweeps.
    """
    if sweeps is None:
        raise NotAvailable("this server draws no sweeps")
    try:
        sent = json.loads(str(values.get(SCRIPT)))
        title, given = str(sent["title"]), dict(sent["values"])
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidRequest("Script", values.get(SCRIPT), "what the page sends") from error
    script = find_script(title)
    if script is None:
        titles = ", ".join(one.title for one in SWEEP_SCRIPTS)
        raise InvalidRequest("Script", title, f"one of {titles}")
    return sweeps, sweep_request(script, given, base, sweeps.catalog, limit=limit)
