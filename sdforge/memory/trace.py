"""Watch one forward of a network: in which order its units run, and how much they compute."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from sdforge.memory.units import UnitTree


class Trace:
    """Hooks on all units until a unit runs for the second time, or until it is closed.

    Operations of linear layers and convolutions are counted, attention's own are not: they weigh
    little where weights do.
    """

    def __init__(self, tree: UnitTree) -> None:
        """Install the hooks."""
        self._tree = tree
        self._order: list[int] = []
        self._flops: dict[int, int] = {}
        self._hooks = ExitStack()
        for unit in tree.units:
            entered = unit.module.register_forward_pre_hook(self._entering(unit.index))
            self._hooks.callback(entered.remove)
            for layer in unit.module.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    counted = layer.register_forward_hook(self._counting(unit.index))
                    self._hooks.callback(counted.remove)

    def close(self, *, complete: bool = True) -> None:
        """Remove the hooks; the tree learns what was seen unless the run was broken off."""
        self._hooks.close()
        if complete and self._order and not self._tree.is_traced:
            self._tree.learn(tuple(self._order), self._flops)
        self._order = []

    def _entering(self, index: int) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if index in self._order:
                self.close()
            else:
                self._order.append(index)

        return hook

    def _counting(self, index: int) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            if isinstance(module, nn.Linear):
                inner = module.in_features
            else:
                inner = math.prod(module.kernel_size) * module.in_channels // module.groups
            self._flops[index] = self._flops.get(index, 0) + 2 * inner * output.numel()

        return hook
