"""Sources: where a model's tensor comes from - one span of bytes, or several and the arithmetic that joins them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from mergec.graph import Graph, Node, Space, TensorType
from mergec.io.tensors import TensorRef
from mergec.ops.adapt import adapt, shift, stretch
from mergec.ops.basic import cast, load
from mergec.ops.embed import embed, pad, row_mean
from mergec.ops.magnify import magnify
from mergec.ops.tables import adapt_rows, magnify_rows, round_rows, stretch_rows

_MANTISSA = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}


class Loader:
    """Gives the node of a tensor; to be called once for each of a source's `refs`, in their order.

    Those that are `made` by a stage have a graph already; others are loaded. `rounded` says what a computed tensor is
    rounded to before its rows are merged with others, None if it is not.
    """

    def __init__(
        self,
        graph: Graph,
        slots: Iterable[int],
        made: Mapping[TensorRef, Node] = MappingProxyType({}),
        rounded: Callable[[Derived], str | None] = lambda _: None,
    ) -> None:
        self.graph, self._slots, self._made, self.rounded = graph, iter(slots), made, rounded

    def __call__(self, ref: TensorRef, space: Space) -> Node:
        slot = next(self._slots)
        return self._made[ref] if ref in self._made else load(self.graph, slot, TensorType(ref.shape, ref.dtype, space))


@dataclass(frozen=True)
class Derived(ABC):
    """A tensor that is computed from stored ones. `dtype` is what it would be stored as.

    Derived tensors of one `structure` differ in nothing but their names and bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def file(self) -> str:
        return self.refs[0].file if self.refs else ""

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    @abstractmethod
    def refs(self) -> tuple[TensorRef, ...]:
        """The stored tensors it is made of."""

    @property
    @abstractmethod
    def structure(self) -> object:
        """What its graph depends on."""

    @abstractmethod
    def build(self, load: Loader, dtype: str) -> Node:
        """The node that computes it, in float32 or float64."""


class Rowed(Derived):
    """A derived matrix whose rows can be computed one without the others, as far as it `has_rows`."""

    @property
    def has_rows(self) -> bool:
        return True

    @abstractmethod
    def table(self, load: Loader, dtype: str) -> Node:
        """The table of its rows, in a dtype as of `build`."""


Source: TypeAlias = "TensorRef | Derived"


@dataclass(frozen=True)
class Adapted(Rowed):
    """A weight with a low-rank adapter: W + scale B A, then with rows of other lengths if there are `lengths`."""

    weight: Source
    left: TensorRef
    right: TensorRef
    scale: float
    transposed: bool
    lengths: TensorRef | None = None

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        more = (self.lengths,) if self.lengths else ()
        return (*refs_of(self.weight), self.left, self.right, *more)

    @property
    def structure(self) -> object:
        parts = [(ref.dtype, ref.shape) for ref in (self.left, self.right, self.lengths) if ref]
        return "adapted", structure_of(self.weight), self.scale, self.transposed, tuple(parts)

    def build(self, load: Loader, dtype: str) -> Node:
        weight = build(self.weight, load, dtype)
        left, right = (cast(load(ref, "part"), dtype=dtype) for ref in (self.left, self.right))
        made = adapt(weight, left, right, scale=self.scale, transposed=self.transposed)
        return stretch(made, cast(load(self.lengths, "part"), dtype=dtype)) if self.lengths else made

    @property
    def has_rows(self) -> bool:
        return has_rows(self.weight)

    def table(self, load: Loader, dtype: str) -> Node:
        weight = table(self.weight, load, dtype)
        left, right = (cast(load(ref, "part"), dtype=dtype) for ref in (self.left, self.right))
        made = adapt_rows(weight, left, right, scale=self.scale, transposed=self.transposed, dtype=dtype)
        if self.lengths is None:
            return made
        return stretch_rows(made, cast(load(self.lengths, "part"), dtype=dtype), dtype=dtype)


@dataclass(frozen=True)
class Shifted(Derived):
    """A bias with a bias of an adapter: bias + scale change."""

    bias: Source
    change: TensorRef
    scale: float

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        return (*refs_of(self.bias), self.change)

    @property
    def structure(self) -> object:
        return "shifted", structure_of(self.bias), self.scale, self.change.dtype

    def build(self, load: Loader, dtype: str) -> Node:
        bias = build(self.bias, load, dtype)
        return shift(bias, cast(load(self.change, "weight"), dtype=dtype), scale=self.scale)


