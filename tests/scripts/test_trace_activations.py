"""The ledger that traces are made with, against figures that can be worked out by hand."""

from __future__ import annotations

import json

import torch
from torch import nn

from scripts.trace_activations import (
    SUBJECTS,
    TARGET,
    FusedAttention,
    LiveBytes,
    Sample,
    Subject,
    fit,
    trace,
)


def test_only_what_is_alive_at_once_counts() -> None:
    with LiveBytes() as ledger:
        first = torch.ones(1000)
        second = first + 1
        del first
        third = second + 1
        del second
    assert (ledger.peak, ledger.now) == (8000, 4000)
    del third
    assert ledger.now == 0


def test_views_cost_nothing_and_known_tensors_do_not_count() -> None:
    weight = torch.ones(100, 100)
    ledger = LiveBytes()
    ledger.know([weight])
    with ledger:
        view = weight[:50].T.reshape(-1, 10)[3:]
        assert view.shape[1] == 10
        total = weight.t()
        assert total.shape == (100, 100)
    # `reshape` of a transposed half had to copy it.
    assert ledger.peak == 50 * 100 * 4


def test_attention_costs_its_result_and_not_its_scores() -> None:
    query = torch.ones(1, 2, 512, 8)
    with LiveBytes() as ledger, FusedAttention():
        out = nn.functional.scaled_dot_product_attention(query, query, query)
    assert out.shape == query.shape
    assert ledger.peak == 2 * 512 * 8 * 4


def test_a_fit_lies_above_every_sample() -> None:
    subject = Subject("unet", "x", 8, nn.Identity, lambda *_: None, tokens=(10, 20))
    samples = [
        Sample(batch, pixels, tokens, 1000 + batch * (30 * pixels + 7 * tokens) + pixels % 3)
        for batch in (1, 2)
        for pixels in (100, 400, 900)
        for tokens in (10, 20)
    ]
    found = fit(subject, samples)
    for sample in samples:
        line = found["fixed"] + sample.batch * (
            found["per_latent_pixel"] * sample.pixels + found["per_token"] * sample.tokens
        )
        assert sample.peak <= line <= 1.05 * sample.peak


def test_a_small_network_is_traced_without_weights() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1))

    def call(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> torch.Tensor:
        result: torch.Tensor = net(torch.empty(batch, 4, height, width))
        return result

    subject = Subject("unet", "x", 8, make, call, tokens=(0,), sizes=((8, 8), (16, 16)))
    samples = trace(subject)
    assert torch.get_default_dtype() == torch.float32
    # Input, eight channels and the four of the result, 2 bytes each, when the last one is made.
    assert [sample.peak for sample in samples] == [
        (4 + 8 + 4) * sample.batch * sample.pixels * 2 for sample in samples
    ]


def test_the_file_in_the_package_has_every_network() -> None:
    rows = json.loads(TARGET.read_text())["traces"]
    assert set(rows) == {subject.name for subject in SUBJECTS}
    assert all(row["worst_over"] < 2 for row in rows.values())
