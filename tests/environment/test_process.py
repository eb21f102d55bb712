"""Variables that must be set before Python starts."""

from __future__ import annotations

from sdforge.environment.process import process_environment


def test_what_the_user_set_is_left_alone() -> None:
    needed = process_environment({"OMP_WAIT_POLICY": "ACTIVE", "HF_HUB_OFFLINE": "0"})
    assert not {"OMP_WAIT_POLICY", "HF_HUB_OFFLINE"} & set(needed)


def test_a_process_that_has_them_all_needs_none() -> None:
    assert process_environment(process_environment({})) == {}


def test_the_allocator_follows_flag_and_platform() -> None:
    def allocator(**more: object) -> str | None:
        return process_environment({}, **more).get("PYTORCH_CUDA_ALLOC_CONF")  # type: ignore[arg-type]

    assert allocator(platform="linux") == "expandable_segments:True"
    assert allocator(platform="win32") is None
    assert allocator(platform="win32", cuda_malloc=True) == "backend:cudaMallocAsync"


def test_one_gpu_can_be_made_the_only_one() -> None:
    assert process_environment({}, visible_gpu=1)["CUDA_VISIBLE_DEVICES"] == "1"
