"""The next checkpoint is read while one works: real tiny files, real threads."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sdforge.core.errors import Cancelled, UnknownName
from sdforge.core.model_choice import ModelChoice
from sdforge.core.settings import Settings
from sdforge.memory.holdings import Limits
from sdforge.memory.pressure import HostMemory
from sdforge.models import loader, read_ahead
from sdforge.models.checkpoint import read_header
from sdforge.models.weights import load_component
from tests.models.test_loader import picture
from tests.tiny import GIB, Parts, make_checkpoint, tiny_server_parts

PATIENCE = 60.0
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints in fp16, which are converted on the way and so take memory of their own."""
    folder = tmp_path_factory.mktemp("ahead")
    return [
        make_checkpoint(folder / f"{name}.safetensors", seed=seed, dtype="F16")
        for seed, name in enumerate(NAMES)
    ]


@pytest.fixture
def parts(tmp_path: Path, files: list[Path]) -> Iterator[Parts]:
    made = tiny_server_parts(tmp_path, *files)
    # What the machine has left must not decide these tests.
    made.provider.store._read_memory = plenty
    made.provider.configure(Settings(models_memory_limit=4096))
    yield made
    made.provider.unload()


def plenty() -> HostMemory:
    return HostMemory(total=64 * GIB, available=32 * GIB)


def choices(*names: str) -> list[ModelChoice]:
    return [ModelChoice(f"{name}.safetensors", "Automatic") for name in names]


def rows(parts: Parts) -> dict[str, list[str]]:
    """Return the states of the components in the store by their checkpoint's name."""
    found: dict[str, list[str]] = {}
    for row in parts.provider.report().components:
        found.setdefault(row.name, []).append(row.state)
    return found


def read_to_the_end(parts: Parts) -> read_ahead.ReadAhead:
    ahead = parts.provider._ahead
    assert ahead is not None
    assert ahead.wait(PATIENCE)
    return ahead


class Gate:
    """Loads that stand still after their first piece until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        monkeypatch.setattr(read_ahead, "load_component", self.load)

    def load(self, plan, *, name, fingerprint, on_progress):  # type: ignore[no-untyped-def]
        def stand(count: int) -> None:
            self.reached.set()
            assert self.open.wait(PATIENCE)
            on_progress(count)

        return load_component(plan, name=name, fingerprint=fingerprint, on_progress=stand)


def test_the_next_checkpoint_is_in_the_store_when_it_is_asked_for(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = parts.provider.get("two")
    wanted, size = picture(parts, alone), parts.provider.report().host_bytes
    parts.provider.unload()

    one = parts.provider.get("one")
    before = picture(parts, one)
    parts.provider.expect(choices("one", "two", "three"))
    read_to_the_end(parts)
    assert rows(parts) == {"one": ["host"] * 3, "two": ["loading"] * 3}
    assert parts.provider.report().host_bytes == 2 * size
    assert torch.equal(picture(parts, one), before)

    def refuse(*args: object, **kwargs: object) -> object:
        raise AssertionError("it was read again")

    monkeypatch.setattr(loader, "load_component", refuse)
    fractions: list[float] = []
    two = parts.provider.get("two", on_progress=fractions.append)
    assert torch.equal(picture(parts, two), wanted)
    assert torch.equal(picture(parts, one), before)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert rows(parts) == {"one": ["host"] * 3, "two": ["host"] * 3}
    assert two.identity.sha256


def test_the_second_passs_own_vae_is_read_ahead(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second pass by the same checkpoint with another VAE: of it that file alone is read."""
    path = parts.paths.vaes[0] / "second.safetensors"
    file = make_checkpoint(path, seed=7, dtype="F16", prefix="first_stage_model.")
    parts.library.refresh()
    title, modules = "one.safetensors", (file.name,)
    second = ModelChoice(title, "Automatic", modules=modules)

    first = parts.provider.get("one")
    parts.provider.expect([ModelChoice(title, "Automatic"), second])
    ahead = read_to_the_end(parts)
    assert ahead.total_bytes <= file.stat().st_size
    monkeypatch.setattr(loader, "load_component", None)
    found = parts.provider.get("one", modules=modules)
    kept = first.components["denoiser"], first.components["vae"]
    assert found.components["denoiser"] is kept[0]
    assert found.components["vae"] is not kept[1]
    # Now that it is there, nothing is left to be read.
    parts.provider.expect([ModelChoice(title, "Automatic"), second])
    assert parts.provider._ahead is None


