import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from sdforge.core.errors import MissingModel, UnknownName
from sdforge.core.paths import Paths
from sdforge.core.request import Recommended
from sdforge.models.families.sd_keys import checkpoint_shapes
from sdforge.models.hashes import legacy_hash
from sdforge.models.library import Library
from tests.tiny import TINY, make_checkpoint, sparse_checkpoint


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.under(tmp_path / "data")


def add(paths: Paths, relative: str, **metadata: str) -> Path:
    path = paths.checkpoints[0] / relative
    return sparse_checkpoint(path, checkpoint_shapes(TINY), metadata=metadata)


def test_checkpoints_are_found_in_subfolders_and_sorted_without_regard_to_case(
    paths: Paths,
) -> None:
    for name in ("b.safetensors", "sub/deep/a.safetensors", "A.safetensors", ".git/x.safetensors"):
        add(paths, name)
    names = [info.relative for info in Library(paths).checkpoints()]
    assert names == ["A.safetensors", "b.safetensors", "sub/deep/a.safetensors"]


def test_an_info_says_family_reason_and_recommendations(paths: Paths) -> None:
    add(paths, "x.safetensors", **{"modelspec.resolution": "64x64", "sdforge.steps": "4"})
    (info,) = Library(paths).checkpoints()
    assert (info.family, info.error) == ("sd1", None)
    assert "width 32" in info.reason
    assert info.recommended == Recommended(width=64, height=64, steps=4)


def test_broken_files_are_listed_with_their_error_and_harm_no_other(paths: Paths) -> None:
    add(paths, "good.safetensors")
    folder = paths.checkpoints[0]
    (folder / "letter.safetensors").write_text("Dear model, how are you? I am well, thank you.")
    (folder / "old.ckpt").write_bytes(b"\x80\x02")
    (folder / "dangling.safetensors").symlink_to(folder / "nowhere")
    infos = {info.name: info for info in Library(paths).checkpoints()}
    assert infos["good"].error is None
    assert "text" in str(infos["letter"].error)
    assert "truncated" in str(infos["old"].error)
    assert "cannot be read" in str(infos["dangling"].error)


def test_folders_that_link_to_themselves_are_walked_once(paths: Paths) -> None:
    add(paths, "sub/x.safetensors")
    (paths.checkpoints[0] / "sub" / "loop").symlink_to(paths.checkpoints[0])
    assert len(Library(paths).checkpoints()) == 1


def test_extra_folders_are_searched_and_equal_names_kept_apart(tmp_path: Path) -> None:
    extra = tmp_path / "mine"
    paths = Paths(
        data=tmp_path / "data", models=tmp_path / "data" / "models", extra_checkpoints=(extra,)
    )
    add(paths, "x.safetensors")
    sparse_checkpoint(extra / "x.safetensors", checkpoint_shapes(TINY))
    sparse_checkpoint(extra / "y.safetensors", checkpoint_shapes(TINY))
    names = [info.relative for info in Library(paths).checkpoints()]
    assert names == ["mine/x.safetensors", "x.safetensors", "y.safetensors"]


def test_a_vae_beside_its_checkpoint_is_no_checkpoint(paths: Paths) -> None:
    add(paths, "x.safetensors")
    beside = add(paths, "x.vae.safetensors")
    library = Library(paths)
    (info,) = library.checkpoints()
    assert library.find_vae("Automatic", info) == beside
    assert library.find_vae("None", info) is None


