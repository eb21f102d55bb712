import hashlib
import os
from pathlib import Path

import pytest

from sdforge.core.errors import MissingModel
from sdforge.models.hashes import HashCache, Stamp, legacy_hash


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    path.write_bytes(os.urandom(2_000_000))
    return path


def test_a_hash_is_computed_once_and_kept_on_disk(tmp_path: Path, model: Path) -> None:
    wanted = hashlib.sha256(model.read_bytes()).hexdigest()
    stamp = Stamp.of(model)
    assert HashCache(tmp_path / "c" / "h.json").compute(model) == wanted
    assert HashCache(tmp_path / "c" / "h.json").get(stamp) == wanted


def test_a_changed_file_is_hashed_again(tmp_path: Path, model: Path) -> None:
    cache = HashCache(tmp_path / "h.json")
    before = cache.compute(model)
    model.write_bytes(b"x" * 2_000_000)
    os.utime(model, ns=(1, 1))
    assert cache.get(Stamp.of(model)) is None
    assert cache.compute(model) != before


def test_a_damaged_cache_is_made_anew(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "h.json"
    for content in ("{", "[]", '{"version": 1, "sha256": {"a": 3}}', '{"version": 99}'):
        file.write_text(content)
        cache = HashCache(file)
        assert cache.get(Stamp.of(model)) is None
        wanted = cache.compute(model)
        assert HashCache(file).get(Stamp.of(model)) == wanted


def test_two_servers_do_not_lose_each_others_hashes(tmp_path: Path, model: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    first, second = HashCache(tmp_path / "h.json"), HashCache(tmp_path / "h.json")
    assert first.get(Stamp.of(model)) is None
    assert second.get(Stamp.of(model)) is None
    first.compute(model)
    second.compute(other)
    fresh = HashCache(tmp_path / "h.json")
    assert fresh.get(Stamp.of(model)) and fresh.get(Stamp.of(other))


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, model: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = HashCache(blocked / "h.json")
    assert cache.compute(model) == hashlib.sha256(model.read_bytes()).hexdigest()


def test_a_file_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match="gone.safetensors"):
        HashCache(tmp_path / "h.json").compute(tmp_path / "gone.safetensors")


def test_the_old_hash_covers_64_kib_from_one_mib_on(model: Path) -> None:
    content = model.read_bytes()[0x100000 : 0x100000 + 0x10000]
    assert legacy_hash(model) == hashlib.sha256(content).hexdigest()[:8]
    assert legacy_hash(model.with_name("gone")) is None
