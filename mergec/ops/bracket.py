"""Bracket: an order statistic guessed from a sample, and found, or not, by one sweep that counts on both sides of it.

Whether the guess was good changes the number of sweeps, never the result: counts say where the statistic lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Runs: TypeAlias = "Sequence[tuple[int, int]]"
"""Runs of entries [start, stop), in order."""

GATHERED = 96 << 10
"""How many entries are gathered at the most: with their indices they take 12 bytes each."""
_FEW = 48 << 10  # entries gathered in a bracket: of a tensor there are several
_RUN = 1 << 13
_LEAST, _MOST = 1 << 16, 1 << 17  # entries of a sample
_DEVIATIONS = 3.5  # of a sample's share, between the guess and the ends of its bracket
_GROUPS = 512


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

    `gathers` says whether entries between the two are kept, with their indices, as far as they are few.
    """

    def __init__(self, low: int, high: int, gathers: bool) -> None:
        self._low, self._high = low, high
        self._above_high = self._above_low = 0
        self._gathered: list[tuple[Any, Any]] | None = [] if gathers else None
        self._number = 0
        self._groups: list[list[int]] = []  # where some tiles begin, and their entries equal to high, to low

    @classmethod
    def around(cls, sample: Any, share: float, entries: int) -> Bracket | None:
        """The bracket of the magnitude that a share of all entries exceeds, by a sample of their bits (numpy).

        None where too many entries would have to be gathered.
        """
        import numpy as np

        size = sample.size
        place, margin = share * size, 2 + _DEVIATIONS * sqrt(size * share * max(0.0, 1 - share))
        first, last = size - 1 - int(place + margin), size - 1 - int(place - margin)
        ordered = np.partition(sample, [max(first, 0), min(last, size - 1)])
        low = int(ordered[first]) if first >= 0 else 0
        high = int(ordered[last]) if last < size else int(np.iinfo(sample.dtype).max)
        between = int(((sample > low) & (sample < high)).sum())
        return cls(low, high, between > 0) if between * entries < _FEW * 0.9 * size else None

    def update(self, bits: Tensor, start: int, entries: int) -> None:
        """Count a tile's bits; it begins at entry `start` of so many."""
        if not self._groups or start - self._groups[-1][0] > entries // _GROUPS:
            self._groups.append([start, 0, 0])
        group = self._groups[-1]
        values = fast(bits)
        self._above_high += _count(values > self._high)
        group[1] += _count(values == self._high)
        if self._low == self._high:
            return
        above = values > self._low
        self._above_low += _count(above)
        group[2] += _count(values == self._low)
        if self._gathered is not None:
            self._gather(values, above & (values < self._high), start)

    def _gather(self, values: Any, found: Any, start: int) -> None:
        number = _count(found)
        self._number += number
        if self._gathered is None or self._number > _FEW:
            self._gathered = None
        elif number:
            places = indices(found)
            self._gathered.append((_on_cpu(values[places]), _on_cpu(places) + start))

    def find(self, k: int, entries: int) -> Place | None:
        """Where the k-th largest is; None where it is not known by this sweep."""
        equal = sum(group[1] for group in self._groups)
        if k <= self._above_high:
            return None
        if k <= self._above_high + equal:
            return self._tie(self._high, 1, k - self._above_high, entries)
        if self._low == self._high:
            return None
        if k > self._above_low:
            left = k - self._above_low
            known = left <= sum(group[2] for group in self._groups)
            return self._tie(self._low, 2, left, entries) if known else None
        if not self._gathered:
            return None
        import numpy as np

        values, places = (np.concatenate(some) for some in zip(*self._gathered, strict=True))
        return among(values, places, k - self._above_high - equal, entries)

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


def fast(values: Tensor) -> Any:
    """The values as an array of numpy's, which compares and searches faster, where they are on the processor."""
    return values.numpy() if values.device.type == "cpu" else values


def indices(found: Any) -> Any:
    """The indices of what is true, of an array of numpy's or a tensor."""
    import numpy as np

    return np.flatnonzero(found) if isinstance(found, np.ndarray) else found.nonzero().flatten()


def _count(found: Any) -> int:
    import numpy as np

    return int(np.count_nonzero(found) if isinstance(found, np.ndarray) else found.count_nonzero())


def _on_cpu(values: Any) -> Any:
    return values.cpu().numpy() if hasattr(values, "cpu") else values
