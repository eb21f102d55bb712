from __future__ import annotations

import subprocess
import sys

import pytest

from sdforge.core.errors import UnknownName
from sdforge.sampling.names import (
    SAMPLER_NAMES,
    SCHEDULE_NAMES,
    resolve_sampler,
    sampler_names,
    schedule_labels,
)


@pytest.mark.parametrize(
    ("name", "schedule", "expected"),
    [
        ("Euler", "Automatic", ("Euler", "Uniform")),
        ("Euler", "", ("Euler", "Uniform")),
        ("Euler", "Karras", ("Euler", "Karras")),
        ("euler A", "automatic", ("Euler a", "Uniform")),
        ("k_euler_a", "karras", ("Euler a", "Karras")),
        ("k_euler_ancestral", "KARRAS", ("Euler a", "Karras")),
        ("DPM++ 2M", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ SDE", "Automatic", ("DPM++ SDE", "Karras")),
        ("DPM++ 2M SDE", "Automatic", ("DPM++ 2M SDE", "Exponential")),
        ("DPM++ 2M Karras", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M SDE Karras", "automatic", ("DPM++ 2M SDE", "Karras")),
        ("DPM++ 2M SDE Karras", "Exponential", ("DPM++ 2M SDE", "Exponential")),
        ("dpm++ 2m sde karras", "", ("DPM++ 2M SDE", "Karras")),
        ("Euler SGMUniform", "", ("Euler", "SGM Uniform")),
        ("Euler sgm_uniform", "", ("Euler", "SGM Uniform")),
        ("Euler Align Your Steps", "", ("Euler", "Align Your Steps")),
        ("Euler Automatic", "", ("Euler", "Uniform")),
        ("k_dpmpp_2m_ka", "", ("DPM++ 2M", "Karras")),
        ("k_dpmpp_2m_sde_exp", "", ("DPM++ 2M SDE", "Exponential")),
        ("LMS Karras", "", ("LMS", "Karras")),
        (" Heun ", " Normal ", ("Heun", "Normal")),
        ("Heun", "SGMUniform", ("Heun", "SGM Uniform")),
        ("DPM++ 2S a Karras", "", ("DPM++ 2S a", "Karras")),
        ("DPM++ 2M SDE Heun Exponential", "", ("DPM++ 2M SDE Heun", "Exponential")),
        ("DPM++ 3M SDE", "Automatic", ("DPM++ 3M SDE", "Exponential")),
        ("DPM2 a Karras", "", ("DPM2 a", "Karras")),
        ("k_dpm_ad", "", ("DPM adaptive", "Uniform")),
        ("Restart", "Automatic", ("Restart", "Karras")),
        ("SA-Solver", "Automatic", ("SA-Solver", "Karras")),
        ("Euler Align Your Steps 32", "", ("Euler", "Align Your Steps 32")),
        ("UniPC", "Karras", ("UniPC", "DDIM")),
        ("PLMS", "", ("PLMS", "DDIM")),
        ("lcm", "turbo", ("LCM", "Turbo")),
        ("DDIM", "Automatic", ("DDIM", "DDIM")),
        ("DDIM", "Karras", ("DDIM", "DDIM")),
        ("Euler DDIM", "", ("Euler", "DDIM")),
    ],
)
def test_names_resolve(name: str, schedule: str, expected: tuple[str, str]) -> None:
    assert resolve_sampler(name, schedule) == expected


def test_every_listed_pair_resolves_to_itself_or_to_the_default() -> None:
    for sampler in SAMPLER_NAMES:
        for label in schedule_labels():
            resolved, schedule = resolve_sampler(sampler.name, label)
            assert resolved == sampler.name
            assert schedule in schedule_labels() and schedule != "Automatic"
            assert sampler.timesteps or label in (schedule, "Automatic")


def test_every_alias_resolves() -> None:
    for sampler in SAMPLER_NAMES:
        for alias in sampler.aliases:
            assert resolve_sampler(alias, "Simple")[0] == sampler.name
    for schedule in SCHEDULE_NAMES[1:]:
        for alias in (schedule.name, *schedule.aliases):
            assert resolve_sampler("Euler", alias) == ("Euler", schedule.label)


def test_unknown_names_are_refused_by_field_with_likenesses() -> None:
    with pytest.raises(UnknownName) as caught:
        resolve_sampler("Eular a", "Automatic")
    assert caught.value.field == "sampler_name"
    assert "Euler a" in caught.value.close
    with pytest.raises(UnknownName) as caught:
        resolve_sampler("Euler", "Karas")
    assert caught.value.field == "scheduler"
    assert caught.value.close == ("Karras",)
    with pytest.raises(UnknownName):
        resolve_sampler("Eular Karras", "")
    with pytest.raises(UnknownName):
        resolve_sampler("", "")


def test_rest_options_are_a1111s() -> None:
    options = {row.name: dict(row.options) for row in SAMPLER_NAMES}
    assert options["DPM++ 2M"] == {"scheduler": "karras"}
    assert options["DPM++ SDE"] == {
        "scheduler": "karras", "second_order": True, "brownian_noise": True,
    }  # fmt: skip
    assert options["DPM++ 2M SDE"] == {"scheduler": "exponential", "brownian_noise": True}
    assert options["Euler a"] == {"uses_ensd": True}
    assert options["Heun"] == {"second_order": True}
    assert options["DPM++ 2M SDE Heun"] == {
        "scheduler": "exponential", "brownian_noise": True, "solver_type": "heun",
    }  # fmt: skip
    assert options["DPM++ 3M SDE"] == {
        "scheduler": "exponential", "discard_next_to_last_sigma": True, "brownian_noise": True,
    }  # fmt: skip
    assert options["DPM2 a"] == {
        "scheduler": "karras", "discard_next_to_last_sigma": True, "uses_ensd": True,
        "second_order": True,
    }  # fmt: skip
    assert options["DPM fast"] == options["DPM adaptive"] == {"uses_ensd": True}
    assert options["Restart"] == {"scheduler": "karras", "second_order": True}
    for plain in ("Euler", "LMS", "DDIM", "DDIM CFG++", "PLMS", "UniPC", "LCM", "DDPM", "DEIS"):
        assert options[plain] == {}


def test_automatic_is_the_first_schedule_and_menus_keep_the_tables_order() -> None:
    assert schedule_labels()[:3] == ["Automatic", "Uniform", "Karras"]
    assert sampler_names() == [row.name for row in SAMPLER_NAMES]


def test_names_load_without_torch() -> None:
    code = (
        "import sys, sdforge.sampling.names;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
