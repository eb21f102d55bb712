"""Page-locked host copies of what streams in every step.

Copies from page-locked memory run at the link's full speed beside the computing; from other memory
the driver stages them and the host waits. A unit's tensors are packed as they lie in the ring, so
it travels in one copy. Blocks are locked with their exact bytes (torch's own allocator rounds up to
powers of two) and only up to a cap; units beyond it travel from their masters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import psutil
import torch

from sdforge.memory.arena import Arena

log = logging.getLogger(__name__)

# Page-locked memory is taken from every other program; the rest of the machine must live too.
SHARE_OF_TOTAL = 0.4
SHARE_OF_AVAILABLE = 0.5


def default_cap() -> int:
    """Return the bytes that may be page-locked: 40 % of main memory, half of what is available."""
    memory = psutil.virtual_memory()
    return int(min(memory.total * SHARE_OF_TOTAL, memory.available * SHARE_OF_AVAILABLE))


def cuda_lock(block: torch.Tensor) -> bool:
    """Page-lock a host block in place; false when the driver refuses."""
    runtime = torch.cuda.cudart()
    return int(runtime.cudaHostRegister(block.data_ptr(), block.numel(), 0)) == 0


def cuda_unlock(block: torch.Tensor) -> None:
    """Undo `cuda_lock`; no copy from the block may be under way."""
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(block.data_ptr())


class PinnedBlocks:
    """Locked blocks by owner, with a ledger and a cap in bytes."""

    def __init__(
        self,
        cap_bytes: int | None = None,
        *,
        lock: Callable[[torch.Tensor], bool] = cuda_lock,
        unlock: Callable[[torch.Tensor], None] = cuda_unlock,
    ) -> None:
        """Hold nothing yet; without a cap, `default_cap` is asked at each block."""
        self.used_bytes = 0
        self._cap_bytes = cap_bytes
        self._lock = lock
        self._unlock = unlock
        self._blocks: dict[int, dict[int, tuple[torch.Tensor, Arena]]] = {}

    def get(self, owner: int, unit: int) -> torch.Tensor | None:
        """Return the block of an owner's unit, if there is one."""
        found = self._blocks.get(owner, {}).get(unit)
        return found[0] if found else None

    def pack(
        self, owner: int, unit: int, size: int, places: Sequence[tuple[int, torch.Tensor]]
    ) -> torch.Tensor | None:
        """Return a locked block of `size` bytes filled with tensors at their offsets.

        None where the cap or the driver does not allow it: what is asked for is then to be copied
        from where it lies.
        """
        cap = default_cap() + self.used_bytes if self._cap_bytes is None else self._cap_bytes
        if self.used_bytes + size > cap:
            return None
        arena = Arena(size)
        block = arena.allocate((size,), torch.uint8)
        for offset, tensor in places:
            shown_in(block, offset, tensor).copy_(tensor)
        if not self._lock(block):
            log.info("the driver locks no more host memory; %d bytes are", self.used_bytes)
            self._cap_bytes = self.used_bytes
            arena.release()
            return None
        self.used_bytes += size
        self._blocks.setdefault(owner, {})[unit] = (block, arena)
        return block

    def release(self, owner: int) -> None:
        """Unlock and give back an owner's blocks."""
        for block, arena in self._blocks.pop(owner, {}).values():
            self._unlock(block)
            self.used_bytes -= block.numel()
            arena.release()


def shown_in(block: torch.Tensor, offset: int, like: torch.Tensor) -> torch.Tensor:
    """Return the part of a block of bytes that has the form of another tensor.

    Strides are kept too: kernels choose by them (channels last), and so would round differently.
    """
    size = like.numel() * like.element_size()
    flat = block[offset : offset + size].view(like.dtype)
    if like.is_contiguous():
        return flat.view(like.shape)
    if not _is_dense(like):
        return flat.view(like.shape)
    return flat.as_strided(like.shape, like.stride(), flat.storage_offset())


def _is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor's strides only reorder its dimensions, without gaps or overlaps."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
