import pytest
import torch
from torch import nn

from sdforge.memory.component import named_tensors
from sdforge.models.skeleton import Skeleton, no_initial_weights


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU())
        self.last = nn.Linear(4, 2, bias=False)
        self.register_buffer("places", torch.zeros(2), persistent=False)
        self.sizes = {"width": 4}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.first(x).mean((2, 3))) + self.places
        return found


class _Bound(_Net):
    """Holds a method of its own, which must not be another network's."""

    def __init__(self) -> None:
        super().__init__()
        self.run = self.forward


class _Twice(_Net):
    """Has one layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.last


def skeleton(kind: type[_Net] = _Net) -> Skeleton:
    with torch.device("meta"), no_initial_weights():
        return Skeleton(kind())


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(_Net().state_dict()) | {"places": torch.ones(2)}


@pytest.mark.parametrize("kind", [_Net, _Bound, _Twice])
def test_a_built_network_computes_what_a_constructed_one_does(kind: type[_Net]) -> None:
    wanted = kind()
    wanted.load_state_dict({k: v for k, v in tensors().items() if k != "places"}, strict=False)
    wanted.places += 1
    x = torch.randn(1, 3, 5, 5)
    made, named = skeleton(kind).build(tensors())
    assert [(name, id(holder)) for name, holder, _ in named] == [
        (name, id(holder)) for name, holder, _ in named_tensors(made)
    ]
    assert all(torch.equal(holder, tensor) for _, holder, tensor in named)
    assert type(made) is kind
    assert torch.equal(made(x), wanted(x))
    assert not made.training and not any(p.requires_grad for p in made.parameters())
    assert list(made.state_dict()) == list(wanted.state_dict())
    if isinstance(made, _Twice):
        assert made.again is made.last
    if isinstance(made, _Bound):
        assert made.run.__self__ is made  # type: ignore[attr-defined]


def test_networks_of_one_skeleton_share_nothing_that_changes() -> None:
    one = skeleton()
    first, second = (one.build(tensors(seed)).module for seed in (0, 1))
    assert not {id(m) for m in first.modules()} & {id(m) for m in second.modules()}
    ran: list[str] = []
    first.get_submodule("last").register_forward_hook(lambda *_: ran.append("first"))
    first.get_submodule("first.0").padding_mode = "circular"  # type: ignore[assignment]
    first.sizes["width"] = 5  # type: ignore[index, operator]
    second(torch.randn(1, 3, 5, 5))
    assert ran == []
    assert second.get_submodule("first.0").padding_mode == "zeros"
    assert second.sizes == {"width": 4}
    assert all(tensor.is_meta for tensor in one.example.parameters())


def test_a_skeleton_names_what_a_file_holds_and_what_none_does() -> None:
    one = skeleton()
    assert one.shapes["first.0.weight"] == (4, 3, 3, 3)
    assert one.tensors - one.shapes.keys() == {"places"}


def test_no_initial_weights_leaves_constructors_otherwise_alone() -> None:
    with no_initial_weights():
        made = nn.Linear(4, 2)
        nn.init.ones_(tensor=made.weight)
    assert made.weight.shape == (2, 4)
    assert nn.init.ones_(made.weight).eq(1).all()
