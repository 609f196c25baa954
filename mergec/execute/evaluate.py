"""Evaluate one output tensor: sweep over its tiles, feed reductions, hand finished tiles on in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from mergec.graph import Kind, Node, Step
from mergec.ops.op import OPS, Reducer, Tile

if TYPE_CHECKING:
    from torch import Tensor

Load: TypeAlias = "Callable[[int, int, int], Tensor]"
"""(slot, start, stop) -> the flat entries [start, stop) of that input, as stored, on the device."""

Emit: TypeAlias = "Callable[[int, Tensor], None]"
"""(start, tile): takes the entries of the result from `start` on, each once and in order."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in one thread: the last bits of LAPACK depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluate(
    kind: Kind,
    nodes: Sequence[Node],
    *,
    name: str,
    tile: int,
    load: Load,
    emit: Emit,
    device: Any = "cpu",
) -> None:
    """Compute what a kind makes of the tensor `name`, `tile` entries at a time (whole rows where rows stay together).

    The result does not depend on `tile`. A tile may yield more or fewer entries than it has, as packing does.
    """
    if nodes[kind.root].type.numel == 0:
        return
    emitted = 0
    scalars: dict[int, tuple[float, ...]] = {}
    for steps in kind.passes:
        _evaluate_scalars(steps, nodes, scalars)
        reducers = {
            step.node: OPS[nodes[step.node].op].kernel(**dict(nodes[step.node].attrs))
            for step in steps
            if nodes[step.node].op_class == "reduce"
        }
        is_last = steps is kind.passes[-1]
        while True:
            for part in _tiles_of_pass(steps, name, tile, kind, nodes, device):
                values = _sweep(steps, nodes, part, load, scalars, reducers)
                if is_last:
                    emit(emitted, values)
                    emitted += values.numel()
            results = {node: reducer.finish() for node, reducer in reducers.items()}
            scalars |= {node: result for node, result in results.items() if result is not None}
            reducers = {node: reducer for node, reducer in reducers.items() if results[node] is None}
            if not reducers:
                break


def _tiles_of_pass(
    steps: Sequence[Step], name: str, tile: int, kind: Kind, nodes: Sequence[Node], device: Any
) -> Iterator[Tile]:
    """All tiles of the tensor; one where nothing is loaded, so that a number about a whole tensor is made once."""
    if any(nodes[step.node].op_class == "load" for step in steps):
        return tiles(name, tile, kind, device)
    return iter([Tile(name, 0, kind.entries, kind.shape[-1] if kind.shape else 1, device)])


def tiles(name: str, tile: int, kind: Kind, device: Any) -> Iterator[Tile]:
    """The tiles of a tensor, in order; the last may be shorter."""
    step = max(kind.row, tile // kind.row * kind.row)
    row = kind.shape[-1] if kind.shape else 1
    for start in range(0, kind.entries, step):
        yield Tile(name, start, min(start + step, kind.entries), row, device)


def _evaluate_scalars(steps: Sequence[Step], nodes: Sequence[Node], scalars: dict[int, tuple[float, ...]]) -> None:
    for step in steps:
        node = nodes[step.node]
        if node.op_class == "scalar":
            inputs = [scalars[source.index] for source in node.inputs]
            scalars[node.index] = OPS[node.op].kernel(*inputs, **dict(node.attrs))


def _sweep(
    steps: Sequence[Step],
    nodes: Sequence[Node],
    tile: Tile,
    load: Load,
    scalars: dict[int, tuple[float, ...]],
    reducers: dict[int, Reducer],
) -> Any:
    """One tile through the steps of a pass; returns the value of the last."""
    live: dict[int, Any] = {}
    value: Any = None
    for step in steps:
        node = nodes[step.node]
        if node.op_class == "scalar":
            continue
        if node.op_class == "load":
            value = load(node.attr("slot"), *_span(node, tile))
        else:
            inputs = [scalars[s.index] if s.type.space == "scalar" else live[s.index] for s in node.inputs]
            value = _apply(node, inputs, tile, reducers)
        live[node.index] = value
        for freed in step.frees:
            live.pop(freed, None)
    return value


def _span(node: Node, tile: Tile) -> tuple[int, int]:
    """Which entries of an input a tile needs: its own, the bytes that hold its bits, or all of a part."""
    if node.type.space == "part":
        return 0, node.type.numel
    if node.type.space == "bits":
        return tile.start // 8, -(-tile.stop // 8)
    return tile.start, tile.stop


def _apply(node: Node, inputs: list[Any], tile: Tile, reducers: dict[int, Reducer]) -> Any:
    if node.op_class == "reduce":
        return reducers[node.index].update(*inputs) if node.index in reducers else None  # None: it has its result
    op = OPS[node.op]
    attrs: dict[str, Any] = dict(node.attrs)
    if op.takes_tile:
        attrs["tile"] = tile
    if op.op_class == "row":
        rows = [value if isinstance(value, tuple) else value.view(-1, tile.row) for value in inputs]
        return op.kernel(*rows, **attrs).reshape(-1)
    if op.op_class == "whole":
        shaped = [v if isinstance(v, tuple) else v.view(s.type.shape) for v, s in zip(inputs, node.inputs, strict=True)]
        return op.kernel(*shaped, **attrs).reshape(-1)
    return op.kernel(*inputs, **attrs)
