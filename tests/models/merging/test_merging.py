"""Merges of real tiny checkpoints: the numbers, the types, what is refused, what is left behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.core.errors import Cancelled, InvalidRequest, SdforgeError, UnsupportedCheckpoint
from sdforge.core.merge import Merge
from sdforge.models.merging.command import main
from sdforge.models.merging.metadata import Origin, merged_metadata
from sdforge.models.merging.plan import plan_merge
from sdforge.models.merging.write import write_merged
from sdforge.models.opening import open_model
from tests.tiny import TINY, Sizes, sparse_checkpoint

UNET = "model.diffusion_model."
INPUT = f"{UNET}input_blocks.0.0.weight"
# Small, since every test writes whole files.
SMALL = Sizes(
    unet_width=32, unet_factors=(1, 2), text_width=32, text_layers=1, vocabulary=60,
    vae_width=32, vae_factors=(1, 2), blocks=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files a, b, c (fp32) and half (fp16) of one kind; do not change them."""
    folder = tmp_path_factory.mktemp("merging")
    for seed, name in enumerate("abc"):
        write_checkpoint(
            folder / f"{name}.safetensors", SMALL, seed=seed, metadata={"said": name, name: "1"}
        )
    write_checkpoint(folder / "half.safetensors", SMALL, seed=5, dtype="F16", metadata={})
    return folder


def merged(folder: Path, target: Path, *names: str, vae: Path | None = None, **values: Any) -> Path:
    """Merge files of the folder into `target`."""
    letters = dict(zip(("primary", "secondary", "tertiary"), names, strict=False))
    merge = Merge(**letters, **values)
    merge.check()
    headers = [open_model(folder / f"{name}.safetensors") for name in names]
    plan = plan_merge(merge, headers, open_model(vae) if vae else None)
    origins = [Origin(name=name, sha256=f"{name}0" * 32) for name in names]
    sha256 = write_merged(plan, merged_metadata(plan, origins), target, lambda count: None)
    assert sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert {path.name for path in target.parent.glob(".*")} == set()
    return target


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key].view(torch.uint8), other[key].view(torch.uint8)) for key in one
    )


@pytest.mark.parametrize(("multiplier", "equals"), [(0.0, "a"), (1.0, "b")])
def test_the_ends_of_a_weighted_sum_are_the_checkpoints(
    folder: Path, tmp_path: Path, multiplier: float, equals: str
) -> None:
    path = merged(folder, tmp_path / "m.safetensors", "a", "b", multiplier=multiplier)
    assert same_bits(load_file(path), tensors(folder, equals))


def test_a_weighted_sum_and_a_difference_are_the_formulas(folder: Path, tmp_path: Path) -> None:
    a, b, c = (tensors(folder, name) for name in "abc")
    made = load_file(merged(folder, tmp_path / "s.safetensors", "a", "b", multiplier=0.3))
    other = load_file(
        merged(folder, tmp_path / "d.safetensors", "a", "b", "c", method="Add difference",
               multiplier=0.7)
    )  # fmt: skip
    assert made.keys() == a.keys() == other.keys()
    for key, one in a.items():
        wanted = one.double() * 0.7 + b[key].double() * 0.3
        assert torch.allclose(made[key].double(), wanted, atol=1e-6, rtol=1e-6), key
        wanted = one.double() + (b[key].double() - c[key].double()) * 0.7
        assert torch.allclose(other[key].double(), wanted, atol=1e-6, rtol=1e-6), key


def test_no_difference_changes_nothing(folder: Path, tmp_path: Path) -> None:
    path = merged(
        folder, tmp_path / "m.safetensors", "a", "b", "b", method="Add difference", multiplier=1.0
    )
    assert same_bits(load_file(path), tensors(folder, "a"))


