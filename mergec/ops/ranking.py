"""Ranking: where a ranking of entries by magnitude is cut, found by counting bits, without sorting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mergec.ops.op import Reducer, op

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Cut(Reducer):
    """Where a ranking by magnitude is cut: for each count k the k-th largest |delta| and the last index kept at it.

    Larger magnitudes come first, equal ones by lowest flat index. The result is (magnitude, index) per count:
    an entry is among the first k if it is larger, or equal and its index is not above.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self._ranks = [_Rank(k) for k in counts]
        self._seen = 0

    def update(self, delta: Tensor) -> None:
        counts = None  # which are the same for all, as long as no digit is known
        for rank in self._ranks:
            counts = rank.update(delta, self._seen, counts)
        self._seen += delta.numel()

    def finish(self) -> tuple[float, ...] | None:
        entries, self._seen = self._seen, 0
        for rank in self._ranks:
            rank.end_sweep(entries)
        if any(rank.found is None for rank in self._ranks):
            return None
        return tuple(number for rank in self._ranks for number in rank.found or ())


class CutNonzero(Reducer):
    """A `Cut` after a share of the entries that are not zero: int(share * their number)."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._rank = _Rank(1)
        self._is_counted = False
        self._nonzero = self._seen = 0

    def update(self, values: Tensor) -> None:
        self._rank.update(values, self._seen)
        self._seen += values.numel()
        if not self._is_counted:
            self._nonzero += int(values.count_nonzero())

    def finish(self) -> tuple[float, ...] | None:
        if not self._is_counted:
            self._is_counted = True
            self._rank.seek(int(self._share * self._nonzero))
        entries, self._seen = self._seen, 0
        self._rank.end_sweep(entries)
        return self._rank.found


class Order(Reducer):
    """The k-th largest magnitude for each count k: order statistics, exact."""

    def __init__(self, counts: tuple[int, ...]) -> None:
        self._ranks = [_Rank(k) for k in counts]

    def update(self, values: Tensor) -> None:
        for rank in self._ranks:
            rank.update(values, 0)

    def finish(self) -> tuple[float, ...] | None:
        for rank in self._ranks:
            rank.end_sweep(0)
        found = [rank.magnitude for rank in self._ranks if rank.magnitude is not None]
        return tuple(found) if len(found) == len(self._ranks) else None


_GATHERED = 96 << 10
"""How many entries are gathered at the most: with their indices they take 12 bytes each."""


class _Rank:
    """The search for the k-th largest magnitude, exact and without sorting.

    The bits of a float without its sign are ordered like its magnitude. They are counted digit by digit (16 bits)
    from the top: after each sweep over the tensor one more digit of the wanted entry is known. Where few entries share
    the known digits, the next sweep gathers them with their indices, and ends the search. Otherwise, if the cut goes
    through equal magnitudes, one more sweep finds the index of the last one that is kept.
    """

    def __init__(self, k: int) -> None:
        self.found: tuple[float, float] | None = None if k else (float("inf"), -1.0)
        self._left = k  # entries still to be kept among those that share the known digits
        self._digits = Digits()
        self._counts: Tensor | None = None
        self._gathered: list[tuple[Any, Any]] | None = None
        self._last = -1

    def seek(self, k: int) -> None:
        """Look for another k, before the first sweep ends."""
        self._left = k
        self.found = None if k else (float("inf"), -1.0)

    @property
    def magnitude(self) -> float | None:
        return self.found[0] if self._gathered and self.found else self._digits.magnitude

    def update(self, delta: Tensor, start: int, counts: Tensor | None = None) -> Tensor | None:
        """Look at a tile; `counts` are those of its first digits, if another rank has them. Gives them back."""
        if self.found is not None:
            return counts
        if self._digits.magnitude is not None:
            self._find_tie(delta, start)
            return counts
        self._dtype = delta.dtype
        if self._gathered is not None:
            values, places = self._digits.gather(delta)
            self._gathered.append((values, places + start))
            return counts
        if counts is None or not self._digits.is_first:
            counts = self._digits.count(delta)
        self._counts = counts if self._counts is None else self._counts + counts
        return counts if self._digits.is_first else None

    def _find_tie(self, delta: Tensor, start: int) -> None:
        if self._left:
            tied = delta.abs().eq(self._digits.magnitude or 0.0).nonzero().flatten()
            taken = min(self._left, tied.numel())
            self._last = start + int(tied[taken - 1]) if taken else self._last
            self._left -= taken

    def end_sweep(self, entries: int) -> None:
        if self.found is not None:
            return
        if self._digits.magnitude is not None:
            self.found = (self._digits.magnitude, float(self._last))
            return
        if self._gathered is not None:
            self.found = self._among_gathered(entries)
            return
        assert self._counts is not None
        self._left, tied = self._digits.narrow(self._counts, self._left, self._dtype)
        self._counts = None
        if self._digits.magnitude is not None and self._left == tied:
            self.found = (self._digits.magnitude, float(entries))
        elif self._digits.magnitude is None and tied <= _GATHERED and self._digits.can_gather(self._dtype):
            self._gathered = []

    def _among_gathered(self, entries: int) -> tuple[float, float]:
        """The magnitude of the last that is kept of those that were gathered, and the index of its last equal."""
        import numpy as np

        values, places = (np.concatenate(some) for some in zip(*self._gathered or (), strict=True))
        wanted = np.partition(values, values.size - self._left)[values.size - self._left]
        equal = places[values == wanted]
        left = self._left - int((values > wanted).sum())
        last = entries if left == equal.size else int(equal[left - 1])
        return magnitude_of(int(wanted), self._dtype), float(last)


class Digits:
    """What is known of a magnitude's bits: 16 more after each sweep, from the top; then the magnitude itself."""

    def __init__(self) -> None:
        self.magnitude: float | None = None
        self._known = -1  # the digits known so far, -1 for none
        self._shift = -1  # bits below the digit that is being counted, -1 before the first

    @property
    def is_first(self) -> bool:
        """Whether no digit is known."""
        return self._known < 0

    def can_gather(self, dtype: torch.dtype) -> bool:
        """Whether the next sweep may gather those that share the known digits: 16 of 32 bits."""
        return dtype.itemsize == 4 and self._shift == 0

    def gather(self, values: Tensor) -> tuple[Any, Any]:
        """The bits of the values that share the known digits, and their indices."""
        import numpy as np

        found = _bits_of(values)
        if found.device.type != "cpu":
            there = ((found >> 16) == self._known).nonzero().flatten()
            return found[there].cpu().numpy(), there.cpu().numpy()
        places = np.flatnonzero((found.numpy() >> 16) == self._known)
        return found.numpy()[places], places

    def count(self, values: Tensor) -> Tensor:
        """How many of the values that share the known digits have each next one: 65,536 counts."""
        import torch

        digits = _bits_of(values) >> (self._shift if self._shift >= 0 else values.dtype.itemsize * 8 - 16)
        if self._known >= 0:
            digits = digits[(digits >> 16) == self._known] & 0xFFFF
        return torch.bincount(digits.to(torch.int32), minlength=1 << 16)

    def narrow(self, counts: Tensor, left: int, dtype: torch.dtype) -> tuple[int, int]:
        """Learn the next digit of the value that `left` of those counted reach.

        Returns how many of those that have this digit are still to be kept, and how many there are.
        """

        from_top = counts.flip(0).cumsum(0)
        place = int((from_top < left).sum())
        digit = counts.numel() - 1 - place
        left -= int(from_top[place - 1]) if place else 0
        self._known = (max(self._known, 0) << 16) | digit
        self._shift = (self._shift if self._shift >= 0 else dtype.itemsize * 8 - 16) - 16
        if self._shift < 0:
            self.magnitude = magnitude_of(self._known, dtype)
        return left, int(counts[digit])


_INTEGERS = {2: "int16", 4: "int32", 8: "int64"}


def _bits_of(values: Tensor) -> Tensor:
    """The bits of magnitudes, as integers of their size."""
    import torch

    return values.abs().view(getattr(torch, _INTEGERS[values.dtype.itemsize]))


def magnitude_of(bits: int, dtype: torch.dtype) -> float:
    """The magnitude that has these bits."""
    import torch

    return float(torch.tensor(bits, dtype=getattr(torch, _INTEGERS[dtype.itemsize])).view(dtype))


cut = op("reduce", "delta -> scalar", scratch_bytes=24, name="cut")(Cut)
cut_nonzero = op("reduce", "delta -> scalar", scratch_bytes=24, name="cut_nonzero")(CutNonzero)
order = op("reduce", "delta -> scalar", scratch_bytes=24, name="order")(Order)
