"""Fused: the ops that a compiler joins into one loop, each as a function of tensors and numbers that never branches.

A number that may differ from tensor to tensor - a weight, a threshold, a key of random numbers - is an input, so that
what was compiled once serves every tensor and every recipe with the same ops. Results have the bits of the kernels'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mergec.graph import Node
from mergec.ops import random
from mergec.ops.elect import total
from mergec.ops.op import OPS, Tile
from mergec.ops.tree import LEAF

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 2**31 - 1
Values: TypeAlias = "tuple[float, ...]"


class Numbers(NamedTuple):
    """What a form takes beside tensors: reals in the dtype of its tensors, and whole numbers of 32 bits."""

    reals: tuple[float, ...] = ()
    whole: tuple[int, ...] = ()


class Given(NamedTuple):
    """What the body of a form is given: tensors, numbers, the flat index of each entry in the tile, other attributes.

    The numbers are tensors of no dimensions.
    """

    tensors: Sequence[Tensor]
    reals: Sequence[Tensor]
    whole: Sequence[Tensor]
    place: Tensor
    attrs: dict[str, Any]


@dataclass(frozen=True)
class Form:
    """An op for a compiler. `nanoseconds` is about what its kernel takes per entry, which fusing saves.

    The numbers of a reduction that says its `bounds` are these.
    """

    numbers: Callable[[Node, Sequence[Values], Tile], Numbers]
    body: Callable[[Given], Tensor | tuple[Tensor, ...]]
    nanoseconds: float


def width(node: Node) -> int:
    """How many numbers a scalar node has; 0 where that is not known before it is evaluated."""
    if node.op in ("cut", "order"):
        return len(node.attr("counts")) * (2 if node.op == "cut" else 1)
    if node.op in ("gram", "gram_deltas"):
        return len(node.inputs) ** 2
    if node.op in ("squares", "mean_squares"):
        return len(node.inputs)
    if node.op == "over_model":
        return 4 if node.inputs[0].op == "threshold" else width(node.inputs[0])
    if node.op == "shares_of":
        return width(node.inputs[0])
    return {"cut_nonzero": 2, "threshold": 4, "l1": 1, "slerp_coefficients": 2, "stock_ratio": 1}.get(node.op, 0)


def skeleton(node: Node) -> dict[str, Any]:
    """A node's attributes without its numbers, each of which is None."""
    if node.op in CUTS:
        return {"brackets": _brackets(node)}
    return {} if node.op in DRAWN else {name: _without(value) for name, value in node.attrs}


def _brackets(node: Node) -> int:
    """How many brackets a cut has: one for each count that is not zero."""
    return 1 if node.op == "cut_nonzero" else sum(map(bool, node.attr("counts")))


def _without(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_without, value))
    return None if isinstance(value, float) else value


def _own_numbers(node: Node, scalars: Sequence[Values], tile: Tile) -> Numbers:
    """The numbers of scalar inputs, then those of attributes, in order."""
    found = [number for values in scalars for number in values]
    for _, value in node.attrs:
        found += [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, float)]
    return Numbers(tuple(found))


def apply(op: str, inputs: Sequence[Any], given: Given) -> Tensor | tuple[Tensor, ...]:
    """What a node's form makes of its inputs, each a tensor or the width of a scalar."""
    form = FORMS[op]
    if form.body is not _as_kernel:
        return form.body(given)
    reals, tensors = iter(given.reals), iter(given.tensors)
    values = [next(tensors) if one is None else tuple(next(reals) for _ in range(one)) for one in inputs]
    attrs = {name: _filled(value, reals) for name, value in given.attrs.items()}
    return OPS[op].kernel(*values, **attrs)  # type: ignore[no-any-return]


def _filled(value: Any, reals: Iterator[Tensor]) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_filled(one, reals) for one in value)
    return next(reals) if value is None else value


def _as_kernel(given: Given) -> Tensor:
    """Stands for the op's own kernel, which branches on no number."""
    raise AssertionError


