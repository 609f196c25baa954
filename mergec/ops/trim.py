"""Trim: keep a share of a delta's entries - the largest, all but both tails, at random, or at random by rank."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops import bits, random, replay
from mergec.ops.op import Tile, op
from mergec.ops.ranking import cut
from mergec.ops.registry import Draw, ParameterError

if TYPE_CHECKING:
    from torch import Tensor

Density = Annotated[float, Field(ge=0, le=1, description="share of a delta's entries that is kept")]
Gamma = Annotated[float, Field(ge=0, le=1, description="share of the largest entries that is dropped as outliers")]
Epsilon = Annotated[
    float,
    Field(ge=0, lt=1, description="half the spread of keep probabilities: density - epsilon to density + epsilon"),
]


WindowSize = Annotated[
    Annotated[float, Field(ge=0, lt=2)] | None,
    Field(description="the whole spread of keep probabilities, 2 * epsilon, which the paper's code asks for"),
]


_INDEX_BITS = 31
_NORMAL = 1 << 53  # added to numbers of 62 bits: as float64 none is subnormal then, nor infinite, nor not a number


def keep_count(density: float, entries: int) -> int:
    """How many of n entries a density keeps: int(density * n), at least one unless the density is 0.

    >>> keep_count(0.5, 5), keep_count(0.1, 4), keep_count(0.0, 4), keep_count(1.0, 4)
    (2, 1, 0, 4)
    """
    return min(entries, max(1, int(density * entries))) if density > 0 else 0


def trim_magnitude(delta: Node, density: float) -> Node:
    """Keep the largest entries by magnitude: exactly `keep_count` of them, equal ones by lowest flat index.

    [3, -1, 2, 0] at density 0.5 is [3, 0, 2, 0]; [1, -1, 1, 1] at 0.5 is [1, -1, 0, 0].
    """
    kept = keep_count(density, delta.type.numel)
    return trim(delta, cut(delta, counts=(0, kept)))


def trim_outliers(delta: Node, density: float, gamma: float, may_be_empty: bool = False) -> Node:
    """Drop the int(gamma * n) largest entries, then keep the next int(density * n): both tails go.

    Fewer outliers are dropped where otherwise too few entries would be left. At least one entry is kept unless
    the density is 0; the peer keeps none of a tiny tensor (`may_be_empty`).
    Model Breadcrumbs, arXiv:2312.06795.
    """
    entries = delta.type.numel
    kept = int(density * entries) if may_be_empty else keep_count(density, entries)
    if density >= 1:
        return delta
    outliers = min(int(gamma * entries), entries - kept)
    return trim(delta, cut(delta, counts=(outliers, outliers + kept)))


def trim_random(delta: Node, density: float, slot: int, draw: Draw) -> Node:
    """Keep each entry with probability `density`, independently (DARE, arXiv:2311.03099)."""
    return drop(delta, density=density, **draw.attrs(slot))


def trim_ranked(delta: Node, density: float, epsilon: float, slot: int, draw: Draw) -> tuple[Node, Node | None]:
    """Keep each entry with a probability that grows with its rank in its row (DELLA, arXiv:2406.11617).

    Returns the trimmed delta and the probabilities, None where nothing is drawn (density 0 or 1).
    """
    if density >= 1:
        return delta, None
    if density <= 0:
        return trim_random(delta, 0.0, slot, draw), None
    if not 0 < density - epsilon <= density + epsilon < 1:
        low, high = density - epsilon, density + epsilon
        raise ParameterError(
            "epsilon",
            f"keep probabilities would run from {low:.6g} to {high:.6g}, expected both inside (0, 1)",
            f"epsilon must be below {min(density, 1 - density):.6g} at density {density:.6g}",
        )
    ranked = rank if draw.starts is None else rank_rounded
    chance = ranked(delta, density=density, epsilon=epsilon)
    return drop_ranked(delta, chance, **draw.attrs(slot)), chance


@op("map", "delta scalar -> delta", scratch_bytes=16)
def trim(delta: Tensor, cuts: tuple[float, ...], *, tile: Tile) -> Tensor:
    """Keep the entries ranked from the first cut to the second, set the others to zero."""
    low_magnitude, low_last, high_magnitude, high_last = cuts
    magnitude = delta.abs()
    kept = ranked_before(magnitude, high_magnitude, high_last, tile)
    if low_magnitude != float("inf"):
        kept &= ~ranked_before(magnitude, low_magnitude, low_last, tile)
    return bits.keep(delta, kept)


def ranked_before(magnitude: Tensor, threshold: float, last: float, tile: Tile) -> Tensor:
    """Where magnitudes are above a threshold, or equal to it at an index that is not above `last`."""
    if last >= tile.stop:
        return bits.from_on(magnitude, threshold)
    if last < tile.start:
        return bits.above(magnitude, threshold)
    return bits.above(magnitude, threshold) | (bits.equal(magnitude, threshold) & (tile.index() <= int(last)))


@op("map", "delta -> delta", scratch_bytes=16)
def drop(delta: Tensor, *, density: float, seed: int, stream: str, slot: str, tile: Tile) -> Tensor:
    """Keep each entry with probability `density`, to a resolution of 2**-24."""
    level = round(density * random.LEVELS)
    if stream == replay.STREAM:  # compared as torch.bernoulli does: to the density in the tensor's own precision
        level = ceil(replay.as_drawn(density, delta.dtype) * random.LEVELS)
    return bits.keep(delta, bits.below(_draws(seed, stream, slot, tile), level))


def _draws(seed: int, stream: str, slot: str, tile: Tile) -> Tensor:
    """A number from 0 to LEVELS - 1 for each entry of a tile."""
    if stream == replay.STREAM:
        return replay.replayed(seed, int(slot) + tile.start, int(slot) + tile.stop).to(tile.device)
    return random.uniform(tile.start, tile.stop, random.key(seed, stream, tile.name, slot), tile.device)


@op("map", "delta probability -> delta", scratch_bytes=16)
def drop_ranked(delta: Tensor, chance: Tensor, *, seed: int, stream: str, slot: str, tile: Tile) -> Tensor:
    """Keep each entry with its own probability."""
    draws = _draws(seed, stream, slot, tile)
    return bits.keep(delta, bits.below(draws.to(chance.dtype), chance * random.LEVELS))


@op("row", "delta -> probability", scratch_bytes=28)
def rank(delta: Tensor, *, density: float, epsilon: float) -> Tensor:
    """Keep probabilities by rank of magnitude within each row, float32, rows x entries.

    From density - epsilon for the smallest to density + epsilon for the largest, in even steps; equal magnitudes
    rank by lowest index; a row of one entry has probability `density`.
    """
    import torch

    rows, width = delta.shape
    order = descending(delta)
    steps = torch.linspace(1, -1, width, dtype=torch.float64) if width > 1 else torch.zeros(1, dtype=torch.float64)
    chances = (density + epsilon * steps).to(torch.float32).to(delta.device)
    return torch.empty_like(order, dtype=torch.float32).scatter_(-1, order, chances.expand(rows, width))


@op("row", "delta -> probability", scratch_bytes=40)
def rank_rounded(delta: Tensor, *, density: float, epsilon: float) -> Tensor:
    """The same as mergekit computes it: ranks and probabilities in float32, or in bfloat16 for deltas in that.

    A row of one entry, where the peer fails, has probability `density`.
    """
    import torch

    work = torch.bfloat16 if delta.dtype == torch.bfloat16 else torch.float32
    rows, width = delta.shape
    ranks = torch.arange(width, 0, -1, device=delta.device).to(work)
    share = ((ranks - ranks.min()) / (ranks.max() - ranks.min())).clamp(0, 1) if width > 1 else ranks * 0 + 0.5
    chances = ((density - epsilon) + share * 2 * epsilon).float()
    order = descending(delta)
    return torch.empty_like(order, dtype=torch.float32).scatter_(-1, order, chances.expand(rows, width))


def descending(delta: Tensor) -> Tensor:
    """The indices of each row's entries from the largest magnitude to the smallest, equal ones by lowest index.

    On a processor the magnitudes' bits and the indices are packed into one number and sorted as such, by numpy, which
    sorts plain numbers with vector instructions - as float64, whose comparisons are faster than those of integers.
    """
    import torch

    if delta.device.type != "cpu" or delta.dtype.itemsize > 4:
        return delta.abs().argsort(dim=-1, descending=True, stable=True)
    magnitudes = bits.integers(delta.abs())
    keys = magnitudes.bitwise_xor_(torch.iinfo(magnitudes.dtype).max).long()  # the largest magnitude is 0
    keys <<= _INDEX_BITS
    keys += torch.arange(_NORMAL, _NORMAL + delta.shape[-1])
    keys.numpy().view("float64").sort(axis=-1)
    return keys.bitwise_and_((1 << _INDEX_BITS) - 1)
