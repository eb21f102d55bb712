"""Names made from patterns: every token, and no way out of the folder."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ModelIdentity
from sdforge.core.settings import Settings
from sdforge.output.patterns import (
    _TOKENS,
    MAX_NAME_CHARS,
    NameSource,
    clean_name,
    expand,
    file_stem,
    folder_parts,
)

PIXELS = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)


def source(prompt: str = "a cat, (sitting:1.2)", index: int = 0, **request: Any) -> NameSource:
    values: dict[str, Any] = {
        "sampler": "DPM++ 2M", "schedule": "Karras", "cfg_scale": 7.0, "seed": 100, "steps": 20,
    }  # fmt: skip
    made = GenerationRequest(prompt=prompt, **(values | request))
    info = GenerationInfo(
        request=made,
        index=index,
        seed=made.image_seed(index),
        subseed=0,
        prompt=prompt,
        negative_prompt="dog",
        model=ModelIdentity(name="my model", sha256="0123456789abcdef", vae_name="vae.pt"),
        clip_skip=2,
    )
    return NameSource(
        info=info,
        settings=Settings(directories_max_prompt_words=2),
        pixels=PIXELS,
        now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        started_at=datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC),
    )


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("[seed]", "101"),
        ("[seed_first]-[seed_last]", "100-105"),
        ("[steps]-[cfg]-[width]x[height]", "20-7.0-4x2"),
        ("[sampler]-[scheduler]", "DPM++_2M-Karras"),
        ("[sampler_scheduler]", "DPM++_2M_Karras"),
        ("[model_name]-[model_hash]", "my_model-0123456789"),
        ("[vae_filename]-[clip_skip]", "vae.pt-2"),
        ("[date]", "2026-01-02"),
        ("[datetime]", "20260102030405"),
        ("[datetime<%H.%M>]", "03.04"),
        ("[datetime<%H.%M><Asia/Tokyo>]", "12.04"),
        ("[datetime<%H.%M><Mars/Olympus>]", "03.04"),
        ("[datetime<%Y/%m>]", "2026_01"),
        ("[job_timestamp]", "20260102030000"),
        ("[prompt]", "a_cat,_(sitting_1.2)"),
        ("[prompt_no_styles]", "a_cat,_(sitting_1.2)"),
        ("[prompt_spaces]", "a cat, (sitting_1.2)"),
        ("[prompt_words]", "a cat"),
        ("[prompt_hash]", sha("a cat, (sitting:1.2)")[:8]),
        ("[prompt_hash<12>]", sha("a cat, (sitting:1.2)")[:12]),
        ("[negative_prompt_hash]", sha("dog")[:8]),
        ("[full_prompt_hash]", sha("a cat, (sitting:1.2) dog")[:8]),
        ("[image_hash<10>]", hashlib.sha256(PIXELS.tobytes()).hexdigest()[:10]),
        ("[batch_number]-[batch_size]-[generation_number]", "2-3-2"),
        ("[hasprompt<Cat>]", "Cat"),
        ("[hasprompt<dog|none><sitting>]", "nonesitting"),
        ("[styles]", "None"),
        ("[none]", ""),
        ("[seed]-[denoising]", "101"),
        ("[SEED]x", "101x"),
        ("[nonsense]-[seed]", "[nonsense]-101"),
    ],
)
def test_each_token_becomes_its_value(pattern: str, name: str) -> None:
    assert expand(pattern, source(index=1, batch_size=3, batch_count=2)) == name


def test_tokens_about_batches_vanish_with_their_prefix_for_a_single_picture() -> None:
    assert expand("[seed]-[batch_number]-[generation_number] x", source()) == "100 x"


def test_a_schedule_left_to_the_sampler_is_not_in_its_name() -> None:
    assert expand("[sampler_scheduler]", source(schedule="Automatic")) == "DPM++_2M"


def test_an_empty_prompt_still_has_words() -> None:
    assert expand("[prompt_words]", source("?!")) == "empty"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", ""),
        (" . . hidden", "hidden"),
        ('a<b>c:d"e/f\\g|h?i*j#k', "a_b_c_d_e_f_g_h_i_j_k"),
        ("line\nbreak\ttab\0zero\u202eright", "line_break_tab_zero_right"),
        ("ends with dots. . .", "ends with dots"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("com1", "_com1"),
        ("console", "console"),
        ("\ud800", "_"),
        ("猫 🐈", "猫 🐈"),
    ],
)
def test_names_are_valid_everywhere(text: str, clean: str) -> None:
    assert clean_name(text) == clean


def test_long_names_are_cut_in_characters_and_bytes() -> None:
    assert len(clean_name("x" * 500)) == MAX_NAME_CHARS
    assert len(clean_name("猫" * 500).encode()) <= 180
    assert len(file_stem("[prompt]" * 10, source("y" * 500))) == MAX_NAME_CHARS


PIECES = st.lists(
    st.one_of(
        st.sampled_from(["..", "/", "\\", "C:", "~", "%", " ", ".", "<", ">", "[", "]"]),
        st.sampled_from([f"[{token}]" for token in _TOKENS]),
        st.text(max_size=5),
    )
).map("".join)


@given(PIECES, PIECES)
def test_no_pattern_and_no_prompt_leads_out_of_the_folder(pattern: str, prompt: str) -> None:
    made_from = source(prompt)
    made_from = replace(
        made_from,
        info=replace(made_from.info, model=ModelIdentity(name=prompt, vae_name=prompt)),
    )
    stem = file_stem(pattern, made_from)
    folder = folder_parts(pattern, made_from)
    for part in (stem, *folder.parts):
        assert part not in (".", "..") and not part.startswith(".")
        assert "/" not in part and "\\" not in part and "\0" not in part
        assert PureWindowsPath(part).name == part
        assert len(part) <= MAX_NAME_CHARS + 1
        part.encode()
    assert not folder.is_absolute()


def test_slashes_in_a_folder_pattern_make_sub_folders() -> None:
    made_from = source("a/../../b")
    assert folder_parts("[date]/../x\\[prompt]/", made_from) == PurePosixPath(
        "2026-01-02/x/a_.._.._b"
    )
    assert folder_parts("/etc", made_from) == PurePosixPath("etc")