def _place(last: float, tile: Tile) -> int:
    """The index inside a tile of the last entry that is kept at a threshold."""
    return int(max(-1, min(last - tile.start, _LARGEST)))


def _before(magnitude: Tensor, threshold: Tensor, last: Tensor, index: Tensor) -> Tensor:
    return (magnitude > threshold) | ((magnitude == threshold) & (index <= last))


def _kept(values: Tensor, kept: Tensor) -> Tensor:
    import torch

    return torch.where(kept, values, 0.0)


def _trim_numbers(node: Node, scalars: Sequence[Values], tile: Tile) -> Numbers:
    low, low_last, high, high_last = scalars[0]
    return Numbers((low, high), (_place(low_last, tile), _place(high_last, tile)))


def _trim(given: Given) -> Tensor:
    (delta,), (low, high), (low_last, high_last) = given.tensors, given.reals, given.whole
    magnitude = delta.abs()
    first = _before(magnitude, low, low_last, given.place)
    return _kept(delta, _before(magnitude, high, high_last, given.place) & ~first)


def _select_numbers(node: Node, scalars: Sequence[Values], tile: Tile) -> Numbers:
    return Numbers(scalars[0][:1], (_place(scalars[0][1], tile),))


def _select(given: Given) -> Tensor:
    delta, ranking = given.tensors
    return _kept(delta, _before(ranking.abs(), given.reals[0], given.whole[0], given.place))


def _draw_numbers(node: Node, scalars: Sequence[Values], tile: Tile) -> Numbers:
    drawn = random.key(node.attr("seed"), node.attr("stream"), tile.name, node.attr("slot"))
    whole = random.numbers_of(tile.start, drawn)
    return Numbers((), (*whole, round(node.attr("density") * random.LEVELS)) if node.op == "drop" else whole)


def _drop(given: Given) -> Tensor:
    begin, first, second, limit = given.whole
    return _kept(given.tensors[0], random.drawn(given.place + begin, first, second) < limit)


def _drop_ranked(given: Given) -> Tensor:
    (delta, chance), (begin, first, second) = given.tensors, given.whole
    draws = random.drawn(given.place + begin, first, second)
    return _kept(delta, draws.to(chance.dtype) < chance * random.LEVELS)


def _l1_numbers(node: Node, scalars: Sequence[Values], tile: Tile) -> Numbers:
    (before,), (after,) = scalars
    return Numbers((1.0 if min(before, after) < 1e-7 else before / after,))


def _fuse_sum_numbers(node: Node, scalars: Sequence[Values], tile: Tile) -> Numbers:
    divisor = sum(node.attr("weights"))
    return Numbers((divisor if abs(divisor) >= 1e-8 else 1.0, node.attr("factor")))


def _fuse_sum(given: Given) -> Tensor:
    base, *deltas = given.tensors
    merged = total(deltas)
    return base + (merged / given.reals[0] if given.attrs["normalize"] else merged) * given.reals[1]


def _stock_numbers(node: Node, scalars: Sequence[Values], tile: Tile) -> Numbers:
    (t,) = scalars[0]
    return Numbers((t, 1 - t))


def _stock(given: Given) -> Tensor:
    base, *models = given.tensors
    return total(models) / len(models) * given.reals[0] + base * given.reals[1]


def _no_numbers(node: Node, scalars: Sequence[Values], tile: Tile) -> Numbers:
    return Numbers()


def _leaf_sums(values: Tensor) -> Tensor:
    rows = values.view(-1, LEAF)
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = rows[:, :half] + rows[:, half:]
    return rows[:, 0]


def _products(given: Given) -> Tensor:
    import torch

    wides = [one.double() for one in given.tensors]
    return torch.stack([_leaf_sums(left * right) for left, right in combinations_with_replacement(wides, 2)])


def _squares(given: Given) -> Tensor:
    import torch

    return torch.stack([_leaf_sums(one.double() * one.double()) for one in given.tensors])


