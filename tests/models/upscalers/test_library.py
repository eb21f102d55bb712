"""Which upscaler files there are and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.core.paths import Paths
from sdforge.models.upscalers.library import UpscalerLibrary
from tests.tiny_upscalers import compact_shape, random_weights, write_upscaler

SHIPPED = "R-ESRGAN AnimeVideo"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.under(tmp_path)


def test_the_shipped_one_is_there_without_any_file_of_the_user(paths: Paths) -> None:
    library = UpscalerLibrary(paths)
    assert library.names() == [SHIPPED]
    for name in (SHIPPED, "r-esrgan animevideo", "realesr-animevideov3"):
        assert library.canonical(name) == SHIPPED
    assert library.canonical("4x-UltraSharp") is None


def test_files_of_all_folders_are_listed_and_new_ones_are_found(
    paths: Paths, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    folders = (*paths.upscalers, elsewhere)
    library = UpscalerLibrary(
        Paths(data=paths.data, models=paths.models, extra_upscalers=(elsewhere,))
    )
    weights = random_weights(compact_shape(3))
    assert library.names() == [SHIPPED]
    for number, folder in enumerate(folders):
        write_upscaler(folder / f"Own-{number}.safetensors", weights)
    assert library.canonical("own-2.safetensors") == "Own-2"
    assert library.names() == ["Own-0", "Own-1", "Own-2", SHIPPED]
    assert library.usable_one("Own-1").scale == 3


def test_a_users_own_file_goes_before_the_shipped_one(paths: Paths) -> None:
    path = paths.upscalers[1] / "realesr-animevideov3.safetensors"
    write_upscaler(path, random_weights(compact_shape(4)))
    assert UpscalerLibrary(paths).usable_one(SHIPPED).path == path


def test_an_unusable_file_is_listed_with_the_reason_and_never_offered(paths: Paths) -> None:
    folder = paths.upscalers[0]
    folder.mkdir(parents=True)
    (folder / "page.safetensors").write_text("<html>not found</html>")
    library = UpscalerLibrary(paths)
    info = library.find("page")
    assert info is not None
    assert "web page" in (info.error or "")
    assert library.names() == [SHIPPED]
    assert library.canonical("page") is None
    with pytest.raises(Exception, match="web page"):
        library.usable_one("page")
    with pytest.raises(MissingModel, match="no upscaler"):
        library.usable_one("gone")
    write_upscaler(
        folder / "other.safetensors", {"a.weight": random_weights(compact_shape())["body.0.bias"]}
    )
    with pytest.raises(UnsupportedCheckpoint):
        library.usable_one("other")
