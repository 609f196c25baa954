"""Counter-based random numbers: one 24-bit number per entry, from a key and the entry's flat index alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 1 << 24
"""The numbers are drawn uniformly from 0 .. LEVELS - 1; all of them are exact in float32."""

BLOCK = 1 << 24
"""Entries that share a pair of hash keys: an index within a block fits in 32-bit arithmetic."""


def key(seed: int, stream: str, tensor: str, slot: str) -> int:
    """64 bits from the recipe's seed, the stream of a step or method, the tensor's name and the model's slot id."""
    return _digest(f"{seed}\n{stream}\n{tensor}\n{slot}")


def uniform(start: int, stop: int, key: int, device: Any = "cpu") -> Tensor:
    """The numbers of entries [start, stop), int32.

    Two rounds of a 32-bit mixing hash over the index within a block, each block with two keys of its own:
    `lowbias32(lowbias32(golden * i + k1) + k2) >> 8`. Integer arithmetic wraps alike on every device, so the
    numbers do not depend on tiling, device or order. The hash is from Wellons, Prospecting for hash functions.
    """
    import torch

    pieces = []
    while start < stop:
        block, begin = divmod(start, BLOCK)
        end = min(BLOCK, begin + stop - start)
        keys = _digest(f"{key}\n{block}")
        index = torch.arange(begin, end, dtype=torch.int32, device=device)
        mixed = _lowbias32(index.mul_(_signed(0x9E3779B1)).add_(_signed(keys)))
        pieces.append(_shifted(_lowbias32(mixed.add_(_signed(keys >> 32))), 8))
        start += end - begin
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _lowbias32(values: Tensor) -> Tensor:
    """A bijection of 32 bits in which every input bit changes every output bit about half of the time; in place."""
    shifted = _shifted(values, 16)
    values ^= shifted
    values *= _signed(0x7FEB352D)
    values ^= _shifted(values, 15, shifted)
    values *= _signed(0x846CA68B)
    values ^= _shifted(values, 16, shifted)
    return values


def _shifted(values: Tensor, bits: int, out: Tensor | None = None) -> Tensor:
    """A logical right shift: torch's own keeps the sign."""
    import torch

    return torch.bitwise_right_shift(values, bits, out=out).bitwise_and_((1 << (32 - bits)) - 1)


def _signed(value: int) -> int:
    """The low 32 bits as a signed integer."""
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
