"""Files of a hub, fetched from one on this machine."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.core.hub import Hub
from sdforge.core.paths import Paths
from sdforge.engine import download as fetching
from sdforge.engine.downloads import Download, Downloads
from tests.hub import LoopbackHub, serving

CONTENT = bytes(range(256)) * 20_000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr(fetching, "_PAUSE_SECONDS", 0.0)
    with serving() as served:
        yield served


@pytest.fixture
def downloads(hub: LoopbackHub, tmp_path: Path) -> Iterator[Downloads]:
    made = Downloads(Paths.under(tmp_path), Hub(endpoint=hub.endpoint, is_open=True))
    yield made
    made.close()


def fetch(downloads: Downloads, text: str, kind: str = "checkpoint") -> Download:
    return downloads.wait(downloads.add(text, kind).id)


def leftovers(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob(".*.part")]


def test_a_file_arrives_whole_in_the_folder_of_its_kind(
    hub: LoopbackHub, downloads: Downloads, tmp_path: Path
) -> None:
    arrived: list[tuple[Path, str]] = []
    downloads._on_arrival = lambda path, name: arrived.append((path, name))
    large = hub.put("o/n/sub/big.safetensors", CONTENT)
    small = hub.put("o/n/small.gguf", b"little", small=True)
    found = fetch(downloads, large)
    assert (found.state, found.done_bytes, found.total_bytes) == ("done", *[len(CONTENT)] * 2)
    assert fetch(downloads, small, "lora").state == "done"
    models = tmp_path / "models"
    assert (models / "Stable-diffusion" / "big.safetensors").read_bytes() == CONTENT
    assert (models / "Lora" / "small.gguf").read_bytes() == b"little"
    assert [path.name for path, _ in arrived] == ["big.safetensors", "small.gguf"]
    assert leftovers(models / "Stable-diffusion") == []


def test_what_broke_off_goes_on_where_it_stopped(hub: LoopbackHub, downloads: Downloads) -> None:
    hub.breaks = [1_000_000, 500_000]
    assert fetch(downloads, hub.put("o/n/x.safetensors", CONTENT)).state == "done"
    ranges = [asked for path, asked, _ in hub.asked if path.startswith("store/")]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_what_was_given_up_is_kept_for_the_next_attempt(
    hub: LoopbackHub, downloads: Downloads, tmp_path: Path
) -> None:
    named = hub.put("o/n/x.safetensors", CONTENT)
    hub.breaks = [1_000_000, 0, 0, 0]
    found = fetch(downloads, named)
    assert found.state == "failed"
    assert "1000000 of 5120000 bytes are kept" in found.error
    folder = downloads.folder("checkpoint")
    assert leftovers(folder) == [1_000_000]
    assert not (folder / "x.safetensors").exists()
    later = Downloads(Paths.under(tmp_path), downloads.hub)
    assert fetch(later, named).state == "done"
    later.close()
    assert hub.asked[-1][1] == "bytes=1000000-"
    assert (folder / "x.safetensors").read_bytes() == CONTENT


def test_a_store_that_knows_no_ranges_sends_all_again(
    hub: LoopbackHub, downloads: Downloads
) -> None:
    hub.breaks, hub.knows_ranges = [1_000_000], False
    assert fetch(downloads, hub.put("o/n/x.safetensors", CONTENT)).state == "done"


def test_a_download_can_be_stopped_and_goes_on_later(
    hub: LoopbackHub, downloads: Downloads
) -> None:
    named = hub.put("o/n/x.safetensors", CONTENT)
    hub.holds = threading.Event()
    first, second = downloads.add(named), downloads.add(hub.put("o/n/y.gguf", b"y"))
    assert hub.is_halfway.wait(60)
    assert downloads.cancel(second.id).state == "cancelled"
    downloads.cancel(first.id)
    hub.holds.set()
    assert downloads.wait(first.id).state == "cancelled"
    folder = downloads.folder("checkpoint")
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == []
    hub.holds = None
    assert fetch(downloads, named).state == "done"
    for one in downloads.all():
        downloads.cancel(one.id)
    assert downloads.all() == []
    with pytest.raises(NotFound):
        downloads.cancel(first.id)


def test_a_damaged_file_is_thrown_away(hub: LoopbackHub, downloads: Downloads) -> None:
    hub.lies = {"X-Linked-ETag": f'"{"0" * 64}"'}
    found = fetch(downloads, hub.put("o/n/x.safetensors", CONTENT))
    assert (found.state, "damaged" in found.error) == ("failed", True)
    assert list(downloads.folder("checkpoint").iterdir()) == []


@pytest.mark.parametrize(
    ("lies", "reason"),
    [
        ({"X-Linked-ETag": '"abc"'}, "could not be checked"),
        ({"X-Linked-Size": "many"}, "could not be checked"),
        ({"X-Linked-Size": "5000"}, "more came than the hub had said"),
        ({"Location": "http://localhost:1/x"}, "not among the allowed"),
        ({"Location": "file:///etc/passwd"}, "none of http"),
        ({"Location": "http://127.0.0.1:1/x"}, "cannot be reached"),
    ],
)
def test_answers_that_cannot_be_right_are_refused(
    hub: LoopbackHub, downloads: Downloads, lies: dict[str, str | None], reason: str
) -> None:
    hub.lies = lies
    found = fetch(downloads, hub.put("o/n/x.safetensors", CONTENT))
    assert found.state == "failed"
    assert reason in found.error


def test_what_the_hub_does_not_give_out_is_said(
    hub: LoopbackHub, downloads: Downloads, tmp_path: Path
) -> None:
    assert "has no hf:o/n/none.gguf" in fetch(downloads, "hf:o/n/none.gguf").error
    named = hub.put("o/n/x.safetensors", CONTENT)
    hub.needs_token = "letmein"
    assert "HF_TOKEN" in fetch(downloads, named).error
    knowing = Hub(endpoint=hub.endpoint, is_open=True, token="letmein")
    others = Downloads(Paths.under(tmp_path), knowing)
    assert fetch(others, named).state == "done"
    others.close()


def test_the_token_does_not_travel_to_another_server(hub: LoopbackHub, tmp_path: Path) -> None:
    with serving() as store:
        named = hub.put("o/n/x.safetensors", CONTENT)
        store.files, hub.store = hub.files, store.endpoint
        downloads = Downloads(Paths.under(tmp_path), Hub(endpoint=hub.endpoint, token="secret"))
        assert fetch(downloads, named).state == "done"
        downloads.close()
        assert {token for _, _, token in hub.asked} == {"Bearer secret"}
        assert {token for _, _, token in store.asked} == {None}


def test_a_full_disk_is_known_beforehand(
    hub: LoopbackHub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 2**29))
    found = fetch(downloads, hub.put("o/n/x.safetensors", CONTENT))
    assert (found.state, "has room for" in found.error) == ("failed", True)
    assert not any(path.startswith("store/") for path, _, _ in hub.asked)


def test_with_no_network_it_says_so(tmp_path: Path) -> None:
    downloads = Downloads(Paths.under(tmp_path), Hub(endpoint="http://127.0.0.1:9"))
    assert "Is this machine online?" in fetch(downloads, "hf:o/n/x.gguf").error
    downloads.close()


def test_files_that_are_there_are_not_replaced(hub: LoopbackHub, downloads: Downloads) -> None:
    named = hub.put("o/n/x.safetensors", CONTENT)
    fetch(downloads, named)
    with pytest.raises(InvalidRequest, match=r"x\.safetensors"):
        downloads.add(named)
    with pytest.raises(InvalidRequest, match="kind"):
        downloads.add("hf:o/n/y.gguf", "../..")
