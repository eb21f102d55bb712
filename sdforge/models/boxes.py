"""Boxes around what networks find: of those that show the same thing, the likeliest is kept."""

from __future__ import annotations

import torch
from torch import Tensor


def likeliest(boxes: Tensor, scores: Tensor, overlap: float, most: int | None = None) -> Tensor:
    """Return the numbers of boxes to keep, surest first.

    Args:
        boxes: (n, 4): left, top, right, bottom.
        scores: (n,), how sure each is.
        overlap: a box goes that shares more of the joint area with a surer one, 0 to 1.
        most: so many at most; None for all.
    """
    left = scores.argsort(descending=True, stable=True)
    chosen: list[int] = []
    while len(left) and (most is None or len(chosen) < most):
        best, left = left[0], left[1:]
        chosen.append(int(best))
        one, others = boxes[best], boxes[left]
        shared = torch.minimum(one[2:], others[:, 2:]) - torch.maximum(one[:2], others[:, :2])
        area = shared.clamp(min=0).prod(1)
        total = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - area
        left = left[area / total <= overlap]
    return torch.tensor(chosen, dtype=torch.long)