def test_all_names_of_a1111_find_a_hashed_checkpoint(paths: Paths) -> None:
    path = make_checkpoint(paths.checkpoints[0] / "sub" / "Some model.v2.safetensors")
    add(paths, "another.safetensors")
    library = Library(paths)
    info = library.ensure_hash(library.find("Some model.v2"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    short, old = sha256[:10], str(legacy_hash(path))

    assert info.title == f"sub/Some model.v2.safetensors [{short}]"
    assert info.model_name == "sub_Some model.v2"
    for name in (
        info.title,
        "sub/Some model.v2.safetensors",
        "sub\\Some model.v2.safetensors",
        "Some model.v2.safetensors",
        "sub_Some model.v2",
        "Some model.v2",
        "some MODEL.v2",
        short,
        sha256,
        f"Some model.v2 [{short}]",
        old,
        f"Some model.v2 [{old}]",
    ):
        assert library.find(name, exact=True).path == path, name
    assert old in info.aliases()


def test_an_inexact_name_finds_the_shortest_title_that_contains_it(paths: Paths) -> None:
    for name in ("realistic-vision-v5.safetensors", "realistic.safetensors", "zoo.safetensors"):
        add(paths, name)
    library = Library(paths)
    assert library.find("realis").name == "realistic"
    assert library.find("VISION").name == "realistic-vision-v5"
    assert library.find("zoo.safetensors [7460a6fa]").name == "zoo"
    with pytest.raises(UnknownName):
        library.find("realis", exact=True)


def test_an_unknown_name_is_refused_with_names_alike(paths: Paths) -> None:
    add(paths, "anything-v5.safetensors")
    with pytest.raises(UnknownName, match=r"anything-v5\.safetensors") as caught:
        Library(paths).find("anythink-v5.safetensors")
    assert caught.value.close


def test_the_empty_name_is_the_first_that_can_run(paths: Paths) -> None:
    add(paths, "b.safetensors")
    (paths.checkpoints[0] / "a.safetensors").write_text("not a model at all, but some letters")
    assert Library(paths).find("").name == "b"


def test_without_any_checkpoint_the_demo_is_used(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = sparse_checkpoint(tmp_path / "sdforge-demo.safetensors", checkpoint_shapes(TINY))
    monkeypatch.setattr("sdforge.models.library.demo_checkpoint", lambda: demo)
    library = Library(paths)
    assert [info.relative for info in library.checkpoints()] == ["sdforge-demo.safetensors"]
    assert library.find("").path == demo

    add(paths, "mine.safetensors")
    library.refresh()
    assert [info.relative for info in library.checkpoints()] == ["mine.safetensors"]


def test_nothing_at_all_says_where_to_put_files(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdforge.models.library.demo_checkpoint", lambda: tmp_path / "none")
    with pytest.raises(MissingModel, match="Stable-diffusion") as caught:
        Library(paths).find("")
    assert "--ckpt-dir" in caught.value.message
    with pytest.raises(MissingModel):
        Library(paths).find("some model")


def test_only_broken_files_say_what_is_wrong_with_them(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdforge.models.library.demo_checkpoint", lambda: tmp_path / "none")
    paths.checkpoints[0].mkdir(parents=True)
    (paths.checkpoints[0] / "a.safetensors").write_bytes(b"")
    with pytest.raises(MissingModel, match="only 0 bytes"):
        Library(paths).find("")


def test_a_refresh_sees_new_changed_and_removed_files(paths: Paths) -> None:
    first = add(paths, "a.safetensors")
    library = Library(paths)
    assert library.find("a").recommended.width is None
    add(paths, "a.safetensors", **{"modelspec.resolution": "64x64"})
    os.utime(first, ns=(5, 5))
    add(paths, "b.safetensors")
    library.refresh()
    assert library.find("a").recommended.width == 64
    assert len(library.checkpoints()) == 2
    first.unlink()
    library.refresh()
    assert [info.name for info in library.checkpoints()] == ["b"]


def test_a_hash_survives_a_restart_and_shows_in_the_title(paths: Paths) -> None:
    path = add(paths, "a.safetensors")
    library = Library(paths)
    assert library.find("a").title == "a.safetensors"
    hashed = library.ensure_hash(library.find("a"))
    assert library.find("a").title == hashed.title
    library.refresh()
    assert library.find("a").sha256 == hashed.sha256
    assert Library(paths).find("a").title == hashed.title
    os.utime(path, ns=(7, 7))
    assert Library(paths).find("a").sha256 is None


def test_hashing_can_be_turned_off(paths: Paths) -> None:
    add(paths, "a.safetensors")
    library = Library(paths, hashing=False)
    assert library.ensure_hash(library.find("a")).sha256 is None
    assert library.start_identity(library.find("a"), None).result(10).sha256 is None


def test_an_identity_names_checkpoint_and_vae_with_hashes(paths: Paths, checkpoint: Path) -> None:
    add(paths, "a.safetensors")
    vae = paths.vaes[0] / "v.safetensors"
    vae.parent.mkdir(parents=True)
    shutil.copy(checkpoint, vae)
    library = Library(paths)
    identity = library.start_identity(library.find("a"), vae).result(30)
    assert identity.title == library.find("a").title
    assert identity.name == "a"
    assert identity.vae_name == "v.safetensors"
    assert identity.vae_sha256 == hashlib.sha256(vae.read_bytes()).hexdigest()


def test_vaes_are_found_by_name_with_or_without_suffix(paths: Paths) -> None:
    add(paths, "a.safetensors")
    vae = sparse_checkpoint(paths.vaes[0] / "sub" / "ft-mse.safetensors", {"a": (1,)})
    library = Library(paths)
    info = library.find("a")
    assert [found.name for found in library.vaes()] == ["ft-mse.safetensors"]
    for name in ("ft-mse.safetensors", "FT-MSE", "sub\\ft-mse.safetensors"):
        assert library.find_vae(name, info) == vae
    for name in ("Automatic", "None", "", "automatic"):
        assert library.find_vae(name, info) is None
    with pytest.raises(UnknownName, match="ft-mse"):
        library.find_vae("ft-mze", info)


def test_listing_loads_no_torch(paths: Paths) -> None:
    import subprocess

    add(paths, "a.safetensors")
    code = (
        "import sys; from pathlib import Path; from sdforge.core.paths import Paths; "
        "from sdforge.models.library import Library; "
        "from sdforge.models.tokenizers import clip_tokenizer; clip_tokenizer(); "
        f"Library(Paths.under(Path({str(paths.data)!r}))).find('a'); "
        "print([m for m in ('torch', 'transformers', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_link_and_its_target_both_get_the_hash(paths: Paths) -> None:
    path = add(paths, "a.safetensors")
    (paths.checkpoints[0] / "b.safetensors").symlink_to(path)
    library = Library(paths)
    library.ensure_hash(library.find("b"))
    library.ensure_hash(library.find("a"))
    first, second = library.checkpoints()
    assert first.sha256 == second.sha256 is not None


def test_a_file_replaced_after_the_listing_does_not_lend_its_hash(paths: Paths) -> None:
    path = add(paths, "a.safetensors")
    library = Library(paths)
    listed = library.find("a")
    path.write_bytes(path.read_bytes() + b"more")
    assert library.ensure_hash(listed).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert library.find("a").sha256 is None
    library.refresh()
    assert library.find("a").sha256 is not None


def test_hashing_before_any_listing_does_not_hide_the_checkpoints(paths: Paths) -> None:
    add(paths, "a.safetensors")
    info = Library(paths).find("a")
    library = Library(paths)
    library.ensure_hash(info)
    assert [found.name for found in library.checkpoints()] == ["a"]


def test_a_file_that_vanishes_while_it_is_hashed_leaves_an_identity_without_hash(
    paths: Paths,
) -> None:
    path = add(paths, "a.safetensors")
    library = Library(paths)
    info = library.find("a")
    path.unlink()
    identity = library.start_identity(info, None).result(10)
    assert (identity.name, identity.sha256) == ("a", None)