@dataclass(frozen=True)
class Dequantised(Rowed):
    """A weight stored in float8, times a scale for each block of its rows and columns; without one it is just cast."""

    coded: TensorRef
    scales: TensorRef | None
    block: tuple[int, int]

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        return (self.coded, self.scales) if self.scales else (self.coded,)

    @property
    def structure(self) -> object:
        scales = (self.scales.dtype, self.scales.shape, self.block) if self.scales else None
        return "dequantised", self.dtype, self.coded.dtype, scales

    def build(self, load: Loader, dtype: str) -> Node:
        coded = cast(load(self.coded, "weight"), dtype=dtype)
        if self.scales is None:
            return coded
        return magnify(coded, cast(load(self.scales, "part"), dtype=dtype), block=self.block)

    def table(self, load: Loader, dtype: str) -> Node:
        coded = load(self.coded, "table")
        if self.scales is None:
            return round_rows(coded, dtype=dtype)
        return magnify_rows(coded, cast(load(self.scales, "part"), dtype=dtype), block=self.block, dtype=dtype)


class Origin(NamedTuple):
    """How many rows of a tensor are there by one rule, and the models that they are from."""

    rule: str
    models: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Embedded(Derived):
    """A tensor with the rows of another vocabulary, each from the tables that an index names: see `ops/embed.py`.

    `slots` are the slot ids of what the `tables` are made of, in order. Rows along `axis` from `tokens`
    on, where there are such, are the mean of those before.
    """

    tables: tuple[Source, ...]
    slots: tuple[str, ...]
    rows: tuple[str, ...]
    axis: int
    tokens: int
    origins: tuple[Origin, ...]

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        return tuple(ref for one in self.tables for ref in refs_of(one))

    @property
    def structure(self) -> object:
        tables = tuple((structure_of(one), one.shape) for one in self.tables)
        return "embedded", tables, self.slots, self.rows, self.tokens

    def build(self, load: Loader, dtype: str) -> Node:
        width = prod(self.shape[self.axis + 1 :])
        tables = [_rounded(one, table(one, load, dtype), load) for one in self.tables]
        made = embed(*tables, rows=self.rows, axis=self.axis, width=width, dtype=dtype)
        if self.tokens == self.shape[self.axis]:
            return made
        return pad(made, row_mean(made, rows=self.tokens, width=width), rows=self.tokens, width=width)


def refs_of(source: Source) -> tuple[TensorRef, ...]:
    """The stored tensors that a source is made of."""
    return source.refs if isinstance(source, Derived) else (source,)


def slots_for(slot: str, source: Source) -> tuple[str, ...]:
    """The slot ids of what a source is made of: its model's own first."""
    return tuple(f"{slot} +{place}" if place else slot for place in range(len(refs_of(source))))


def has_rows(source: Source) -> bool:
    """Whether rows of a source can be read, or computed, one without the others."""
    return source.has_rows if isinstance(source, Rowed) else not isinstance(source, Derived)


def table(source: Source, load: Loader, dtype: str) -> Node:
    """The node of the rows, as they are asked for, of a source that has such; computed ones are as of `build`."""
    if isinstance(source, Rowed):
        return source.table(load, dtype)
    assert isinstance(source, TensorRef)
    return load(source, "table")


def _rounded(source: Source, made: Node, load: Loader) -> Node:
    """The table of a computed tensor with its rows rounded as the whole would be."""
    dtype = load.rounded(source) if isinstance(source, Derived) else None
    return round_rows(made, dtype=dtype) if dtype else made


def structure_of(source: Source) -> object:
    """What tells sources apart whose graphs differ."""
    return source.structure if isinstance(source, Derived) else source.dtype


def build(source: Source, load: Loader, dtype: str) -> Node:
    """The node that gives a source's values in a dtype."""
    return source.build(load, dtype) if isinstance(source, Derived) else cast(load(source, "weight"), dtype=dtype)


def promoted(dtypes: Sequence[str]) -> str:
    """The dtype that holds all of them: the widest, float32 for a mixture of the half types."""
    distinct = set(dtypes)
    if distinct == {"float16", "bfloat16"}:
        return "float32"
    return max(distinct, key=lambda dtype: _MANTISSA[dtype])
