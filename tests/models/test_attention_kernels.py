"""Slices and chunks give torch's numbers; a package's kernel counts only where it does too."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdforge.flags import parse
from sdforge.models.attention import Attend, DirectAttention, attend_by_torch
from sdforge.models.attention_kernels import (
    TriedKernel,
    attend_exactly,
    attend_in_chunks,
    attend_in_slices,
    chosen_kernel,
    use_kernel,
)
from tests.pipeline.conftest import Pipeline
from tests.tiny import make_checkpoint, tiny_server_parts


def inputs(queries: int = 70, keys: int = 77, heads: int = 2, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries * 100 + keys)
    return [torch.randn(2, heads, n, width, generator=generator) for n in (queries, keys, keys)]


def asked(*arguments: str) -> Attend | None:
    return chosen_kernel(parse(list(arguments), {}))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 20), st.integers(1, 20))
def test_chunks_of_any_size_give_the_whole(queries: int, keys: int, a: int, b: int) -> None:
    three = inputs(queries, keys)
    whole = attend_by_torch(*three, None)
    assert torch.allclose(attend_in_slices(*three, None, places=a), whole, atol=1e-5)
    assert torch.allclose(attend_in_chunks(*three, None, places=a, keys=b), whole, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 70])
def test_masks_count_in_slices_and_chunks(rows: int) -> None:
    three = inputs()
    mask = torch.randn(1, 1, rows, 77, generator=torch.Generator().manual_seed(1))
    whole = attend_by_torch(*three, mask)
    for kernel in (attend_in_slices, attend_in_chunks):
        assert torch.allclose(kernel(*three, mask, places=16), whole, atol=1e-5)
    assert torch.allclose(attend_exactly(*three, mask), whole, atol=1e-5)


def test_great_scores_overflow_nothing() -> None:
    query, key, value = inputs()
    found = attend_in_chunks(query * 1e4, key * 1e4, value, None, places=16, keys=16)
    assert torch.allclose(found, attend_by_torch(query * 1e4, key * 1e4, value, None), atol=1e-4)


@pytest.mark.parametrize(
    "flags",
    [
        ("--attention-split",),
        ("--opt-split-attention",),
        ("--attention-quad",),
        (
            "--opt-sub-quad-attention",
            *("--sub-quad-q-chunk-size", "16", "--sub-quad-kv-chunk-size", "9"),
        ),
        ("--opt-sdp-no-mem-attention",),
        ("--force-upcast-attention",),
        ("--xformers",),
        ("--use-flash-attention",),
        ("--use-sage-attention",),
    ],
)
def test_each_flag_computes_attention(flags: tuple[str, ...]) -> None:
    kernel = asked(*flags)
    assert kernel is not None
    three = inputs()
    assert torch.allclose(kernel(*three, None), attend_by_torch(*three, None), atol=1e-5)


def test_without_a_flag_torch_chooses() -> None:
    assert asked() is None
    assert asked("--opt-sdp-attention") is None
    assert asked("--xformers", "--disable-xformers") is None


def test_attention_in_32_bits_is_computed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = asked("--force-upcast-attention")
    half = [one.half() * 30 for one in inputs()]
    assert kernel is not None
    exact = attend_by_torch(*(one.double() for one in half), None)
    found = kernel(*half, None)
    assert found.dtype == torch.float16
    assert torch.equal(found, exact.half()) or float((found - exact).abs().max()) < 0.05


def tried(call: Attend, **more: Any) -> TriedKernel:
    return TriedKernel("a package", lambda: call, **({"tolerance": 0.02, "trusted": False} | more))


def test_a_kernel_that_fails_or_errs_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[torch.dtype] = []

    def only_half(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        calls.append(query.dtype)
        if query.dtype != torch.float16:
            raise NotImplementedError("no kernel for this\nand a page of reasons")
        return attend_by_torch(query, key, value, mask)

    caplog.set_level(logging.INFO)
    three, kernel = inputs(), tried(only_half)
    for _ in range(3):
        assert torch.equal(kernel(*three, None), attend_by_torch(*three, None))
    assert calls == [torch.float32]
    assert "a package is not used on cpu for torch.float32" in caplog.text
    assert "page of reasons" not in caplog.text
    kernel(*(one.half() for one in three), None)
    assert calls == [torch.float32, torch.float16, torch.float16]

    wrong = tried(lambda query, key, value, mask: attend_by_torch(query, key, value, mask) + 0.1)
    assert torch.equal(wrong(*three, None), attend_by_torch(*three, None))
    assert "it is off by 0.1" in caplog.text
    nothing = tried(lambda query, key, value, mask: query * torch.nan)
    assert torch.equal(nothing(*three, None), attend_by_torch(*three, None))


def test_a_trusted_kernel_is_not_tried() -> None:
    def broken(*_: object) -> Tensor:
        raise NotImplementedError("no kernel")

    with pytest.raises(NotImplementedError):
        tried(broken, trusted=True)(*inputs(), None)


def test_a_mask_goes_to_torch() -> None:
    def broken(*_: object) -> Tensor:
        raise AssertionError("called")

    three, mask = inputs(), torch.zeros(1, 1, 1, 77)
    found = tried(broken, trusted=True)(*three, mask)
    assert torch.equal(found, attend_by_torch(*three, mask))


@pytest.mark.parametrize(
    ("package", "function", "flag", "heads_at"),
    [
        ("xformers.ops", "memory_efficient_attention", "--xformers", 2),
        ("flash_attn", "flash_attn_func", "--use-flash-attention", 2),
        ("sageattention", "sageattn", "--use-sage-attention", 1),
    ],
)
def test_packages_get_heads_where_they_want_them(
    monkeypatch: pytest.MonkeyPatch, package: str, function: str, flag: str, heads_at: int
) -> None:
    """Their kernels run on GPUs only; here stands one that checks what it is given."""
    seen: list[int] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, **named: Any) -> Tensor:
        seen.append(query.shape[heads_at])
        if heads_at == 1:
            assert named == {"tensor_layout": "HND", "is_causal": False}
            return attend_by_torch(query, key, value, None)
        swapped = (one.transpose(1, 2) for one in (query, key, value))
        return attend_by_torch(*swapped, None).transpose(1, 2)

    for name in {package.split(".")[0], package}:
        module = ModuleType(name)
        setattr(module, function, kernel)
        monkeypatch.setitem(sys.modules, name, module)
    chosen, three = asked(flag), inputs(heads=5)
    assert chosen is not None
    assert torch.allclose(chosen(*three, None), attend_by_torch(*three, None), atol=1e-6)
    assert seen == [2, 5]


def test_a_loaded_model_draws_with_the_kernel(tmp_path_factory: pytest.TempPathFactory) -> None:
    import numpy as np

    folder = tmp_path_factory.mktemp("kernels")
    checkpoint = make_checkpoint(folder / "tiny.safetensors")
    used: list[int] = []

    def counting(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        used.append(query.shape[-2])
        return attend_in_slices(query, key, value, mask, places=7)

    plain = Pipeline(tiny_server_parts(folder / "a", checkpoint))
    sliced = Pipeline(tiny_server_parts(folder / "b", checkpoint, attention=counting))
    one, other = (pipeline.draw()[0].pixels.astype(int) for pipeline in (plain, sliced))
    assert used and np.abs(one - other).max() <= 1
    network = sliced.parts.provider.current
    assert network is not None
    module = network.components["denoiser"].module
    count = sum(isinstance(part, DirectAttention) for part in module.modules())
    assert use_kernel(module, counting) == count > 0
