"""Counter-based random numbers: one 24-bit number per entry, from a key and the entry's flat index alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 1 << 24
"""The numbers are drawn uniformly from 0 .. LEVELS - 1; all of them are exact in float32."""

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def key(seed: int, stream: str, tensor: str, slot: int) -> int:
    """64 bits from the recipe's seed, the method's stream (name.version), the tensor's name and the model's slot."""
    text = f"{seed}\n{stream}\n{tensor}\n{slot}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def uniform(index: Tensor, key: int) -> Tensor:
    """The SplitMix64 output number `index` of the stream that starts at `key`, its top 24 bits, int64.

    Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014. Integer arithmetic wraps
    alike on every device, so the numbers do not depend on tiling, device or order.
    """
    state = index * _signed(_GOLDEN) + _signed(key + _GOLDEN)
    state = (state ^ _shifted(state, 30)) * _signed(_MIX_1)
    state = (state ^ _shifted(state, 27)) * _signed(_MIX_2)
    return _shifted(state ^ _shifted(state, 31), 40)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """A logical right shift: torch's own keeps the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
