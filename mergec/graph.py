"""The nouns of the middle: TensorType, Node, Graph - hash-consed, printable, no torch, no I/O."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from mergec.io.tensors import ITEM_BYTES

Space: TypeAlias = Literal["weight", "delta", "sign", "probability", "mask", "bits", "part", "table", "scalar"]
OpClass: TypeAlias = Literal["load", "map", "reduce", "scalar", "row", "whole", "model", "states"]
Attr: TypeAlias = "bool | int | float | str | tuple[Attr, ...]"

PER_ENTRY: frozenset[Space] = frozenset(("weight", "delta", "sign", "probability", "mask"))
_LONGEST_TEXT = 96  # longer attributes are shown, and go into keys, by their digest


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape, dtype and space of a node's value.

    The space is a unit: a *weight* is a point, a *delta* the difference of two, a *sign* an elected direction per
    entry, a *probability* a chance to be kept per entry, a *mask* whether an entry takes part, a *scalar* a few
    numbers about a whole tensor. What an artifact stores of a tensor has no value per entry: *bits* are a mask with
    eight entries a byte, lowest bit first; a *part* is anything else, such as factors or the entries that were kept. Of
    a *table* rows are read as they are asked for, by number.
    """

    shape: tuple[int, ...]
    dtype: str
    space: Space

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Entries in a row: the last axis; a 0-d tensor is one row of one entry."""
        return self.shape[-1] if self.shape else 1

    @property
    def item_bytes(self) -> int:
        return 0 if self.space == "scalar" else ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        if self.space == "scalar":
            return "scalar"
        return f"{self.dtype}[{','.join(map(str, self.shape))}] {self.space}"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value: an op applied to nodes. Interned by its graph, so equal means identical.

    `index` is the node's number in its graph; inputs always have smaller numbers.
    """

    op: str
    inputs: tuple[Node, ...]
    attrs: tuple[tuple[str, Attr], ...]
    type: TensorType
    op_class: OpClass
    index: int
    graph: Graph = field(repr=False)

    def attr(self, name: str) -> Any:
        return dict(self.attrs)[name]

    @property
    def is_held(self) -> bool:
        """Whether its value is a stored part, perhaps cast: needed whole for every tile, so it is made once."""
        is_stored = self.op_class == "load" or (self.op == "cast" and self.inputs[0].is_held)
        return self.type.space == "part" and is_stored


def _attr_text(value: Attr) -> str:
    """An attribute for people and for keys; a long text, such as an index of many runs, by its digest."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_attr_text, value))})"
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return f"{value!r}" if isinstance(value, (float, str)) else str(value).lower()


class Graph:
    """A hash-consing table of nodes, in an order in which inputs come first."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._interned: dict[tuple[Any, ...], Node] = {}

    def node(
        self,
        op: str,
        inputs: tuple[Node, ...],
        attrs: Mapping[str, Attr],
        type: TensorType,
        op_class: OpClass,
    ) -> Node:
        """The one node with this op, these inputs and attributes; made on first use."""
        items = tuple(sorted(attrs.items()))
        # repr tells 1 from 1.0 and True, and -0.0 from 0.0, where == does not
        key = (op, tuple(node.index for node in inputs), repr(items), type)
        known = self._interned.get(key)
        if known is None:
            known = Node(op, inputs, items, type, op_class, len(self.nodes), self)
            self.nodes.append(known)
            self._interned[key] = known
        return known


def walk(root: Node) -> list[Node]:
    """The nodes a root depends on, inputs first, the root last."""
    found: dict[int, Node] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if node.index not in found:
            found[node.index] = node
            pending += node.inputs
    return [found[index] for index in sorted(found)]


def slots_of(root: Node) -> tuple[int, ...]:
    """The slots that a graph loads."""
    return tuple(sorted({node.attr("slot") for node in walk(root) if node.op == "load"}))


class Line(NamedTuple):
    """A node of a graph as people read it: its op, the numbers of its inputs, its attributes as text, its type."""

    op: str
    inputs: tuple[int, ...]
    attrs: str
    type: str


def lines(root: Node) -> list[Line]:
    """A root's graph, inputs first, numbered from 0."""
    order = walk(root)
    number = {node.index: position for position, node in enumerate(order)}
    return [
        Line(
            node.op,
            tuple(number[source.index] for source in node.inputs),
            " ".join(f"{name}={_attr_text(value)}" for name, value in node.attrs),
            str(node.type),
        )
        for node in order
    ]


def listing(root: Node) -> list[str]:
    """The text of a root's graph, one node a line, numbered from %0."""
    return [
        " ".join(filter(None, [f"%{number} = {line.op}", *(f"%{i}" for i in line.inputs), line.attrs, ":", line.type]))
        for number, line in enumerate(lines(root))
    ]
