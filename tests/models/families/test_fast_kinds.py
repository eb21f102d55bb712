import pytest

from sdforge.core.request import Recommended
from sdforge.models.families.fast_kinds import fast_kind


@pytest.mark.parametrize(
    ("name", "kind", "steps", "cfg_scale"),
    [
        ("sd_xl_turbo_1.0_fp16", "turbo", 4, 1.0),
        ("sdxl_lightning_8step", "lightning", 8, 1.0),
        ("dreamshaperXL_v21TurboDPMSDE", "turbo", 4, 1.0),
        ("realvisxlV50_v50LightningBakedvae", "lightning", 4, 1.0),
        ("juggernautXL-Lightning", "lightning", 4, 1.0),
        ("Hyper-SDXL-1step-lora-merged", "hyper", 1, 1.0),
        ("hyperrealistic_v3", None, 0, 0),
        ("DreamShaper8_LCM", "lcm", 6, 1.5),
        ("illustrious-dmd2-4step", "dmd2", 4, 1.0),
        ("v1-5-pruned-emaonly", None, 0, 0),
    ],
)
def test_fast_checkpoints_are_known_by_their_name(
    name: str, kind: str | None, steps: int, cfg_scale: float
) -> None:
    found = fast_kind(name, {})
    assert (found.name if found else None) == kind
    if found:
        assert (found.recommended.steps, found.recommended.cfg_scale) == (steps, cfg_scale)


def test_metadata_tell_too_and_turbo_draws_small_pictures() -> None:
    found = fast_kind("model", {"modelspec.title": "SDXL Turbo", "other": "lightning"})
    assert found is not None
    assert found.sign == "its modelspec.title says"
    assert found.recommended == Recommended(
        width=512, height=512, steps=4, cfg_scale=1.0, sampler="Euler a"
    )
