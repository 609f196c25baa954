"""`@op`: declare an operation - its class, the spaces it takes and gives, its kernel - and get a node builder."""

from __future__ import annotations

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mergec.graph import PER_ENTRY, Attr, Node, OpClass, Space, TensorType

if TYPE_CHECKING:
    from torch import Tensor


class SpaceError(TypeError):
    """An op was given a value of the wrong space, shape or dtype: an error in a method, not in a recipe."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Where a tile lies in its tensor: entries [start, stop) of the flattened tensor called `name`."""

    name: str
    start: int
    stop: int
    row: int
    device: Any = "cpu"

    def index(self) -> Tensor:
        """The flat index of every entry of the tile, int64."""
        import torch

        return torch.arange(self.start, self.stop, device=self.device)


class Remark(NamedTuple):
    """What a user should know before an op is applied to a tensor: a warning, at the setting of `parameter`."""

    parameter: str
    code: str
    what: str
    hint: str = ""


class Reducer(ABC):
    """The kernel of a reduce op: fed every tile of a tensor in order, as often as it asks for.

    Its result is a tuple of Python floats and must not depend on where the tiles were cut. Before tiles are left out,
    as `asks` allows, `position` is set to where the next one begins.
    """

    position = 0

    update: Callable[..., None]
    """Takes the next tile of each input."""

    take: Callable[..., None]
    """Takes what its form (`mergec.ops.fused`) made of the next tiles, in place of them; only where it has one."""

    def bounds(self) -> tuple[float, ...]:
        """The numbers that its form needs of it, if any: they may be others in each sweep."""
        return ()

    def asks(self, entries: int) -> Sequence[tuple[int, int]] | None:
        """The runs [start, stop) of the tensor's entries that it needs of the next sweep, in order; None for all.

        It may be fed more. Who never asks feeds it all.
        """
        return None

    @abstractmethod
    def finish(self) -> tuple[float, ...] | None:
        """The result, or None to be fed once more."""


@dataclass(frozen=True)
class Op:
    """A named operation; calling it on nodes adds a node to their graph.

    `kernel` is the torch function (map, row: tiles to a tile; whole: tensors in their shape to a tensor), the plain
    function (scalar: tuples of floats to a tuple of floats) or the Reducer class (reduce). `scratch_bytes` is what
    the kernel needs per entry beside its inputs and its result, a function of the node where it depends on it.
    `remark` says what is odd about a node, if anything; `gives` shape and dtype of a result that has not one value
    per entry. The tiles of a row op start at multiples of `rows` rows.
    """

    name: str
    op_class: OpClass
    inputs: tuple[Space, ...]
    variadic: Space | None
    output: Space
    kernel: Callable[..., Any]
    scratch_bytes: int | Callable[[Node], int]
    takes_tile: bool
    remark: Callable[[Node], Remark | None] | None = None
    gives: Gives | None = None
    rows: int = 1

    def __call__(self, *nodes: Node, **attrs: Attr) -> Node:
        self._check(nodes)
        return nodes[0].graph.node(self.name, nodes, attrs, self.infer(nodes, attrs), self.op_class)

    def scratch(self, node: Node) -> int:
        """Bytes per entry that the kernel needs for a node beside its inputs and its result."""
        return self.scratch_bytes if isinstance(self.scratch_bytes, int) else self.scratch_bytes(node)

    def infer(self, nodes: Sequence[Node], attrs: Mapping[str, Attr]) -> TensorType:
        """The type of the result; also what verifies a graph after each rewrite."""
        self._check(nodes)
        if self.output == "scalar":
            return TensorType((), "float64", "scalar")
        if self.gives:
            shape, dtype = self.gives(nodes, attrs)
            return TensorType(shape, dtype, self.output)
        like = next(node.type for node in nodes if node.type.space != "scalar")
        dtype = {"sign": "bool", "mask": "bool", "probability": "float32"}.get(self.output, like.dtype)
        return TensorType(like.shape, str(attrs.get("dtype", dtype)), self._output_space(nodes))

    def _output_space(self, nodes: Sequence[Node]) -> Space:
        return nodes[0].type.space if self.name == "cast" else self.output

    def _check(self, nodes: Sequence[Node]) -> None:
        expected = (
            list(self.inputs) + [self.variadic] * (len(nodes) - len(self.inputs)) if self.variadic else self.inputs
        )
        found = [node.type.space for node in nodes]
        if self.name != "cast" and list(expected) != found:
            raise SpaceError(f"{self.name} takes {' '.join(map(str, expected))}, got {' '.join(found)}")
        shapes = {node.type.shape for node in nodes if node.type.space in PER_ENTRY}
        dtypes = {node.type.dtype for node in nodes if node.type.space in ("weight", "delta")}
        if len(shapes) > 1 or len(dtypes) > 1:
            raise SpaceError(f"{self.name} takes tensors of one shape and dtype, got {shapes} and {dtypes}")


OPS: dict[str, Op] = {}
Gives: TypeAlias = Callable[[Sequence[Node], Mapping[str, Any]], "tuple[tuple[int, ...], str]"]


def remark_on(node: Node) -> Remark | None:
    """What the op of a node has to say about it."""
    remark = OPS[node.op].remark if node.op in OPS else None
    return remark(node) if remark else None


def op(
    op_class: OpClass,
    spaces: str,
    scratch_bytes: int | Callable[[Node], int] = 4,
    name: str = "",
    remark: Callable[[Node], Remark | None] | None = None,
    gives: Gives | None = None,
    rows: int = 1,
) -> Callable[[Callable[..., Any]], Op]:
    """Declare an op: `@op("map", "weight weight -> delta")`; `delta*` means any number of deltas.

    It is called like the kernel unless `name` says otherwise.
    """
    left, _, right = spaces.partition("->")
    names = left.split()
    variadic = names.pop().rstrip("*") if names and names[-1].endswith("*") else None

    def declare(kernel: Callable[..., Any]) -> Op:
        made = Op(
            name=name or kernel.__name__,
            op_class=op_class,
            inputs=typing.cast("tuple[Space, ...]", tuple(names)),
            variadic=typing.cast("Space | None", variadic),
            output=typing.cast("Space", right.strip()),
            kernel=kernel,
            scratch_bytes=scratch_bytes,
            takes_tile="tile" in inspect.signature(kernel).parameters,
            remark=remark,
            gives=gives,
            rows=rows,
        )
        if made.name in OPS:
            raise ValueError(f"two ops are called {made.name}")
        OPS[made.name] = made
        made.__dict__["__doc__"] = kernel.__doc__
        return made

    return declare
