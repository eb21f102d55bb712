"""Extra networks named in a prompt, `<lora:name:0.8>`: taken out of the text into a typed list.

Any kind is read here; whether there is such a network is known by who applies them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NETWORK = re.compile(r"<(\w+):([^>]+)>")


@dataclass(frozen=True)
class ExtraNetwork:
    """One mention of a network.

    Attributes:
        kind: "lora", "lyco", "hypernet"…, as it was written.
        args: what stands between colons, the network's name first.
        named: items of the form `key=value`.
    """

    kind: str
    args: tuple[str, ...]
    named: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The network's name, "" if only named items were given."""
        return self.args[0] if self.args else ""


def take_networks(prompt: str) -> tuple[str, tuple[ExtraNetwork, ...]]:
    """Return the prompt without its networks, and them in order."""
    networks = tuple(_read(match) for match in _NETWORK.finditer(prompt))
    return _NETWORK.sub("", prompt), networks


def _read(match: re.Match[str]) -> ExtraNetwork:
    items = [item.split("=", 2) for item in match[2].split(":")]
    return ExtraNetwork(
        kind=match[1],
        args=tuple("=".join(item) for item in items if len(item) != 2),
        named={item[0]: item[1] for item in items if len(item) == 2},
    )
