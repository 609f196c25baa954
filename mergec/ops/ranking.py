"""Ranking: where a ranking of entries by magnitude is cut, found by counting bits, without sorting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mergec.ops import bits
from mergec.ops.bracket import GATHERED, Bracket, Place, Runs, among, fast, indices, sampled
from mergec.ops.op import Reducer, op

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Cut(Reducer):
    """Where a ranking by magnitude is cut: for each count k the k-th largest |delta| and the last index kept at it.

    Larger magnitudes come first, equal ones by lowest flat index. The result is (magnitude, index) per count:
    an entry is among the first k if it is larger, or equal and its index is not above.

    Who may choose what to feed it, as `asks` says, spares it sweeps: a sample tells about where the cuts are.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self._ranks = [_Rank(k) for k in counts]
        self._sample: list[Any] | None = None
        self._runs: Runs = ()
        self._brackets: list[Bracket | None] = []
        self._entries = 0

    def asks(self, entries: int) -> Runs | None:
        if not self._entries:
            self._entries, self._sample, self._runs = entries, [], sampled(entries)
            return self._runs
        asked = [rank.span for rank in self._ranks if rank.found is None]
        return None if self._brackets or None in asked else sorted(span for span in asked if span)

    def update(self, delta: Tensor) -> None:
        start = self.position
        self.position += delta.numel()
        if self._sample is not None:
            runs = [(max(first - start, 0), last - start) for first, last in self._runs if first < self.position]
            parts = [delta[first:last] for first, last in runs if last > 0]
            self._sample += [_bits_of(part).cpu().numpy() for part in parts]
            self._dtype = delta.dtype
            return
        self._look(delta)
        counts = None  # which are the same for all, as long as no digit is known
        for rank in () if self._brackets else self._ranks:
            counts = rank.update(delta, start, counts)
        magnitudes = _bits_of(delta) if self._brackets else delta
        for bracket in self._brackets:
            if bracket:
                bracket.update(magnitudes, start, self._entries)

    def finish(self) -> tuple[float, ...] | None:
        entries, self.position = self._entries or self.position, 0
        if self._sample is not None:
            self._guess(self._sample)
        else:
            self._settle(entries)
        if any(rank.found is None for rank in self._ranks):
            return None
        return tuple(number for rank in self._ranks for number in rank.found or ())

    def _look(self, delta: Tensor) -> None:
        """Look at a tile of a sweep over all entries."""

    def _shares(self, sample: Any) -> list[float]:
        """Which shares of the entries lie above the cuts, about, by a sample of their bits."""
        return [rank.left / self._entries for rank in self._ranks]

    def _seek(self, sample: Any = None) -> None:
        """Tell the ranks what they look for, now that all entries were seen, in a sample or a sweep."""

    def _guess(self, parts: list[Any]) -> None:
        """Make brackets by the sample; a sample of all entries has the result."""
        import numpy as np

        sample, self._sample = np.concatenate(parts), None
        if sample.size < self._entries:
            pairs = zip(self._ranks, self._shares(sample), strict=True)
            made = [Bracket.around(sample, share, self._entries) if not one.found else None for one, share in pairs]
            self._brackets = made if any(made) else []
            return
        self._seek(sample)
        for rank in self._ranks:
            if rank.found is None:
                rank.settle(among(sample, range(sample.size), rank.left, self._entries), self._dtype)

    def _settle(self, entries: int) -> None:
        """Take what the brackets have found; a rank that its bracket does not know is found digit by digit."""
        self._seek()
        brackets, self._brackets = self._brackets or [None] * len(self._ranks), []
        for rank, bracket in zip(self._ranks, brackets, strict=True):
            place = bracket.find(rank.left, entries) if bracket and rank.found is None else None
            if place:
                rank.settle(place, self._dtype)
            elif not any(brackets):
                rank.end_sweep(entries)


class CutNonzero(Cut):
    """A `Cut` after a share of the entries that are not zero: int(share * their number)."""

    def __init__(self, share: float) -> None:
        super().__init__((1,))
        self._share = share
        self._is_counted = False
        self._nonzero = 0

    def _look(self, delta: Tensor) -> None:
        if not self._is_counted:
            self._nonzero += int(delta.count_nonzero())

    def _shares(self, sample: Any) -> list[float]:
        return [self._share * int((sample != 0).sum()) / sample.size]

    def _seek(self, sample: Any = None) -> None:
        self._nonzero = self._nonzero if sample is None else int((sample != 0).sum())
        if not self._is_counted:
            self._is_counted = True
            self._ranks[0].seek(int(self._share * self._nonzero))


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


class _Rank:
    """The search for the k-th largest magnitude, exact and without sorting.

    The bits of a float without its sign are ordered like its magnitude. They are counted digit by digit (16 bits)
    from the top: after each sweep over the tensor one more digit of the wanted entry is known. Where few entries share
    the known digits, the next sweep gathers them with their indices, and ends the search. Otherwise, if the cut goes
    through equal magnitudes, one more sweep finds the index of the last one that is kept.
    """

    def __init__(self, k: int) -> None:
        self.found: tuple[float, float] | None = None if k else (float("inf"), -1.0)
        self.left = k  # entries still to be kept among those that share the known digits
        self.span: tuple[int, int] | None = None  # where the last index is, once the magnitude is known
        self._digits = Digits()
        self._counts: Tensor | None = None
        self._gathered: list[tuple[Any, Any]] | None = None
        self._last = -1

    def settle(self, place: Place, dtype: torch.dtype) -> None:
        """Take what was found without digits; where the last index is not known, it is looked for in a span."""
        magnitude = magnitude_of(place.bits, dtype)
        if place.last is not None:
            self.found = (magnitude, float(place.last))
        else:
            self._digits.magnitude, self.left, self.span = magnitude, place.left, place.span

    def seek(self, k: int) -> None:
        """Look for another k, before the first sweep ends."""
        self.left = k
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
        if self.span:
            first = max(0, self.span[0] - start)
            delta, start = delta[first : max(0, self.span[1] - start)], start + first
        if self.left:
            tied = indices(fast(bits.equal(delta.abs(), self._digits.magnitude or 0.0)))
            taken = min(self.left, len(tied))
            self._last = start + int(tied[taken - 1]) if taken else self._last
            self.left -= taken

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
        self.left, tied = self._digits.narrow(self._counts, self.left, self._dtype)
        self._counts = None
        if self._digits.magnitude is not None and self.left == tied:
            self.found = (self._digits.magnitude, float(entries))
        elif self._digits.magnitude is None and tied <= GATHERED and self._digits.can_gather(self._dtype):
            self._gathered = []

    def _among_gathered(self, entries: int) -> tuple[float, float]:
        """The magnitude of the last that is kept of those that were gathered, and the index of its last equal."""
        import numpy as np

        values, places = (np.concatenate(some) for some in zip(*self._gathered or (), strict=True))
        place = among(values, places, self.left, entries)
        return magnitude_of(place.bits, self._dtype), float(entries if place.last is None else place.last)


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
