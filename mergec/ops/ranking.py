"""Ranking: where a ranking of entries by magnitude is cut, found by counting bits, without sorting."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from mergec.ops import bits
from mergec.ops.bracket import GATHERED, Bracket, Place, Runs, among, count, fast, indices, on_cpu, sampled
from mergec.ops.op import Reducer, op

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_MAGNITUDE = 0x7FFFFFFF  # a float32 without its sign


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
        magnitudes, start = magnitudes_of(delta), self.position
        if not self._seen(magnitudes, delta.dtype):
            for bracket in self._brackets:
                if bracket:
                    bracket.update(magnitudes, start, self._entries)

    def bounds(self) -> tuple[float, ...]:
        """The ends of each bracket, as float32; where there is none, ends that nothing lies between."""
        return tuple(end for one in self._guesses() for end in (one.reals if one else (inf, inf)))

    def take(self, marked: Tensor, counts: Tensor) -> None:
        """Take magnitudes, negative where they lie inside a bracket, and what each bracket counts in runs of them."""
        start = self.position
        if self._seen(bits.integers(marked), marked.dtype):
            return
        guesses, values = self._guesses(), marked.numpy().view("int32")
        numbers = counts.numpy().reshape(-1, len(guesses), 4).sum(0).tolist()
        pairs = zip(guesses, numbers, strict=True)
        if gathering := [one for one, found in pairs if one and one.add(found, start, self._entries)]:
            places = indices(values < 0)
            found = values[places] & _MAGNITUDE
            for bracket in gathering:
                bracket.gather(found, places + start)

    def _guesses(self) -> list[Bracket | None]:
        """A bracket, or none, for each count that is not zero."""
        brackets = self._brackets or [None] * len(self._ranks)
        return [one for one, rank in zip(brackets, self._ranks, strict=True) if rank.seeks]

    def _seen(self, magnitudes: Tensor, dtype: torch.dtype) -> bool:
        """Look at the bits of a tile's magnitudes; whether there is nothing else to look for, such as brackets."""
        start, self._dtype = self.position, dtype
        self.position += magnitudes.numel()
        if self._sample is not None:
            runs = [(max(first - start, 0), last - start) for first, last in self._runs if first < self.position]
            self._sample += [on_cpu(fast(magnitudes)[first:last]).copy() for first, last in runs if last > 0]
            return True
        self._look(magnitudes)
        counts = None  # which are the same for all, as long as no digit is known
        for rank in () if self._brackets else self._ranks:
            counts = rank.update(magnitudes, dtype, start, counts)
        return not self._brackets

    def finish(self) -> tuple[float, ...] | None:
        entries, self.position = self._entries or self.position, 0
        if self._sample is not None:
            self._guess(self._sample)
        else:
            self._settle(entries)
        if any(rank.found is None for rank in self._ranks):
            return None
        return tuple(number for rank in self._ranks for number in rank.found or ())

    def _look(self, magnitudes: Tensor) -> None:
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
            ordered, pairs = np.sort(sample), zip(self._ranks, self._shares(sample), strict=True)
            made = [Bracket.around(ordered, share, self._entries) if not one.found else None for one, share in pairs]
            self._brackets = made if any(made) else []
            return
        self._seek(sample)
        for rank in self._ranks:
            if rank.found is None:
                rank.settle(among(sample, range(sample.size), rank.left, self._entries), self._dtype)

    def _settle(self, entries: int) -> None:
        """Take what the brackets have found; a rank that its bracket does not know is found digit by digit."""
        self._seek()
        brackets = self._brackets or [None] * len(self._ranks)
        found = [
            bracket.find(rank.left, entries) if bracket and rank.found is None else None
            for rank, bracket in zip(self._ranks, brackets, strict=True)
        ]
        for rank, one in zip(self._ranks, found, strict=True):
            if isinstance(one, Place):
                rank.settle(one, self._dtype)
            elif not any(brackets):
                rank.end_sweep(entries)
        narrower = [one if isinstance(one, Bracket) else None for one in found]
        self._brackets = narrower if any(narrower) else []


