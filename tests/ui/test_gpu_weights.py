"""The slider GPU Weights (MB): total − inference memory, both ways."""

from __future__ import annotations

from typing import Any

import pytest

from sdforge.ui.actions import GPU_WEIGHTS, STORED
from sdforge.ui.app import build_ui
from sdforge.ui.tab_actions import ANSWER
from tests.ui.conftest import Backend

SLIDER = "setting_gpu_weights"


def element_ids(backend: Backend) -> set[str]:
    page = build_ui(backend.engine, version="0.0-test")
    return {block.elem_id for block in page.blocks.values() if block.elem_id}


def test_without_an_accelerator_there_is_no_slider(backend: Backend) -> None:
    assert SLIDER not in element_ids(backend)
    assert GPU_WEIGHTS not in backend.actions.load_page({STORED: ""})


class TestWithAnAccelerator:
    @pytest.fixture
    def flags(self) -> dict[str, int]:
        return {"simulate_device": 8192}

    def test_the_slider_is_there_and_shows_total_minus_inference_memory(
        self, backend: Backend
    ) -> None:
        assert SLIDER in element_ids(backend)
        assert backend.actions.load_page({STORED: ""})[GPU_WEIGHTS] == 8192 - 1024
        assert not backend.paths.settings.exists()

    def test_moving_it_sets_the_inference_memory_for_good(self, backend: Backend) -> None:
        result = backend.actions.change_gpu_weights({GPU_WEIGHTS: 6000.0})
        assert result == {GPU_WEIGHTS: 6000, ANSWER: {}}
        assert backend.engine.settings.current.forge_inference_memory == 2192
        assert '"forge_inference_memory": 2192' in backend.paths.settings.read_text()

    def test_what_the_api_sets_is_shown(self, backend: Backend) -> None:
        backend.engine.change_settings({"forge_inference_memory": 3000})
        assert backend.actions.load_page({STORED: ""})[GPU_WEIGHTS] == 5192
        assert backend.actions.show_checkpoint({})[GPU_WEIGHTS] == 5192
        assert backend.engine.settings.current.forge_inference_memory == 3000

    def test_too_little_for_inference_is_pointed_out(self, backend: Backend) -> None:
        result = backend.actions.change_gpu_weights({GPU_WEIGHTS: 8000})
        assert "192 MB are left" in result[ANSWER]["note"]

    @pytest.mark.parametrize("value", ["x", -5, float("nan"), float("inf"), [1]])
    def test_nonsense_changes_nothing_and_is_named(self, backend: Backend, value: Any) -> None:
        result = backend.actions.change_gpu_weights({GPU_WEIGHTS: value})
        assert "GPU Weights" in result[ANSWER]["problem"]["message"]
        assert result[GPU_WEIGHTS] == 8192 - 1024
