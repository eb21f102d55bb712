"""Names of files on a model hub."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.core.errors import InvalidRequest
from sdforge.core.hub import Hub, HubHosts, parse_hub_file


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf:o/n/x.safetensors", "o/n/resolve/main/x.safetensors"),
        (" o/n/x.gguf ", "o/n/resolve/main/x.gguf"),
        ("hf:o/n@v1.2/sub/x y.safetensors", "o/n/resolve/v1.2/sub/x%20y.safetensors"),
        ("https://huggingface.co/o/n/blob/main/a/x.gguf", "o/n/resolve/main/a/x.gguf"),
        ("https://huggingface.co/o/n/resolve/r/x.gguf?download=true", "o/n/resolve/r/x.gguf"),
    ],
)
def test_files_are_named_shortly_or_by_their_address(text: str, address: str) -> None:
    hub = Hub()
    assert parse_hub_file(text, "file").address(hub.endpoint) == f"{hub.endpoint}/{address}"


@pytest.mark.parametrize(
    "text",
    ["", "hf:", "hf:o/n", "hf:o/n/", "hf:o/../x.gguf", "hf:o/n/../../x.gguf", "hf:o/n//x.gguf",
     "hf:o/n/.x.gguf", "hf:o/n/x.ckpt", "hf:o/n/x.gguf/", "hf:o/n/a\\b.gguf", "hf:o/n/c:x.gguf",
     "hf:o/n/NUL.gguf", "hf:o/n/x.gguf\n", "hf:o/n/%2e%2e/x.gguf", "hf:o/n@../x.gguf",
     "https://evil.test/o/n/resolve/main/x.gguf", "https://huggingface.co/o/n/raw/main/x.gguf",
     "https://huggingface.co/o/n/resolve/main/%2e%2e/x.gguf", "http://[", "file:///etc/passwd",
     "https://huggingface.co@evil.test/o/n/resolve/main/x.gguf", "hf:o/n/x.gguf?x=1"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    if text == "hf:o/n/x.gguf\n":
        assert parse_hub_file(text, "file").name == "x.gguf"
        return
    with pytest.raises(InvalidRequest, match="file"):
        parse_hub_file(text, "file")


@settings(deadline=None)
@given(st.text(st.sampled_from("hf:/.\\@ab- %2e\0\n~$"), max_size=30), st.booleans())
def test_no_text_names_a_place_outside_of_a_folder(text: str, is_named: bool) -> None:
    try:
        found = parse_hub_file(f"hf:o/n/{text}.gguf" if is_named else text, "file")
    except InvalidRequest:
        return
    for kind in (PurePosixPath, PureWindowsPath):
        assert kind("models", found.name).parent == kind("models")
        assert kind(found.name).name == found.name
    assert not found.name.startswith(".")
    assert "/../" not in found.address("https://h.test")


def test_a_hub_may_redirect_to_the_stores_only() -> None:
    hosts = HubHosts("huggingface.co")
    assert "cdn-lfs-us-1.hf.co" in hosts
    assert "cas-bridge.xethub.hf.co" in hosts
    assert all(name not in hosts for name in ("evilhf.co", "hf.co.evil.test", "127.0.0.1", ""))
    assert [name in HubHosts("mirror.test") for name in ("cdn.hf.co", "huggingface.co")] == [
        True,
        False,
    ]


def test_the_token_goes_to_the_hub_alone() -> None:
    hub = Hub(token="secret")
    assert hub.headers("https://huggingface.co/o/n") == {"Authorization": "Bearer secret"}
    for other in ("https://cdn.hf.co/x", "http://huggingface.co/x", "https://huggingface.co:1/x"):
        assert hub.headers(other) == {}