class CutNonzero(Cut):
    """A `Cut` after a share of the entries that are not zero: int(share * their number)."""

    def __init__(self, share: float) -> None:
        super().__init__((1,))
        self._share = share
        self._is_counted = False
        self._nonzero = 0

    def _look(self, magnitudes: Tensor) -> None:
        if not self._is_counted:
            self._nonzero += count(fast(magnitudes) != 0)

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
            rank.update(magnitudes_of(values), values.dtype, 0)

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
        self.seeks = k > 0
        self.found: tuple[float, float] | None = None if k else (float("inf"), -1.0)
        self.left = k  # entries still to be kept among those that share the known digits
        self.span: tuple[int, int] | None = None  # where the last index is, once the magnitude is known
        self._digits = Digits()
        self._counts: Tensor | None = None
        self._gathered: list[tuple[Any, Any]] | None = None
        self._last = -1

    def settle(self, place: Place, dtype: torch.dtype) -> None:
        """Take what was found without digits; where the last index is not known, it is looked for in a span."""
        if place.last is not None:
            self.found = (magnitude_of(place.bits, dtype), float(place.last))
        else:
            self._digits.settle(place.bits, dtype)
            self.left, self.span = place.left, place.span

    def seek(self, k: int) -> None:
        """Look for another k, before the first sweep ends."""
        self.left = k
        self.found = None if k else (float("inf"), -1.0)

    @property
    def magnitude(self) -> float | None:
        return self.found[0] if self._gathered and self.found else self._digits.magnitude

    def update(self, magnitudes: Tensor, dtype: torch.dtype, start: int, counts: Tensor | None = None) -> Tensor | None:
        """Look at a tile's bits; `counts` are those of its first digits, if another rank has them. Gives them back."""
        if self.found is not None:
            return counts
        if self._digits.magnitude is not None:
            self._find_tie(magnitudes, start)
            return counts
        self._dtype = dtype
        if self._gathered is not None:
            values, places = self._digits.gather(magnitudes)
            self._gathered.append((values, places + start))
            return counts
        if counts is None or not self._digits.is_first:
            counts = self._digits.count(magnitudes)
        self._counts = counts if self._counts is None else self._counts + counts
        return counts if self._digits.is_first else None

    def _find_tie(self, magnitudes: Tensor, start: int) -> None:
        if self.span:
            first = max(0, self.span[0] - start)
            magnitudes, start = magnitudes[first : max(0, self.span[1] - start)], start + first
        if self.left:
            tied = indices(fast(magnitudes) == self._digits.known)
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
        self.known = -1  # the digits known so far, -1 for none
        self._shift = -1  # bits below the digit that is being counted, -1 before the first

    @property
    def is_first(self) -> bool:
        """Whether no digit is known."""
        return self.known < 0

    def can_gather(self, dtype: torch.dtype) -> bool:
        """Whether the next sweep may gather those that share the known digits: 16 of 32 bits."""
        return dtype.itemsize == 4 and self._shift == 0

    def settle(self, magnitude: int, dtype: torch.dtype) -> None:
        """Take all digits at once."""
        self.known, self.magnitude = magnitude, magnitude_of(magnitude, dtype)

    def gather(self, magnitudes: Tensor) -> tuple[Any, Any]:
        """Those of some bits that share the known digits, and their indices."""
        values = fast(magnitudes)
        places = indices((values >> 16) == self.known)
        return on_cpu(values[places]), on_cpu(places)

    def count(self, magnitudes: Tensor) -> Tensor:
        """How many of the bits that share the known digits have each next one: 65,536 counts."""
        import torch

        digits = magnitudes >> (self._shift if self._shift >= 0 else magnitudes.dtype.itemsize * 8 - 16)
        if self.known >= 0:
            digits = digits[(digits >> 16) == self.known] & 0xFFFF
        return torch.bincount(digits.to(torch.int32), minlength=1 << 16)

    def narrow(self, counts: Tensor, left: int, dtype: torch.dtype) -> tuple[int, int]:
        """Learn the next digit of the value that `left` of those counted reach.

        Returns how many of those that have this digit are still to be kept, and how many there are.
        """

        from_top = counts.flip(0).cumsum(0)
        place = int((from_top < left).sum())
        digit = counts.numel() - 1 - place
        left -= int(from_top[place - 1]) if place else 0
        self.known = (max(self.known, 0) << 16) | digit
        self._shift = (self._shift if self._shift >= 0 else dtype.itemsize * 8 - 16) - 16
        if self._shift < 0:
            self.settle(self.known, dtype)
        return left, int(counts[digit])


def magnitudes_of(values: Tensor) -> Tensor:
    """The bits of magnitudes, as integers of their size."""
    return bits.integers(values.abs())


def magnitude_of(magnitude: int, dtype: torch.dtype) -> float:
    """The magnitude that has these bits."""
    import torch

    like = torch.zeros(1, dtype=dtype)
    return float(bits.integers(like).fill_(magnitude).view(dtype))


cut = op("reduce", "delta -> scalar", scratch_bytes=24, name="cut")(Cut)
cut_nonzero = op("reduce", "delta -> scalar", scratch_bytes=24, name="cut_nonzero")(CutNonzero)
order = op("reduce", "delta -> scalar", scratch_bytes=24, name="order")(Order)
