"""Counter-based random numbers: one 24-bit number per entry, from a key and the entry's flat index alone."""

from __future__ import annotations

import hashlib
import math
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
        begin, first, second = numbers_of(start, key)
        end = min(BLOCK, begin + stop - start)
        index = torch.arange(begin, end, dtype=torch.int32, device=device)
        mixed = _lowbias32(index.mul_(_signed(0x9E3779B1)).add_(first))
        pieces.append(_shifted(_lowbias32(mixed.add_(second)), 8))
        start += end - begin
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def normal(start: int, stop: int, key: int, device: Any = "cpu") -> Tensor:
    """Standard normal numbers for entries [start, stop), float64: the quantiles that the uniform numbers stand for.

    Wichura's algorithm AS 241 (PPND7, seven digits). All of it, the logarithm too, is made of sums, products, quotients
    and roots, which are rounded alike on every device, wherever a tile is cut.
    """
    import torch

    p = (uniform(start, stop, key, device).double() + 0.5) / LEVELS
    middle, tail = p - 0.5, torch.minimum(p, 1 - p)
    square = 0.180625 - middle * middle
    near = middle * _ratio(square, _NEAR)
    far = _ratio((-_log(tail)).sqrt() - 1.6, _FAR)
    return torch.where(middle.abs() <= 0.425, near, torch.where(middle < 0, -far, far))


_NEAR = (59.109374720, 159.29113202, 50.434271938, 3.3871327179), (67.187563600, 78.757757664, 17.895169469, 1.0)
_FAR = (0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777), (0.12021132975, 0.73700164250, 1.0)


def _ratio(x: Tensor, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """A quotient of two polynomials."""
    over, under = (_polynomial(x, some) for some in coefficients)
    return over / under


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = x * 0 + coefficients[0]
    for one in coefficients[1:]:
        total = total * x + one
    return total


def _log(x: Tensor) -> Tensor:
    """The natural logarithm of positive numbers: of the mantissa by the series of artanh, of the exponent exactly."""
    import torch

    mantissa, exponent = torch.frexp(x)
    share = (mantissa - 1) / (mantissa + 1)  # between -1/3 and 0
    series = _polynomial(share * share, tuple(1 / odd for odd in range(25, 0, -2)))
    return 2 * share * series + exponent.double() * math.log(2)


def numbers_of(start: int, key: int) -> tuple[int, int, int]:
    """What the numbers of the entries from `start` to the end of its block follow from: the first's index, two keys."""
    block, begin = divmod(start, BLOCK)
    keys = _digest(f"{key}\n{block}")
    return begin, _signed(keys), _signed(keys >> 32)


def drawn(index: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The numbers of entries by their index in a block, int32, as `uniform` draws them; changes nothing in place."""
    once = _mixed(index * _signed(0x9E3779B1) + first)
    return _logical_shift(_mixed(once + second), 8)


def _mixed(values: Tensor) -> Tensor:
    values = (values ^ _logical_shift(values, 16)) * _signed(0x7FEB352D)
    values = (values ^ _logical_shift(values, 15)) * _signed(0x846CA68B)
    return values ^ _logical_shift(values, 16)


def _logical_shift(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & ((1 << (32 - bits)) - 1)


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