def test_files_of_unlike_numbers_are_mixed_in_the_more_precise(
    folder: Path, tmp_path: Path
) -> None:
    made = load_file(merged(folder, tmp_path / "m.safetensors", "half", "b", multiplier=0.5))
    half, b = tensors(folder, "half"), tensors(folder, "b")
    for key, one in made.items():
        assert one.dtype == torch.float32
        assert torch.allclose(one, (half[key].float() + b[key]) / 2, atol=1e-7), key


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)],
)
def test_numbers_are_saved_as_asked(
    folder: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    path = merged(folder, tmp_path / "m.safetensors", "a", method="No interpolation",
                  precision=precision)  # fmt: skip
    made, a = load_file(path), tensors(folder, "a")
    assert same_bits(made, {key: one.to(dtype) for key, one in a.items()})


def test_fp8_is_for_large_weights_of_the_denoiser(folder: Path, tmp_path: Path) -> None:
    path = merged(folder, tmp_path / "m.safetensors", "a", "b", precision="fp8")
    made = load_file(path)
    types = {key: one.dtype for key, one in made.items()}
    large = {k for k, one in made.items() if k.startswith(UNET) and one.ndim > 1
             and one.numel() >= 4096}  # fmt: skip
    assert large
    assert {k for k, dtype in types.items() if dtype == torch.float8_e4m3fn} == large
    assert {types[k] for k in types.keys() - large} == {torch.float16}
    most = torch.finfo(torch.float8_e4m3fn).max
    key = min(large)
    wanted = tensors(folder, "a")[key] * 0.7 + tensors(folder, "b")[key] * 0.3
    assert torch.equal(made[key].float(), wanted.clamp(-most, most).to(made[key].dtype).float())


def test_numbers_beyond_fp16_stay_finite(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.safetensors", SMALL)
    whole = load_file(tmp_path / "a.safetensors")
    whole[INPUT].fill_(1e6)
    save_file(whole, tmp_path / "huge.safetensors")
    path = merged(tmp_path, tmp_path / "m.safetensors", "huge", method="No interpolation",
                  precision="fp16")  # fmt: skip
    assert load_file(path)[INPUT].max() == torch.finfo(torch.float16).max


def test_an_inpainting_model_takes_the_difference_of_plain_ones(
    folder: Path, tmp_path: Path
) -> None:
    whole = tensors(folder, "a")
    plain = whole[INPUT]
    whole[INPUT] = torch.cat([plain, torch.full((plain.shape[0], 5, 3, 3), 0.25)], dim=1)
    save_file(whole, tmp_path / "inpaint.safetensors")
    for name in "bc":
        (tmp_path / f"{name}.safetensors").symlink_to(folder / f"{name}.safetensors")
    path = merged(tmp_path, tmp_path / "m.safetensors", "inpaint", "b", "c",
                  method="Add difference", multiplier=1.0)  # fmt: skip
    made, b, c = load_file(path)[INPUT], tensors(folder, "b"), tensors(folder, "c")
    assert torch.allclose(made[:, :4], plain + b[INPUT] - c[INPUT], atol=1e-6)
    assert torch.equal(made[:, 4:], whole[INPUT][:, 4:])
    assert json.loads(metadata(path)["sd_merge_recipe"])["is_inpainting"] is True
    with pytest.raises(UnsupportedCheckpoint, match="input_blocks.0.0.weight"):
        merged(tmp_path, tmp_path / "n.safetensors", "b", "inpaint")


def test_another_vae_is_baked_in(folder: Path, tmp_path: Path) -> None:
    vae = write_checkpoint(
        tmp_path / "v.safetensors", SMALL, seed=9, metadata={}, prefix="first_stage_model."
    )
    path = merged(folder, tmp_path / "m.safetensors", "a", "b", multiplier=0.0, vae=vae,
                  discard=r"^cond_stage_model\.")  # fmt: skip
    a, made = tensors(folder, "a"), load_file(path)
    baked = {f"first_stage_model.{key}": one for key, one in load_file(vae).items()}
    wanted = {k: baked.get(k, one) for k, one in a.items() if not k.startswith("cond_stage_model.")}
    assert same_bits(made, wanted)
    other = sparse_checkpoint(tmp_path / "w.safetensors", {"decoder.conv_in.weight": (8, 16, 3, 3)})
    with pytest.raises(UnsupportedCheckpoint, match="16 latent channels"):
        merged(folder, tmp_path / "n.safetensors", "a", method="No interpolation", vae=other)


def test_the_file_says_what_went_in(folder: Path, tmp_path: Path) -> None:
    first = merged(folder, tmp_path / "ab.safetensors", "a", "b", metadata={"mine": "yes"})
    found = metadata(first)
    assert found["mine"] == "yes" and found["said"] == "b" and found["a"] == found["b"] == "1"
    recipe = json.loads(found["sd_merge_recipe"])
    assert recipe["primary_model_hash"] == "a0" * 32
    assert recipe["tertiary_model_hash"] is None
    assert (recipe["interp_method"], recipe["multiplier"]) == ("Weighted sum", 0.3)
    models = json.loads(found["sd_merge_models"])
    assert {one["name"] for one in models.values()} == {"a", "b"}
    # A merge of merges knows all of its ancestors.
    (tmp_path / "c.safetensors").symlink_to(folder / "c.safetensors")
    second = metadata(merged(tmp_path, tmp_path / "abc.safetensors", "ab", "c"))
    ancestors = json.loads(second["sd_merge_models"])
    assert {one["name"] for one in ancestors.values()} == {"a", "b", "ab", "c"}
    assert ancestors["ab0" * 32]["sd_merge_recipe"] == recipe
    bare = merged(folder, tmp_path / "bare.safetensors", "a", "b", save_metadata=False)
    assert metadata(bare) == {}


def test_pickles_and_folders_are_read_too(folder: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": tensors(folder, "b")}, tmp_path / "b.ckpt")
    merge = Merge(primary="a", secondary="b", multiplier=1.0)
    headers = [open_model(folder / "a.safetensors"), open_model(tmp_path / "b.ckpt")]
    write_merged(plan_merge(merge, headers), {}, tmp_path / "m.safetensors", lambda count: None)
    assert same_bits(load_file(tmp_path / "m.safetensors"), tensors(folder, "b"))


def test_text_encoders_with_short_names_find_their_counterparts(
    folder: Path, tmp_path: Path
) -> None:
    b = tensors(folder, "b")
    short = {key.replace("transformer.text_model.", "transformer."): v for key, v in b.items()}
    assert short.keys() != b.keys()
    save_file(short, tmp_path / "b.safetensors")
    (tmp_path / "a.safetensors").symlink_to(folder / "a.safetensors")
    made = merged(tmp_path, tmp_path / "m.safetensors", "a", "b", multiplier=1.0)
    assert same_bits(load_file(made), b)


def test_what_the_other_lacks_stays_and_is_said(folder: Path, tmp_path: Path) -> None:
    kept = {k: v for k, v in tensors(folder, "b").items() if not k.startswith("first_stage")}
    save_file(kept, tmp_path / "b.safetensors")
    headers = [open_model(folder / "a.safetensors"), open_model(tmp_path / "b.safetensors")]
    plan = plan_merge(Merge(primary="a", secondary="b"), headers)
    assert "no counterpart in b.safetensors" in plan.notices[0]
    write_merged(plan, {}, tmp_path / "m.safetensors", lambda count: None)
    made, a = load_file(tmp_path / "m.safetensors"), tensors(folder, "a")
    assert all(torch.equal(made[k], a[k]) for k in a if k.startswith("first_stage"))


def test_a_merge_that_is_stopped_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise Cancelled("enough")

    target = tmp_path / "m.safetensors"
    target.write_bytes(b"before")
    plan = plan_merge(
        Merge(primary="a", method="No interpolation"), [open_model(folder / "a.safetensors")]
    )
    with pytest.raises(Cancelled):
        write_merged(plan, {}, target, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert target.read_bytes() == b"before"


# --- what is refused ------------------------------------------------------------------------------


def refused(*paths: Path, **values: Any) -> str:
    names = dict(zip(("primary", "secondary", "tertiary"), map(str, paths), strict=False))
    with pytest.raises(SdforgeError) as error:
        plan_merge(Merge(**names, **values), [open_model(path) for path in paths])
    return error.value.message


def test_checkpoints_that_have_nothing_in_common_are_refused(folder: Path, tmp_path: Path) -> None:
    a = folder / "a.safetensors"
    flux = sparse_checkpoint(
        tmp_path / "flux.safetensors",
        {"double_blocks.0.img_mod.lin.weight": (8, 8), "img_in.weight": (8, 64)},
    )
    assert "one is Stable Diffusion 1.x, the other Flux.1" in refused(a, flux)
    wide = write_checkpoint(tmp_path / "wide.safetensors", TINY, metadata={})
    assert "cannot be merged" in refused(a, wide)
    v = write_checkpoint(tmp_path / "v.safetensors", SMALL, metadata={})
    save_file(load_file(v) | {"v_pred": torch.zeros(1)}, v)
    assert "predicts epsilon" in refused(a, v)
    assert "wide" in refused(a, wide)


def test_packed_weights_are_refused_by_what_they_are(folder: Path, tmp_path: Path) -> None:
    scaled = tensors(folder, "a")
    scaled[INPUT.replace("weight", "scale_weight")] = torch.ones(1)
    save_file(scaled, tmp_path / "scaled.safetensors")
    text = refused(folder / "a.safetensors", tmp_path / "scaled.safetensors")
    assert "scale_weight" in text and "fp16 file" in text


def test_a_pattern_that_leaves_nothing_is_refused(folder: Path) -> None:
    a = folder / "a.safetensors"
    text = refused(a, method="No interpolation", discard=".")
    assert text.startswith("discard_weights")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_merges_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.safetensors").symlink_to(folder / "a.safetensors")
    (tmp_path / "a.yaml").write_text("model: {}\n")
    output = tmp_path / "m.safetensors"
    files = [str(tmp_path / "a.safetensors"), str(folder / "b.safetensors")]
    assert main([*files, "-o", str(output), "-m", "1"]) == 0
    assert same_bits(load_file(output), tensors(folder, "b"))
    sha256 = hashlib.sha256(output.read_bytes()).hexdigest()
    assert f"[{sha256[:10]}]" in capsys.readouterr().out
    assert (tmp_path / "m.yaml").read_text() == "model: {}\n"
    recipe = json.loads(metadata(output)["sd_merge_recipe"])
    b_hash = hashlib.sha256((folder / "b.safetensors").read_bytes()).hexdigest()
    assert recipe["secondary_model_hash"] == b_hash
    assert main([*files, "-o", str(output)]) == 1
    assert "--overwrite" in capsys.readouterr().err or output.exists()
    assert main([*files, "-o", str(tmp_path / "a.safetensors"), "--overwrite"]) == 1
    assert "one of those that are merged" in capsys.readouterr().err
    assert main([*files, "-o", str(tmp_path / "x.ckpt")]) == 1
    assert main([*files, "-o", str(output), "-m", "2", "--overwrite"]) == 1


def test_values_of_a_merge_are_checked_before_files_are_read() -> None:
    with pytest.raises(InvalidRequest):
        Merge(primary="a", secondary="b", multiplier=-1).check()
