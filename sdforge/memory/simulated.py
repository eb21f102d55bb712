"""An accelerator made of host memory, with a hard limit in bytes and a clock of its own.

Everything that is made while networks run is charged until its last reference is gone, and going
over the limit raises torch's own out-of-memory error. Computing with a host master is an error, as
on a real device. So placement, streaming, eviction and recovery are tested on every machine. The
allocator's rounding and fragmentation, and the workspaces of real kernels, are not simulated.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sdforge.memory.pinned import PinnedBlocks
from sdforge.memory.streams import Copies, CopyStream, Event


class NotResident(RuntimeError):
    """A network computed with a host master: on a real device this is a mix of devices."""


class SimulatedDevice:
    """A device of `total_bytes` that computes on the CPU and counts every byte.

    `seconds` is the time on its clock, where copies take bytes ÷ `bytes_per_second` on an engine of
    their own, and computing takes operations ÷ `flops_per_second`; both are free by default.
    """

    is_host = False
    counts_peaks = True
    can_stream = True
    reserve_bytes = 0

    def __init__(
        self,
        total_bytes: int,
        *,
        bytes_per_second: float | None = None,
        flops_per_second: float | None = None,
        pinned_cap_bytes: int | None = None,
    ) -> None:
        self.compute_device = torch.device("cpu")
        self.total_bytes = total_bytes
        self.peak_bytes = 0
        self.uploaded_bytes = 0
        self.streamed_bytes = 0
        self.operations = 0
        self.seconds = 0.0
        self.pinned = None if pinned_cap_bytes is None else _SimulatedBlocks(self, pinned_cap_bytes)
        self._bytes_per_second = bytes_per_second
        self._flops_per_second = flops_per_second
        self._copied_until = 0.0
        self._live_bytes = 0
        self._charged: dict[int, int] = {}
        self._managed: dict[int, str] = {}
        self._is_computing = False
        self._faults: dict[int, BaseException] = {}

    # --- what tests ask for

    def fail_at(self, operation: int, error: BaseException | None = None) -> None:
        """Raise an error, out-of-memory by default, at the n-th operation or upload from now."""
        fault = error or torch.OutOfMemoryError("simulated device: out of memory by injection")
        self._faults[self.operations + operation] = fault

    def fail_never(self) -> int:
        """Take back faults that have not happened yet; return how many."""
        count = len(self._faults)
        self._faults.clear()
        return count

    # --- the protocol of devices

    def upload(self, master: torch.Tensor) -> torch.Tensor:
        """Copy a tensor and charge it; computing waits for the copy.

        Raises:
            torch.OutOfMemoryError: the copy would exceed the limit.
        """
        self._count_operation()
        size = master.numel() * master.element_size()
        with self._not_computing():
            self._check_room(size)
            copy = master.clone()
            self._charge(copy)
        self.uploaded_bytes += size
        self.seconds = self._copy(size, self.seconds)
        return copy

    def allocate(self, size: int) -> torch.Tensor:
        """Return charged bytes."""
        with self._not_computing():
            self._check_room(size)
            block = torch.zeros(size, dtype=torch.uint8)
            self._charge(block)
        return block

    def copy_stream(self) -> CopyStream:
        """Return the copy engine with its clock."""
        return _SimulatedCopies(self)

    def pinned_blocks(self) -> PinnedBlocks | None:
        """Return the store of 'page-locked' blocks, if this device was made with a cap."""
        return self.pinned

    def computing(self) -> AbstractContextManager[object]:
        """Return the scope in which every operation is watched; nested scopes count once."""
        return _nothing() if self._is_computing else _Watch(self)

    def manage(self, masters: Sequence[torch.Tensor]) -> None:
        """Refuse to compute with these tensors' memory."""
        for master in masters:
            storage = master.untyped_storage()
            key = storage._cdata
            if master.numel() and key not in self._managed:
                self._managed[key] = f"{tuple(master.shape)} of {master.dtype}"
                weakref.finalize(storage, self._managed.pop, key, None)

    def foreign_bytes(self) -> int:
        """Return 0: nobody else uses it."""
        return 0

    def own_bytes(self) -> int:
        """Return the bytes that are charged."""
        return self._live_bytes

    def peak_own_bytes(self) -> int:
        """Return the most bytes that were charged at once since the last reset."""
        return self.peak_bytes

    def reset_peak(self) -> None:
        """Let the peak be what is charged now."""
        self.peak_bytes = self._live_bytes

    def empty_cache(self) -> None:
        """Do nothing: a simulated device caches nothing."""

    # --- the ledger and the clock

    def _check_room(self, size: int) -> None:
        if self._live_bytes + size > self.total_bytes:
            raise torch.OutOfMemoryError(
                f"simulated device: tried to allocate {size} bytes, {self._live_bytes} of "
                f"{self.total_bytes} are in use"
            )

    def _charge(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        size, key = storage.nbytes(), storage._cdata
        if not size or key in self._charged or key in self._managed:
            return
        self._check_room(size)
        self._charged[key] = size
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._give_back, key)

    def _give_back(self, key: int) -> None:
        self._live_bytes -= self._charged.pop(key, 0)

    def _count_operation(self) -> None:
        self.operations += 1
        if self.operations in self._faults:
            # Not by a local name: its own traceback would keep the failed attempt's tensors.
            raise self._faults.pop(self.operations)

    def _copy(self, size: int, not_before: float) -> float:
        """Let the copy engine copy; return when it is done."""
        began = max(self._copied_until, not_before)
        rate = self._bytes_per_second
        self._copied_until = began + (size / rate if rate else 0.0)
        return self._copied_until

    @contextmanager
    def _not_computing(self) -> Iterator[None]:
        """Do what the driver does: no operation of a network."""
        was, self._is_computing = self._is_computing, False
        try:
            yield
        finally:
            self._is_computing = was


