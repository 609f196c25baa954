"""Bracket: an order statistic guessed from a sample, and found by sweeps that count on both sides of it.

Whether the guess was good changes the number of sweeps, never the result: counts say where the statistic lies.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Runs: TypeAlias = "Sequence[tuple[int, int]]"
"""Runs of entries [start, stop), in order."""

GATHERED = 96 << 10
"""How many entries are gathered at the most: with their indices they take 12 bytes each."""
_FEW = 48 << 10  # entries gathered in a bracket: of a tensor there are several
_RUN = 1 << 14
_LEAST, _MOST = 1 << 16, 1 << 17  # entries of a sample
_DEVIATIONS = 3.5  # of a sample's share, between the guess and the ends of its bracket
_GROUPS = 512
_BITS = 14  # of a bin's number
_INFINITE = 0x7F800000  # as float32, in which compiled loops compare


def sampled(entries: int) -> Runs:
    """The runs of a tensor that are its sample, spread evenly: all of a small one."""
    wanted = min(max(entries // 64, _LEAST), _MOST)
    if entries <= GATHERED or entries <= wanted:
        return [(0, entries)]
    number = wanted // _RUN
    return [(start, start + _RUN) for start in (entries * run // number // _RUN * _RUN for run in range(number))]


class Place(NamedTuple):
    """Where an order statistic was found: its bits, how many equal ones are kept of how many, and where to look on.

    `last` is the index of the last that is kept, if that is known; else it is among the entries of `span`, of which
    `left` equal ones are kept.
    """

    bits: int
    last: int | None
    left: int = 0
    span: tuple[int, int] = (0, 0)


def among(values: Any, places: Any, left: int, entries: int) -> Place:
    """The `left`-th largest of some bits, and the index of the last of its equals that is kept; numpy arrays."""
    import numpy as np

    wanted = np.partition(values, values.size - left)[values.size - left]
    equal = np.flatnonzero(values == wanted)
    kept = left - int((values > wanted).sum())
    last = entries if kept == equal.size else int(places[equal[kept - 1]])
    return Place(int(wanted), last)


class Bracket:
    """Two magnitudes, as bits, between which an order statistic is supposed to lie, and counts of what lies there.

    Entries between the two are kept, with their indices, where they are `expected` to be few; else they are counted
    in bins, so that another bracket takes one of these.
    """

    def __init__(self, low: int, high: int, top: int, expected: float) -> None:
        self._low, self._high, self._top = low, high, top
        self._above_high = self._above_low = 0
        self._expects_few = expected <= _FEW
        self._gathered: tuple[Any, Any] | None = None
        self._number = 0
        self._bins: Any = None
        self._groups: list[list[int]] = []  # where some tiles begin, and their entries equal to high, to low

    @classmethod
    def around(cls, ordered: Any, share: float, entries: int) -> Bracket:
        """The bracket of the magnitude that a share of all entries exceeds, by a sorted sample of their bits."""
        import numpy as np

        size = ordered.size
        place, margin = share * size, 2 + _DEVIATIONS * sqrt(size * share * max(0.0, 1 - share))
        first, last = size - 1 - int(place + margin), size - 1 - int(place - margin)
        low = int(ordered[first]) if first >= 0 else 0
        top = _INFINITE if ordered.itemsize == 4 else int(np.iinfo(ordered.dtype).max)
        high = int(ordered[last]) if last < size else top
        between = np.searchsorted(ordered, high) - np.searchsorted(ordered, low, side="right")
        return cls(low, high, top, float(between) * entries / size / 0.9)

    @cached_property
    def reals(self) -> tuple[float, float]:
        """Its lower end and its upper one, of float32."""
        low, high = struct.unpack("ff", struct.pack("ii", self._low, self._high))
        return low, high

    def update(self, bits: Tensor, start: int, entries: int) -> None:
        """Look at a tile's bits; it begins at entry `start` of so many."""
        values = fast(bits)
        above_high, high = values > self._high, values == self._high
        if self._low == self._high:
            self.add((count(above_high), count(high), 0, 0), start, entries)
            return
        above_low, low = values > self._low, values == self._low
        if self.add((count(above_high), count(high), count(above_low), count(low)), start, entries):
            places = indices(above_low & (values < self._high))
            self.gather(on_cpu(values[places]), on_cpu(places) + start)

    def add(self, counts: Sequence[int], start: int, entries: int) -> bool:
        """Add how many bits of a tile are above the upper end, equal to it, above the lower one, equal to that.

        Returns whether what lies between is asked for.
        """
        if not self._groups or start - self._groups[-1][0] > entries // _GROUPS:
            self._groups.append([start, 0, 0])
        above_high, high, above_low, low = counts
        self._above_high += above_high
        self._above_low += above_low
        self._groups[-1][1] += high
        self._groups[-1][2] += low
        return self._low < self._high

    def gather(self, values: Any, places: Any) -> None:
        """Keep, or count, those of a tile's bits that lie between the ends; their indices are `places` (numpy)."""
        import numpy as np

        inside = (values > self._low) & (values < self._high)
        values, begin = values[inside], self._number
        self._number += values.size
        if self._bins is None and self._expects_few and self._number <= _FEW:
            # Room for all at once: arrays kept from each tile would lie between the tiles, and hold their memory.
            self._gathered = self._gathered or (np.empty(_FEW, values.dtype), np.empty(_FEW, np.int64))
            self._gathered[0][begin : self._number] = values
            self._gathered[1][begin : self._number] = places[inside]
            return
        if self._bins is None:
            self._bins = np.zeros(1 << _BITS, np.int64)
            if self._gathered:
                self._bins += self._counted(self._gathered[0][:begin])
            self._gathered = None
        self._bins += self._counted(values)

    def find(self, k: int, entries: int) -> Place | Bracket | None:
        """Where the k-th largest is, or a bracket that holds it; None where it is no number."""
        high, low = (sum(group[column] for group in self._groups) for column in (1, 2))
        if k <= self._above_high:
            return self._narrower(self._high, self._top, self._above_high) if self._high < self._top else None
        if k <= self._above_high + high:
            return self._tie(self._high, 1, k - self._above_high, entries)
        if self._low == self._high or k > self._above_low + low:
            return self._narrower(0, self._low, entries)
        if k > self._above_low:
            return self._tie(self._low, 2, k - self._above_low, entries)
        if self._bins is not None:
            return self._bin(k - self._above_high - high)
        assert self._gathered
        values, places = (some[: self._number] for some in self._gathered)
        return among(values, places, k - self._above_high - high, entries)

    def _tie(self, bits: int, column: int, left: int, entries: int) -> Place:
        """The place of the `left`-th of some equal entries."""
        if left == sum(group[column] for group in self._groups):
            return Place(bits, entries)
        ends = [group[0] for group in self._groups[1:]] + [entries]
        for group, end in zip(self._groups, ends, strict=True):
            if left <= group[column]:
                return Place(bits, None, left, (group[0], end))
            left -= group[column]
        raise AssertionError

    def _counted(self, values: Any) -> Any:
        import numpy as np

        return np.bincount((values - (self._low + 1)) >> self._shift, minlength=1 << _BITS)

    @property
    def _shift(self) -> int:
        """How many of the last bits of a distance from the lower end do not tell bins apart."""
        return max(0, (self._high - self._low).bit_length() - _BITS)

    def _bin(self, k: int) -> Bracket:
        """A bracket around the bin of the k-th largest of those that were counted in bins."""
        from_top = self._bins[::-1].cumsum()
        place = self._bins.size - 1 - int((from_top < k).sum())
        low = self._low + (place << self._shift)
        if not self._shift:
            return self._narrower(low + 1, low + 1, 0)
        return self._narrower(low, min(low + 1 + (1 << self._shift), self._high), int(self._bins[place]))

    def _narrower(self, low: int, high: int, expected: int) -> Bracket:
        return Bracket(low, high, self._top, expected)


def fast(values: Tensor) -> Any:
    """The values as an array of numpy's, which compares and searches faster, where they are on the processor."""
    return values.numpy() if values.device.type == "cpu" else values


def indices(found: Any) -> Any:
    """The indices of what is true, of an array of numpy's or a tensor."""
    import numpy as np

    return np.flatnonzero(found) if isinstance(found, np.ndarray) else found.nonzero().flatten()


def count(found: Any) -> int:
    """How many are true, of an array of numpy's or a tensor."""
    import numpy as np

    return int(np.count_nonzero(found) if isinstance(found, np.ndarray) else found.count_nonzero())


def on_cpu(values: Any) -> Any:
    """The values as an array of numpy's."""
    return values.cpu().numpy() if hasattr(values, "cpu") else values
