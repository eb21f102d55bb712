"""Names of samplers and schedules, and how a client's spelling is turned into them.

Free of torch: the server, the page and the API read this table at start. `sampler.py` and
`sigmas.py` attach a function to each row. Names, aliases and defaults are A1111's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sdforge.core.registry import Registry

AUTOMATIC = "Automatic"
# How UniPC may space its timesteps and weigh its differences, A1111's defaults first.
SKIP_TYPES = ("time_uniform", "time_quadratic", "logSNR")
UNI_PC_VARIANTS = ("bh1", "bh2", "vary_coeff")
# What "Automatic" means for a sampler that names no schedule: the model's own sigmas.
_PLAIN_SCHEDULE = "Uniform"
# Before 1.9 A1111 had one sampler for each pair, and these endings in its aliases.
_MERGED_ALIAS_ENDINGS = {"_ka": "Karras", "_exp": "Exponential"}


@dataclass(frozen=True, kw_only=True)
class SamplerName:
    """What is known of a sampler without its function.

    Attributes:
        default_schedule: label of the schedule that "Automatic" stands for; None for Uniform.
        second_order: asks the denoiser twice a step.
        uses_noise: draws new noise at the default options.
        brownian: its noise is the increments of one Brownian path per picture.
        solver_type: "heun" where A1111 tells so; it is another name's function, not an option.
        discard_penultimate: runs better without the next-to-last sigma.
        uses_ensd: "eta noise seed delta" changes its pictures.
        eta_setting: setting that holds its default eta.
        default_eta: its own default, in force until that setting is changed.
        timesteps: walks the model's own timesteps whatever schedule was asked for, and starts
            from noise of variance 1 + sigma² (A1111's DDIM and its kin).
        skip_types: spaces those timesteps as the setting `uni_pc_skip_type` says.
        only_ends: takes nothing but the first and the last positive sigma of the schedule, and
            stops at the latter (DPM fast, DPM adaptive).
    """

    name: str
    aliases: tuple[str, ...]
    default_schedule: str | None = None
    second_order: bool = False
    uses_noise: bool = False
    brownian: bool = False
    solver_type: str | None = None
    discard_penultimate: bool = False
    uses_ensd: bool = False
    eta_setting: str = "eta_ancestral"
    default_eta: float | None = None
    timesteps: bool = False
    skip_types: bool = False
    only_ends: bool = False

    @property
    def options(self) -> Mapping[str, Any]:
        """The options as A1111's REST API lists them: only those that are set."""
        options: dict[str, Any] = {}
        if self.default_schedule and not self.timesteps:
            options["scheduler"] = SCHEDULE_TABLE.get(self.default_schedule).name
        flags = {
            "second_order": self.second_order,
            "brownian_noise": self.brownian,
            "discard_next_to_last_sigma": self.discard_penultimate,
            "uses_ensd": self.uses_ensd,
        }
        options |= {key: True for key, is_set in flags.items() if is_set}
        return {**options, "solver_type": self.solver_type} if self.solver_type else options


@dataclass(frozen=True, kw_only=True)
class ScheduleName:
    """What is known of a schedule without its function.

    `default_rho` is -1 where the schedule has no rho; `needs_model` tells those that look up the
    model's sigmas, not only their ends.
    """

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    default_rho: float = -1.0
    needs_model: bool = False


# Forge's, in its order, and below them what ComfyUI, diffusers and others have.
SAMPLER_NAMES: tuple[SamplerName, ...] = (
    SamplerName(name="DPM++ 2M", aliases=("k_dpmpp_2m",), default_schedule="Karras"),
    SamplerName(
        name="DPM++ SDE", aliases=("k_dpmpp_sde",), default_schedule="Karras",
        second_order=True, uses_noise=True, brownian=True,
    ),
    SamplerName(
        name="DPM++ 2M SDE", aliases=("k_dpmpp_2m_sde",), default_schedule="Exponential",
        uses_noise=True, brownian=True,
    ),
    SamplerName(
        name="DPM++ 2M SDE Heun", aliases=("k_dpmpp_2m_sde_heun",), default_schedule="Exponential",
        uses_noise=True, brownian=True, solver_type="heun",
    ),
    SamplerName(
        name="DPM++ 2S a", aliases=("k_dpmpp_2s_a",), default_schedule="Karras",
        second_order=True, uses_noise=True, uses_ensd=True,
    ),
    SamplerName(
        name="DPM++ 3M SDE", aliases=("k_dpmpp_3m_sde",), default_schedule="Exponential",
        uses_noise=True, brownian=True, discard_penultimate=True,
    ),
    SamplerName(
        name="Euler a", aliases=("k_euler_a", "k_euler_ancestral"), uses_noise=True, uses_ensd=True,
    ),
    SamplerName(name="Euler", aliases=("k_euler",)),
    SamplerName(name="LMS", aliases=("k_lms",)),
    SamplerName(name="Heun", aliases=("k_heun",), second_order=True),
    SamplerName(
        name="DPM2", aliases=("k_dpm_2",), default_schedule="Karras", second_order=True,
        discard_penultimate=True,
    ),
    SamplerName(
        name="DPM2 a", aliases=("k_dpm_2_a",), default_schedule="Karras", second_order=True,
        uses_noise=True, discard_penultimate=True, uses_ensd=True,
    ),
    SamplerName(
        name="DPM fast", aliases=("k_dpm_fast",), uses_noise=True, uses_ensd=True, only_ends=True,
    ),
    SamplerName(
        name="DPM adaptive", aliases=("k_dpm_ad",), uses_noise=True, uses_ensd=True,
        only_ends=True,
    ),
    SamplerName(name="Restart", aliases=("restart",), default_schedule="Karras", second_order=True),
    SamplerName(name="HeunPP2", aliases=("heunpp2",)),
    SamplerName(name="IPNDM", aliases=("ipndm",)),
    SamplerName(name="IPNDM_V", aliases=("ipndm_v",)),
    SamplerName(name="DEIS", aliases=("deis",)),
    SamplerName(
        name="DDIM", aliases=("ddim",), default_schedule="DDIM", eta_setting="eta_ddim",
        timesteps=True,
    ),
    SamplerName(
        name="DDIM CFG++", aliases=("ddim_cfgpp",), default_schedule="DDIM",
        eta_setting="eta_ddim", timesteps=True,
    ),
    SamplerName(
        name="PLMS", aliases=("plms",), default_schedule="DDIM", eta_setting="eta_ddim",
        timesteps=True,
    ),
    SamplerName(
        name="UniPC", aliases=("unipc", "uni_pc"), default_schedule="DDIM",
        eta_setting="eta_ddim", timesteps=True, skip_types=True,
    ),
    SamplerName(name="LCM", aliases=("k_lcm",), uses_noise=True),
    SamplerName(name="DDPM", aliases=("ddpm",), uses_noise=True),
    SamplerName(name="Euler CFG++", aliases=("euler_cfg_pp",)),
    SamplerName(
        name="Euler a CFG++", aliases=("euler_ancestral_cfg_pp",), uses_noise=True, uses_ensd=True,
    ),
    SamplerName(name="DPM++ 2M CFG++", aliases=("dpmpp_2m_cfg_pp",), default_schedule="Karras"),
    SamplerName(name="RES Multistep", aliases=("res_multistep",), default_schedule="Karras"),
    SamplerName(
        name="RES Multistep a", aliases=("res_multistep_ancestral",), default_schedule="Karras",
        uses_noise=True, uses_ensd=True,
    ),
    SamplerName(
        name="RES Multistep CFG++", aliases=("res_multistep_cfg_pp",), default_schedule="Karras",
    ),
    SamplerName(name="Gradient Estimation", aliases=("gradient_estimation",)),
    SamplerName(name="ER SDE", aliases=("er_sde",), uses_noise=True),
    SamplerName(
        name="SA-Solver", aliases=("sa_solver",), default_schedule="Karras", uses_noise=True,
    ),
    SamplerName(name="TCD", aliases=("tcd",), uses_noise=True, default_eta=0.3),
)  # fmt: skip

SCHEDULE_NAMES: tuple[ScheduleName, ...] = (
    ScheduleName(name="automatic", label=AUTOMATIC),
    ScheduleName(name="uniform", label="Uniform", needs_model=True),
    ScheduleName(name="karras", label="Karras", default_rho=7.0),
    ScheduleName(name="exponential", label="Exponential"),
    ScheduleName(name="polyexponential", label="Polyexponential", default_rho=1.0),
    ScheduleName(
        name="sgm_uniform", label="SGM Uniform", aliases=("SGMUniform",), needs_model=True
    ),
    ScheduleName(name="kl_optimal", label="KL Optimal"),
    ScheduleName(name="align_your_steps", label="Align Your Steps"),
    ScheduleName(name="simple", label="Simple", needs_model=True),
    ScheduleName(name="normal", label="Normal", needs_model=True),
    ScheduleName(name="ddim", label="DDIM", needs_model=True),
    ScheduleName(name="beta", label="Beta", needs_model=True),
    ScheduleName(name="turbo", label="Turbo", needs_model=True),
    ScheduleName(name="align_your_steps_GITS", label="Align Your Steps GITS"),
    ScheduleName(name="align_your_steps_11", label="Align Your Steps 11"),
    ScheduleName(name="align_your_steps_32", label="Align Your Steps 32"),
)


def _sampler_table(rows: Iterable[SamplerName]) -> Registry[SamplerName]:
    table = Registry[SamplerName]("sampler")
    for row in rows:
        table.add(row.name, row, row.aliases)
    return table


def _schedule_table(rows: Iterable[ScheduleName]) -> Registry[ScheduleName]:
    table = Registry[ScheduleName]("schedule")
    for row in rows:
        table.add(row.label, row, (row.name, *row.aliases))
    return table


SAMPLER_TABLE = _sampler_table(SAMPLER_NAMES)
SCHEDULE_TABLE = _schedule_table(SCHEDULE_NAMES)


def sampler_names() -> list[str]:
    """Return the samplers' names in the order of menus."""
    return SAMPLER_TABLE.names()


def schedule_labels() -> list[str]:
    """Return the schedules' labels in the order of menus, "Automatic" first."""
    return SCHEDULE_TABLE.names()


def resolve_sampler(name: str, schedule: str) -> tuple[str, str]:
    """Return the registered names of a sampler and the schedule it will run with.

    Case does not matter, aliases count, and the merged names of older clients ("DPM++ 2M Karras",
    "k_dpmpp_2m_ka") name both; their schedule holds unless another one is asked for. "Automatic"
    is replaced by what suits the sampler, and so is any schedule where the sampler walks the
    model's own timesteps.

    Args:
        name: as the client spelled it.
        schedule: name, label or alias; "" is "Automatic".

    Raises:
        UnknownName: for `sampler_name` or `scheduler`, with names that look alike.
    """
    found = SAMPLER_TABLE.canonical(name)
    merged = AUTOMATIC
    if found is None:
        found, merged = _split_merged_name(name)
    sampler = SAMPLER_TABLE.get(found or name, "sampler_name")
    label = SCHEDULE_TABLE.get(schedule.strip() or AUTOMATIC, "scheduler").label
    if sampler.timesteps:
        return sampler.name, sampler.default_schedule or _PLAIN_SCHEDULE
    if label == AUTOMATIC:
        label = merged
    if label == AUTOMATIC:
        label = sampler.default_schedule or _PLAIN_SCHEDULE
    return sampler.name, label


def _split_merged_name(name: str) -> tuple[str | None, str]:
    """Return the sampler and the schedule's label that a merged name consists of, or (None, …)."""
    folded = name.strip().casefold()
    for row in SCHEDULE_NAMES:
        for spelling in (row.label, row.name, *row.aliases):
            ending = f" {spelling.casefold()}"
            if folded.endswith(ending):
                sampler = SAMPLER_TABLE.canonical(folded.removesuffix(ending))
                if sampler is not None:
                    return sampler, row.label
    for ending, label in _MERGED_ALIAS_ENDINGS.items():
        if folded.endswith(ending):
            sampler = SAMPLER_TABLE.canonical(folded.removesuffix(ending))
            if sampler is not None:
                return sampler, label
    return None, AUTOMATIC