def test_a_checkpoint_that_is_still_being_read_is_waited_for(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    parts.provider.get("one")
    parts.provider.expect(choices("one", "two"))
    assert gate.reached.wait(PATIENCE)

    def cancel(fraction: float) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        parts.provider.get("two", on_progress=cancel)
    # Whoever comes next finds it still under way.
    monkeypatch.setattr(loader, "load_component", None)
    parts.provider.get("two", on_progress=lambda fraction: gate.open.set())
    assert rows(parts) == {"one": ["host"] * 3, "two": ["host"] * 3}


def test_what_is_not_wanted_any_more_is_stopped_and_given_back(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.provider.get("one")
    size = parts.provider.report().host_bytes
    gate = Gate(monkeypatch)
    parts.provider.expect(choices("one", "two"))
    assert gate.reached.wait(PATIENCE)
    ahead = parts.provider._ahead
    assert ahead is not None
    threading.Timer(0.0, gate.open.set).start()
    parts.provider.expect([])
    assert ahead.wait(0)
    assert rows(parts) == {"one": ["host"] * 3}
    assert parts.provider.report().host_bytes == size

    parts.provider.expect(choices("one", "two"))
    ahead = read_to_the_end(parts)
    made = list(ahead._ready.values())
    assert len(made) == 3
    parts.provider.get("three")
    assert all(component.is_released for component in made)
    assert rows(parts) == {"one": ["host"] * 3, "three": ["host"] * 3}
    parts.provider.expect(choices("three", "two"))
    read_to_the_end(parts)
    parts.provider.unload()
    assert rows(parts) == {}
    assert parts.provider.report().host_bytes == 0


def test_nothing_in_use_leaves_for_what_comes_next(parts: Parts) -> None:
    parts.provider.get("three")
    one = parts.provider.get("one")
    size = parts.provider.report().host_bytes // 2
    parts.provider.store.configure(Limits(host_bytes=2 * size))
    parts.provider.expect(choices("one", "three", "two"))
    # Both are in use or come soon, and there is room for two: only the system's cache is warmed.
    assert parts.provider._ahead is None
    warming = parts.provider._warming
    assert warming is not None and warming.wait(PATIENCE)
    assert rows(parts) == {"three": ["host"] * 3, "one": ["host"] * 3}
    parts.provider.expect(choices("one", "two"))
    read_to_the_end(parts)
    assert rows(parts) == {"one": ["host"] * 3, "two": ["loading"] * 3}
    assert parts.provider.current is one
    assert parts.provider.report().host_bytes == 2 * size


def test_with_a_limit_of_one_only_the_file_is_read_ahead(parts: Parts) -> None:
    parts.provider.configure(Settings(sd_checkpoints_limit=1, models_memory_limit=4096))
    parts.provider.get("one")
    parts.provider.expect(choices("one", "two"))
    warming = parts.provider._warming
    assert warming is not None and warming.wait(PATIENCE)
    assert warming.read_bytes == (parts.paths.checkpoints[0] / "two.safetensors").stat().st_size
    assert rows(parts) == {"one": ["host"] * 3}


def test_parts_that_are_held_already_are_compared_and_not_read(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = parts.paths.checkpoints[0]
    content = bytearray((folder / "one.safetensors").read_bytes())
    header = read_header(folder / "one.safetensors")
    for key, info in header.tensors.items():
        if key.startswith("model.diffusion_model."):
            start, end = header.data_start + info.start, header.data_start + info.end
            content[start:end] = bytes(end - start)
    (folder / "near.safetensors").write_bytes(content)
    parts.library.refresh()
    one = parts.provider.get("one")
    parts.provider.expect(choices("one", "near"))
    ahead = read_to_the_end(parts)
    assert set(ahead.equal) == {"text_encoder", "vae"}
    assert rows(parts) == {"one": ["host"] * 3, "near": ["loading"]}
    monkeypatch.setattr("sdforge.models.content.Content.is_same", None)
    near = parts.provider.get("near")
    assert near.components["vae"] is one.components["vae"]
    assert near.components["text_encoder"] is one.components["text_encoder"]
    assert near.components["denoiser"] is not one.components["denoiser"]


def test_what_cannot_be_read_ahead_is_an_error_of_the_load_alone(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownName):
        parts.provider.expect(choices("gone"))
    parts.provider.get("one")

    def fail(*args: object, **kwargs: object) -> object:
        raise OSError("the disk went away")

    monkeypatch.setattr(read_ahead, "load_component", fail)
    parts.provider.expect(choices("one", "two"))
    read_to_the_end(parts)
    assert picture(parts, parts.provider.get("two")).shape == (1, 3, 64, 64)
    assert rows(parts) == {"one": ["host"] * 3, "two": ["host"] * 3}


def test_a_file_that_changed_since_it_was_read_ahead_is_read_anew(
    parts: Parts, files: list[Path]
) -> None:
    parts.provider.get("one")
    third = picture(parts, parts.provider.get("three"))
    parts.provider.unload()
    parts.provider.get("one")
    parts.provider.expect(choices("one", "two"))
    read_to_the_end(parts)
    (parts.paths.checkpoints[0] / "two.safetensors").write_bytes(files[2].read_bytes())
    parts.library.refresh()
    assert torch.equal(picture(parts, parts.provider.get("two")), third)


def test_a_short_machine_gets_back_what_was_read_ahead_first(parts: Parts) -> None:
    one = parts.provider.get("one")
    parts.provider.expect(choices("one", "two"))
    read_to_the_end(parts)
    assert not parts.provider.tend()
    parts.provider.store._read_memory = lambda: HostMemory(total=64 * GIB, available=GIB)
    assert parts.provider.store.wants_tending()
    assert parts.provider.tend()
    assert rows(parts) == {"one": ["host"] * 3}
    assert parts.provider.current is one
