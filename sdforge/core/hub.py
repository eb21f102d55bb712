"""Files of a model hub: how people name them, where they lie there, and who may be asked for them.

The hub is Hugging Face's or one that speaks as it does (`--hub-endpoint`). Nothing here asks it;
`engine/download.py` does.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sdforge.core.errors import InvalidRequest
from sdforge.core.outbound import Rules

ENDPOINT = "https://huggingface.co"
# Where its files lie, to which it redirects, and so do mirrors that keep small files only.
_STORES = (".huggingface.co", ".hf.co")
SUFFIXES = (".safetensors", ".gguf")
_ALLOWED = "hf:owner/name/file.safetensors (or .gguf), or the address of such a file on the hub"
_PART = re.compile(r"[\w][\w.\- ()+=,]{0,199}")
# Names that Windows keeps for devices, whatever follows the dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository, in one revision of it."""

    owner: str
    repository: str
    path: str
    revision: str = "main"

    @property
    def name(self) -> str:
        """Its own name, without folders."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf:{self.owner}/{self.repository}{at}/{self.path}"

    def address(self, endpoint: str) -> str:
        """Return where the hub gives it out."""
        where = "/".join(map(quote, (self.owner, self.repository, "resolve", self.revision)))
        return f"{endpoint}/{where}/{quote(self.path)}"


def parse_hub_file(text: str, field: str, endpoint: str = ENDPOINT) -> HubFile:
    """Return the file that a text names: `hf:owner/name[@revision]/path`, or its address.

    Raises:
        InvalidRequest: it names none, or one that is not fetched: no pickle, no odd name.
    """
    given = text.strip()
    if given.startswith(("http://", "https://")):
        found = _of_address(given, field, endpoint)
    else:
        owner, _, rest = given.removeprefix("hf:").partition("/")
        repository, _, path = rest.partition("/")
        repository, _, revision = repository.partition("@")
        found = HubFile(owner=owner, repository=repository, path=path, revision=revision or "main")
    parts = (found.owner, found.repository, found.revision, *found.path.split("/"))
    is_sound = all(_PART.fullmatch(part) and ".." not in part for part in parts)
    if not is_sound or _DEVICES.fullmatch(found.name) or found.name != found.name.strip(" ."):
        raise InvalidRequest(field, text, _ALLOWED)
    if not found.name.lower().endswith(SUFFIXES):
        raise InvalidRequest(field, text, f"{_ALLOWED}; other kinds of files are not fetched")
    return found


def _of_address(given: str, field: str, endpoint: str) -> HubFile:
    """Return the file behind an address as the hub's pages show it."""
    try:
        asked, own = urlsplit(given), urlsplit(endpoint)
    except ValueError as error:
        raise InvalidRequest(field, given, _ALLOWED) from error
    parts = unquote(asked.path).strip("/").split("/")
    if asked.netloc != own.netloc or len(parts) < 5 or parts[2] not in ("resolve", "blob"):
        raise InvalidRequest(field, given, f"{_ALLOWED} at {own.netloc}")
    return HubFile(owner=parts[0], repository=parts[1], revision=parts[3], path="/".join(parts[4:]))


class HubHosts(Container[str]):
    """The hub itself and Hugging Face's stores."""

    def __init__(self, host: str) -> None:
        """Take the hub's own name."""
        self._host = host

    def __contains__(self, host: object) -> bool:
        return host == self._host or str(host).endswith(_STORES)


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Which hub is asked, and whether clients may name files of it.

    `token` is sent to the hub alone, never to where it redirects.
    """

    endpoint: str = ENDPOINT
    is_open: bool = False
    token: str = ""

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any], environ: Mapping[str, str]) -> Hub:
        """Read `hub_endpoint` and `hub_downloads`, and the token in `HF_TOKEN`."""
        return cls(
            endpoint=str(flags.get("hub_endpoint") or ENDPOINT).rstrip("/"),
            is_open=bool(flags.get("hub_downloads")),
            token=environ.get("HF_TOKEN", "").strip(),
        )

    @property
    def host(self) -> str:
        """Its name."""
        return urlsplit(self.endpoint).hostname or ""

    def headers(self, url: str) -> dict[str, str]:
        """Return what goes with a request: the token, to the hub itself only."""
        asked, own = urlsplit(url), urlsplit(self.endpoint)
        is_own = (asked.scheme, asked.netloc) == (own.scheme, own.netloc)
        return {"Authorization": f"Bearer {self.token}"} if self.token and is_own else {}

    @property
    def rules(self) -> Rules:
        """Whom downloads may ask; a hub that the owner named may lie in the local network."""
        return Rules(
            local=self.endpoint != ENDPOINT,
            hosts=HubHosts(self.host),
            user_agent="sdforge",
            timeout_seconds=_TIMEOUT_SECONDS,
        )