def _magnitudes(given: Given) -> Tensor:
    return _leaf_sums(given.tensors[0].double().abs())[None]


def _bracketed(given: Given) -> tuple[Tensor, ...]:
    """Magnitudes, negative where they lie inside a bracket.

    And for each bracket how many are above its upper end, equal to it, above the lower one, equal to that. What is not
    a number is above all, as its bits are.
    """
    import torch

    magnitude = given.tensors[0].abs()
    counts, marked = [], magnitude
    for number in range(given.attrs["brackets"]):
        low, high = given.reals[2 * number : 2 * number + 2]
        found = ~(magnitude <= high), magnitude == high, ~(magnitude <= low), magnitude == low
        counts += [one.sum(dtype=torch.int32) for one in found]
        marked = torch.where((magnitude > low) & (magnitude < high), -magnitude, marked)
    return marked, torch.stack(counts)


def _own(nanoseconds: float) -> Form:
    return Form(_own_numbers, _as_kernel, nanoseconds)


FORMS = {
    "cast": _own(0.1),
    "diff": _own(0.15),
    "weigh": _own(0.1),
    "scale": _own(0.1),
    "elect": _own(0.4),
    "vote": _own(0.3),
    "fuse_agreeing": _own(2.5),
    "fuse_largest": _own(3.0),
    "fuse_largest_agreeing": _own(3.0),
    "variance": _own(3.0),
    "fuse_shares": _own(3.5),
    "combine": _own(0.4),
    "rescale_by": _own(0.1),
    "rescale_ranked": _own(0.2),
    "rescale_l1": Form(_l1_numbers, lambda given: given.tensors[0] * given.reals[0], 0.1),
    "trim": Form(_trim_numbers, _trim, 0.6),
    "select": Form(_select_numbers, _select, 1.2),
    "drop": Form(_draw_numbers, _drop, 3.2),
    "drop_ranked": Form(_draw_numbers, _drop_ranked, 3.2),
    "fuse_sum": Form(_fuse_sum_numbers, _fuse_sum, 0.4),
    "stock": Form(_stock_numbers, _stock, 0.7),
    "gram": Form(_no_numbers, _products, 6.0),
    "gram_deltas": Form(_no_numbers, _products, 13.0),
    "squares": Form(_no_numbers, _squares, 8.0),
    "mean_squares": Form(_no_numbers, _squares, 8.0),
    "l1": Form(_no_numbers, _magnitudes, 1.0),
    "cut": Form(_no_numbers, _bracketed, 1.0),
    "cut_nonzero": Form(_no_numbers, _bracketed, 1.0),
}
DRAWN = ("drop", "drop_ranked")
LEAVES = {"gram", "gram_deltas", "squares", "mean_squares", "l1"}
"""Reductions by the tree of additions: their forms yield the sums of leaves, streams x leaves, float64."""


CUTS = {"cut", "cut_nonzero"}
"""Reductions by brackets (`mergec.ops.bracket`), of float32: their forms yield marked magnitudes, and counts."""
TAKEN = LEAVES | CUTS
"""Reductions that take what their forms yield."""


def unbounded(node: Node) -> tuple[float, ...]:
    """Ends of brackets in which nothing lies, for a cut that was found."""
    return (inf,) * 2 * _brackets(node)


def results(node: Node, entries: int) -> list[tuple[tuple[int, ...], str]]:
    """The shapes and dtypes of what a form makes of so many entries."""
    if node.op in CUTS:
        return [((entries,), "float32"), ((4 * _brackets(node),), "int32")]
    if node.op in LEAVES:
        return [((_streams(node), entries // LEAF), "float64")]
    return [((entries,), node.type.dtype)]


def _streams(node: Node) -> int:
    """How many sums a reduction of `LEAVES` makes."""
    count = len(node.inputs)
    return count * (count + 1) // 2 if node.op in ("gram", "gram_deltas") else count
