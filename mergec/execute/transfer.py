"""Transfer: how tiles get from the processor, where they are read and written, to a device and back.

A GPU of CUDA copies while it computes and while the next tile is read: from and to pinned memory, each way on a stream
of its own. On other devices tiles are copied one after the other; on the processor they stay where they were read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from mergec.io.tensors import ITEM_BYTES

if TYPE_CHECKING:
    from torch import Tensor

Fill: TypeAlias = Callable[[memoryview], None]
"""Puts the bytes of stored entries into a memory of just their size."""


@dataclass(frozen=True)
class Landing:
    """A tile on its way to the processor: `values` hold it once `wait` has returned.

    Where `is_lent` they are its maker's, who will make the next tile there.
    """

    values: Tensor
    wait: Callable[[], None]
    is_lent: bool


def transfer(device: Any) -> Transfer:
    """The ways to a device and back, for one thread."""
    return PinnedTransfer(device) if device.type == "cuda" else Transfer(device)


class Transfer:
    """Copies one after the other, or none where the device is the processor."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._rooms: dict[int, tuple[Tensor, memoryview, Tensor]] = {}

    def load(self, slot: int, dtype: str, entries: int, fill: Fill) -> Tensor:
        """The entries of an input, flat, on the device; the memory that they are read into is the slot's."""
        view, values = self._room(slot, dtype, entries)
        fill(view)
        return values.to(self._device)

    def fetch(self, tile: Tensor) -> Landing:
        """A tile, flat, on its way to the processor."""
        return Landing(tile.cpu().contiguous(), lambda: None, is_lent=True)

    def _room(self, slot: int, dtype: str, entries: int) -> tuple[memoryview, Tensor]:
        """Memory for entries, as bytes and as a tensor: the same from tile to tile.

        Every call of torch's lets the other workers have the interpreter, and waits to have it back.
        """
        import torch

        room = self._rooms.get(slot)
        if room is None or room[2].numel() != entries:
            size = entries * ITEM_BYTES[dtype]
            memory = room[0] if room and room[0].numel() >= size else self._memory(size)
            part = memory[:size]
            room = self._rooms[slot] = memory, part.numpy().data, part.view(getattr(torch, dtype))
        return room[1:]

    def _memory(self, size: int) -> Tensor:
        import torch

        return torch.empty(size, dtype=torch.uint8)


@cache
def streams(device: Any) -> tuple[Any, Any]:
    """A GPU's streams, there and back: the same for all threads, since torch keeps memory apart for each stream."""
    import torch

    stream: Any = torch.cuda.Stream  # which has no types
    return stream(device), stream(device)


class PinnedTransfer(Transfer):
    """Copies that a GPU makes by itself, while it computes and while the processor reads and writes."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self._there, self._back = streams(device)
        self._sent: dict[int, Any] = {}

    def load(self, slot: int, dtype: str, entries: int, fill: Fill) -> Tensor:
        import torch

        if slot in self._sent:
            self._sent[slot].synchronize()  # the slot's memory was copied, and may be filled again
        view, values = self._room(slot, dtype, entries)
        fill(view)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._there):
            sent = values.to(self._device, non_blocking=True)
            self._sent[slot] = self._there.record_event()
        computing.wait_event(self._sent[slot])
        sent.record_stream(computing)  # so that its memory is not another's before it was computed with
        return sent

    def fetch(self, tile: Tensor) -> Landing:
        import torch

        if tile.device.type == "cpu":  # some numbers are made there
            return super().fetch(tile)
        tile = tile.contiguous()
        values = self._memory(tile.numel() * tile.dtype.itemsize).view(tile.dtype)
        self._back.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._back):
            values.copy_(tile, non_blocking=True)
            copied = self._back.record_event()
        tile.record_stream(self._back)
        return Landing(values, copied.synchronize, is_lent=False)

    def _memory(self, size: int) -> Tensor:
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
