"""A server in a process of its own redraws a picture; prints its memory before, and the peak.

`python -m tests.api.peak_memory FOLDER PAYLOAD`: the folder has models and the files "picture" and
"mask", which "@…" in the payload names. Bytes.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from tests.api.conftest import small
from tests.api.serving import drawing


def held(key: str) -> int:
    """Return a number of bytes that Linux knows of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{key}:")[1].split()[0]) * 1024


def main(folder: Path, payload: dict[str, object]) -> None:
    with drawing(folder) as client:
        # So that the model and all modules are there before.
        assert client.post("/sdapi/v1/txt2img", json=small(steps=1)).status_code == 200
        asked = small(steps=1, init_images=["@picture"]) | payload
        filled = {key: _filled(value, folder) for key, value in asked.items()}
        before = held("VmRSS")
        answer = client.post("/sdapi/v1/img2img", json=filled)
        assert answer.status_code == 200, answer.text
        sys.stdout.write(f"{before} {held('VmHWM')}\n")


def _filled(value: object, folder: Path) -> object:
    if isinstance(value, list):
        return [_filled(one, folder) for one in value]
    if isinstance(value, str) and value.startswith("@"):
        return base64.b64encode((folder / value[1:]).read_bytes()).decode()
    return value


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
