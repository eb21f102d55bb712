"""What leases teach about activations: the calibration's factors, as one device has them."""

from __future__ import annotations

from sdforge.memory.calibration import Calibration, Key
from sdforge.memory.device import Device

# Every network of ours computes attention through torch's fused kernel.
_ATTENTION = "sdpa"


class Learning:
    """Looks factors up for the planner, and takes measured peaks and failures down."""

    def __init__(self, calibration: Calibration, device_name: str, *, counts_peaks: bool) -> None:
        """Take the factors of this machine.

        Args:
            calibration: where they are kept.
            device_name: of the card, as `core.device` names it.
            counts_peaks: whether the device tells the most that was held; without, only failures
                teach.
        """
        self._calibration = calibration
        self._device = device_name
        self._counts_peaks = counts_peaks

    @classmethod
    def fresh(cls, device: Device) -> Learning:
        """Return one that knows nothing yet and keeps nothing."""
        return cls(Calibration(), "", counts_peaks=device.counts_peaks)

    def key(self, network: str, phase: str) -> Key:
        """Return the key of a trace and a phase, see `calibration.Key`."""
        return Key(network, self._device, _ATTENTION, phase)

    def factor(self, key: Key) -> float:
        """Return what traced activations are multiplied by."""
        return self._calibration.factor(key)

    def measured(self, key: Key | None, planned_bytes: int, activation_bytes: int) -> None:
        """Learn from a stage that went well.

        Args:
            key: what ran; None for stages that nothing was traced for.
            planned_bytes: what the plan kept free for it, the factor included.
            activation_bytes: what it held beside weights at most.
        """
        if key is not None and self._counts_peaks:
            traced = int(planned_bytes / self._calibration.factor(key))
            self._calibration.observe(key, traced, activation_bytes)

    def failed(self, key: Key | None) -> None:
        """Learn from running out of memory."""
        if key is not None:
            self._calibration.raise_after_oom(key)
