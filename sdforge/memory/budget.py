"""How many bytes weights may take on the device: integer arithmetic, no torch.

Two contracts meet here. The user's: `forge_inference_memory` MiB stay free for inference, whatever
happens (Forge's formula: GPU weights = total − inference memory). And physics: what other programs
hold, a reserve for the driver, and the activations of the stage about to run.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024
# What a driver and its libraries take outside the allocator, as measured by peers: 400 MB on Linux,
# 600 MB on Windows (ComfyUI's reserve). A host "device" needs none.
DEVICE_RESERVE_BYTES = 400 * MIB
WINDOWS_RESERVE_BYTES = 600 * MIB


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The memory of one device, at one moment, for one stage; all in bytes."""

    total_bytes: int
    inference_bytes: int
    reserve_bytes: int = 0
    foreign_bytes: int = 0
    working_bytes: int = 0

    @property
    def contract_bytes(self) -> int:
        """What the user's setting leaves for weights."""
        return max(self.total_bytes - self.inference_bytes, 0)

    @property
    def physical_bytes(self) -> int:
        """What is left beside other programs, the reserve and this stage's activations."""
        used = self.foreign_bytes + self.reserve_bytes + self.working_bytes
        return max(self.total_bytes - used, 0)

    @property
    def weights_bytes(self) -> int:
        """What weights may take: the smaller of the two."""
        return min(self.contract_bytes, self.physical_bytes)

    def describe(self) -> str:
        """Say the arithmetic in one line, for logs."""
        return (
            f"weights ≤ {self.weights_bytes / MIB:.0f} MiB (total {self.total_bytes / MIB:.0f}, "
            f"inference memory {self.inference_bytes / MIB:.0f}, working "
            f"{self.working_bytes / MIB:.0f}, reserve {self.reserve_bytes / MIB:.0f}, "
            f"others {self.foreign_bytes / MIB:.0f})"
        )
