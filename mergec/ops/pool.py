"""Pools: reductions over all tensors of a merge, made of parts that workers fill in any order.

`over_model(cut, name="...")` has the value that the reduction `cut` has when it is fed the tiles of all tensors of the
merge, in natural order of their names, instead of one. It is known before the first output is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mergec.graph import Node
from mergec.ops.op import OPS, op

Values = tuple[float, ...]


class Part(Protocol):
    """What one tensor adds to a pool in one sweep."""

    @property
    def update(self) -> Callable[..., None]:
        """Takes the next tile of each input."""


class Pool(ABC):
    """A reduction over many tensors, numbered in the order of their names.

    In each sweep every wanted tensor is given a part, which one worker feeds; parts come back in any order, from one
    thread at a time. Nothing may depend on that order.
    """

    def wants(self, number: int) -> bool:
        """Whether the next sweep has to see this tensor."""
        return True

    @abstractmethod
    def part(self, number: int) -> Part:
        """What a worker feeds with this tensor's tiles."""

    @abstractmethod
    def take(self, number: int, part: Any) -> None:
        """Take a part back when it has seen the whole tensor."""

    @abstractmethod
    def finish(self) -> Values | None:
        """The result after a sweep, or None to be fed once more."""

    @staticmethod
    def at(values: Values, number: int) -> Values:
        """What the result means inside tensor `number`: the same for all, unless ties are broken there."""
        return values


class Sums(Pool):
    """The sum over tensors of what a reducer makes of each, number by number, in float64 by the fixed tree."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._results: dict[int, Values] = {}

    def part(self, number: int) -> Part:
        made: Part = self._make()
        return made

    def take(self, number: int, part: Any) -> None:
        result = part.finish()
        if result is None:
            raise TypeError(f"{type(part).__name__} needs several sweeps, and no pool of its own says how")
        self._results[number] = result

    def finish(self) -> Values:
        import torch

        from mergec.ops.tree import TreeSum

        columns = zip(*(self._results[number] for number in sorted(self._results)), strict=True)
        totals = []
        for column in columns:
            tree = TreeSum()
            tree.add(torch.tensor(column, dtype=torch.float64))
            totals.append(tree.total())
        return tuple(totals)


@op("model", "scalar -> scalar", scratch_bytes=0)
def over_model(value: Values, *, name: str) -> Values:
    """The value of a reduction over all tensors of the merge; `name` is what the plan calls it.

    Tensors that have no such node (integers, and those the method leaves as they are) have no part in it. Over a
    merge of one tensor it is the reduction itself.
    """
    return value


def pool_of(reduction: Node) -> Pool:
    """An empty pool for a reduction: its kernel's own (`pool`), or sums."""
    kernel, attrs = OPS[reduction.op].kernel, dict[str, Any](reduction.attrs)
    own: Callable[..., Pool] | None = getattr(kernel, "pool", None)
    return own(**attrs) if own else Sums(lambda: kernel(**attrs))


def value_at(reduction: Node, values: Values, number: int) -> Values:
    """What the value of a pool means in tensor `number`."""
    own: type[Pool] = getattr(OPS[reduction.op].kernel, "pool", Sums)
    return own.at(values, number)


def definition(reduction: Node) -> Mapping[str, Any]:
    """What must be the same wherever a statistic is fed: the reduction, its attributes, the dtype of its inputs."""
    dtypes = tuple(source.type.dtype for source in reduction.inputs if source.type.space != "scalar")
    return {"op": reduction.op, "dtype": dtypes, **dict(reduction.attrs)}