class _SimulatedBlocks(PinnedBlocks):
    """Host memory that counts as page-locked; filling it is the host's work."""

    def __init__(self, device: SimulatedDevice, cap_bytes: int) -> None:
        super().__init__(cap_bytes, lock=lambda block: True, unlock=lambda block: None)
        self._device = device

    def pack(
        self, owner: int, unit: int, size: int, places: Sequence[tuple[int, torch.Tensor]]
    ) -> torch.Tensor | None:
        with self._device._not_computing():
            return super().pack(owner, unit, size, places)


class _SimulatedCopies:
    """The copy engine; events are times on the clock."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    def copy(self, copies: Copies, after: Event) -> Event:
        self._device._count_operation()
        size = 0
        with self._device._not_computing():
            for target, source in copies:
                target.copy_(source)
                size += source.numel() * source.element_size()
        self._device.streamed_bytes += size
        return self._device._copy(size, after or 0.0)

    def wait(self, event: Event) -> None:
        self._device.seconds = max(self._device.seconds, event)

    def mark(self) -> Event:
        return self._device.seconds


class _Watch(TorchDispatchMode):
    """Charges what operations make, and refuses masters as their inputs."""

    def __init__(self, device: SimulatedDevice) -> None:
        super().__init__()
        self._device = device

    def __enter__(self) -> _Watch:
        self._device._is_computing = True
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._device._is_computing = False
        super().__exit__(*error)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        device = self._device
        result_of = func(*args, **(kwargs or {})) if not device._is_computing else None
        if not device._is_computing:
            return result_of
        device._count_operation()
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if not _is_view(func):
            for tensor in inputs:
                what = device._managed.get(tensor.untyped_storage()._cdata)
                if what is not None:
                    raise NotResident(f"{func} reads a host master, {what}")
        result = func(*args, **(kwargs or {}))
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.untyped_storage()._cdata not in known:
                device._charge(made)
        device.seconds += self._seconds(func, args, kwargs or {}, result)
        return result

    def _seconds(self, func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> float:
        rate = self._device._flops_per_second
        return _operations(func.overloadpacket, args, kwargs, result) / rate if rate else 0.0


def _operations(packet: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> int:
    """Return the floating-point operations of what weighs: products and convolutions."""
    # In inference mode these two arrive whole, and torch's table knows only their parts.
    if packet in (torch.ops.aten.linear, torch.ops.aten.conv2d):
        return 2 * int(result.numel()) * int(args[1][0].numel())
    count = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=result)) if count else 0


def _is_view(func: Any) -> bool:
    """Tell whether an operation only looks at its input in another way."""
    returns = func._schema.returns
    return bool(returns) and all(
        value.alias_info is not None and not value.alias_info.is_write for value in returns
    )


@contextmanager
def _nothing() -> Iterator[None]:
    yield
