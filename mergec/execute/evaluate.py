"""Evaluate one output tensor: sweep over its tiles, feed reductions and statistics, hand finished tiles on in order.

Several hands may take part in a sweep. Each computes tiles of its own; reductions and results have them in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from mergec.execute.line import Line
from mergec.graph import Node
from mergec.ops.op import OPS, Reducer, Tile
from mergec.ops.pool import Part, Values
from mergec.plan import Kind, Step

if TYPE_CHECKING:
    from torch import Tensor

Load: TypeAlias = "Callable[[int, int, int], Tensor]"
"""(slot, start, stop) -> the flat entries [start, stop) of that input, as stored, on the device."""

Emit: TypeAlias = "Callable[[int, Tensor], None]"
"""(start, tile): takes the entries of the result from `start` on, each once and in order."""


class Compiled(Protocol):
    """A pass as compiled loops; see `mergec.execute.loops.Program`."""

    unit: int

    def cut(self, tile: Tile) -> Iterator[Tile]: ...

    def over(self, sweep: Sweep, tile: Tile) -> Any: ...


@dataclass(frozen=True)
class Hand:
    """One that computes tiles: how it loads, what takes its part of the result, and the compiled form of each pass.

    It computes one tile at a time, and may use buffers of its own again for the next.
    """

    load: Load
    emit: Emit | None = None
    compiled: Callable[[int], Compiled | None] = lambda number: None


Share: TypeAlias = Callable[[Callable[[Hand], None]], None]
"""Calls its argument with a hand, or with several in threads of their own; returns when all of these calls have."""


def evaluate(
    kind: Kind,
    nodes: Sequence[Node],
    *,
    name: str,
    tile: int,
    hand: Hand,
    share: Share | None = None,
    device: Any = "cpu",
    known: Mapping[int, Values] = MappingProxyType({}),
    states: Mapping[int, Tensor] = MappingProxyType({}),
) -> None:
    """Compute what a kind makes of the tensor `name`, `tile` entries at a time (whole rows where rows stay together).

    The result does not depend on `tile`. A tile may yield more or fewer entries than it has, as packing does. `known`
    has the value of each statistic, by its `over_model` node, `states` the flat values of each node of that class.
    `share` has other hands take part in each sweep.
    """
    if nodes[kind.root].type.numel:
        _run(kind.passes, nodes, Tiles(name, kind, tile, device), hand, share, known, {}, states)


def feed(
    kind: Kind,
    round: int,
    nodes: Sequence[Node],
    *,
    name: str,
    tile: int,
    hand: Hand,
    parts: Mapping[int, Part],
    share: Share | None = None,
    device: Any = "cpu",
    known: Mapping[int, Values] = MappingProxyType({}),
) -> None:
    """Feed a tensor to parts of statistics of one round, by the reduction they are parts of; arguments as above."""
    if kind.entries:
        _run(kind.surveys[round], nodes, Tiles(name, kind, tile, device), hand, share, known, parts)


@dataclass(frozen=True)
class Tiles:
    """A tensor cut into tiles of up to `size` entries, or of those that must stay together.

    A tile has a multiple of `unit` entries, where so many fit.
    """

    name: str
    kind: Kind
    size: int
    device: Any
    unit: int = 1

    def __iter__(self) -> Iterator[Tile]:
        """The tiles in order; the last may be shorter."""
        for start in range(0, self.kind.entries, self._step):
            stop = min(start + self._step, self.kind.entries)
            yield Tile(self.name, start, stop, self._row, self.device)

    @property
    def _step(self) -> int:
        together = self.unit if self.unit % self.kind.row == 0 and self.unit <= self.size else self.kind.row
        return max(together, self.size // together * together)

    @property
    def _row(self) -> int:
        return self.kind.shape[-1] if self.kind.shape else 1

    def of(self, steps: Sequence[Step], nodes: Sequence[Node]) -> Iterator[Tile]:
        """All tiles; one where nothing is loaded, so that a number about a whole tensor is made once."""
        if any(nodes[step.node].op_class == "load" for step in steps):
            return iter(self)
        return iter([Tile(self.name, 0, self.kind.entries, self._row, self.device)])

    def over(self, runs: Sequence[tuple[int, int]]) -> Iterator[Tile]:
        """Tiles that hold all entries of some runs, each once and in order."""
        together, end = self.kind.row, 0
        for first, last in sorted(runs):
            start, end = max(end, first // together * together), max(end, -(-last // together) * together)
            for begin in range(start, min(end, self.kind.entries), self._step):
                stop = min(begin + self._step, end, self.kind.entries)
                yield Tile(self.name, begin, stop, self._row, self.device)


def _run(
    passes: Sequence[Sequence[Step]],
    nodes: Sequence[Node],
    cut: Tiles,
    hand: Hand,
    share: Share | None,
    known: Mapping[int, Values],
    parts: Mapping[int, Part],
    states: Mapping[int, Tensor] = MappingProxyType({}),
) -> None:
    """Sweep over a tensor, pass by pass; what the last pass yields is emitted, if anybody takes it."""
    scalars, held = dict(known), dict[int, Any](states)
    used = {source.index for steps in passes for step in steps for source in nodes[step.node].inputs}
    for number, steps in enumerate(passes):
        program = hand.compiled(number)
        cut = replace(cut, unit=program.unit if program else 1)
        emits = hand.emit is not None and steps is passes[-1]
        _evaluate_scalars(steps, nodes, scalars)
        reducers = {
            step.node: OPS[nodes[step.node].op].kernel(**dict(nodes[step.node].attrs))
            for step in steps
            if nodes[step.node].op_class == "reduce" and step.node in used
        }
        fed: Mapping[int, Part] = {step.node: parts[step.node] for step in steps if step.node in parts}
        while True:
            runs = None if fed or emits else _asked(reducers.values(), cut.kind.entries)
            tiles = cut.of(steps, nodes) if runs is None else cut.over(runs)
            line = Line(chain.from_iterable(map(program.cut, tiles)) if program else tiles)
            sweep = Sweep(steps, nodes, hand.load, scalars, held, (reducers, fed), line)
            one = partial(_take_part, sweep, number, emits)
            share(one) if share else one(hand)
            fed = {}  # a part is fed once
            results = {node: reducer.finish() for node, reducer in reducers.items()}
            scalars |= {node: result for node, result in results.items() if result is not None}
            reducers = {node: reducer for node, reducer in reducers.items() if results[node] is None}
            if not reducers:
                break


def _take_part(sweep: Sweep, number: int, emits: bool, hand: Hand) -> None:
    """Let a hand compute tiles of a sweep of pass `number` until there are no more; the result's are emitted in order.

    A hand that fails takes the others with it.
    """
    program, line = hand.compiled(number), sweep.line
    mine = replace(sweep, load=hand.load)
    try:
        for tile in line:
            values = program.over(mine, tile) if program else mine.over(tile)
            if emits and hand.emit:
                with line.turn("emit", tile):
                    hand.emit(line.emitted, values)
                    line.emitted += values.numel()
    except BaseException as error:
        line.fail(error)
        raise


def _asked(reducers: Iterable[Reducer], entries: int) -> list[tuple[int, int]] | None:
    """The runs of entries that any of some reducers asks for; None where one needs all, or there is none."""
    asked = [reducer.asks(entries) for reducer in reducers]
    if not asked or None in asked:
        return None
    return [run for runs in asked for run in runs or ()]


def _evaluate_scalars(steps: Sequence[Step], nodes: Sequence[Node], scalars: dict[int, tuple[float, ...]]) -> None:
    for step in steps:
        node = nodes[step.node]
        if node.op_class == "scalar":
            inputs = [scalars[source.index] for source in node.inputs]
            scalars[node.index] = OPS[node.op].kernel(*inputs, **dict(node.attrs))


@dataclass(frozen=True)
class Sweep:
    """One way through a tensor: the steps of a pass, and what all its tiles share.

    `held` are values that need computing once, `taken` is who takes a reduction's tiles, in the order of the `line`.
    """

    steps: Sequence[Step]
    nodes: Sequence[Node]
    load: Load
    scalars: Mapping[int, tuple[float, ...]]
    held: dict[int, Any]
    taken: Sequence[Mapping[int, Reducer | Part]]
    line: Line

    def over(self, tile: Tile) -> Any:
        """One tile through the steps; returns the value of the last."""
        live: dict[int, Any] = {}
        value: Any = None
        for step in self.steps:
            node = self.nodes[step.node]
            if node.op_class == "scalar":
                continue
            if node.index in self.held:
                value = self.held[node.index]
            elif node.op_class == "load":
                value = self.loaded(node, tile)
            else:
                value = self.applied(node, [self._input(source, live) for source in node.inputs], tile)
            if node.is_held:
                self.held[node.index] = value
            live[node.index] = value
            for freed in step.frees:
                live.pop(freed, None)
        return value

    def _input(self, source: Node, live: Mapping[int, Any]) -> Any:
        return self.scalars[source.index] if source.type.space == "scalar" else live[source.index]

    def loaded(self, node: Node, tile: Tile) -> Any:
        """What a tile needs of an input: its entries, the bytes of its bits, all of a part, or to ask a table later."""
        slot = node.attr("slot")
        match node.type.space:
            case "table":
                return partial(self.load, slot)
            case "part":
                return self.load(slot, 0, node.type.numel)
            case "bits":
                return self.load(slot, tile.start // 8, -(-tile.stop // 8))
            case _:
                return self.load(slot, tile.start, tile.stop)

    def applied(self, node: Node, inputs: list[Any], tile: Tile) -> Any:
        """The value of a node; none of a reduction, whose tiles are handed to those that take them."""
        if node.op_class == "reduce":
            with self.takers(node.index, tile) as takers:
                for taker in takers:
                    taker.update(*inputs)
            return None
        op = OPS[node.op]
        attrs: dict[str, Any] = dict(node.attrs)
        if op.takes_tile:
            attrs["tile"] = tile
        if op.op_class == "row":
            inputs = [_in_rows(value, source, tile) for value, source in zip(inputs, node.inputs, strict=True)]
            found = op.kernel(*inputs, **attrs)
            return found if node.type.space == "table" else found.reshape(-1)
        if op.op_class == "whole":
            inputs = [_shaped(value, source) for value, source in zip(inputs, node.inputs, strict=True)]
            return op.kernel(*inputs, **attrs).reshape(-1)
        return op.kernel(*inputs, **attrs)

    @contextmanager
    def takers(self, node: int, tile: Tile) -> Iterator[Sequence[Reducer | Part]]:
        """Who takes a tile of a reduction, now that it has taken those before; none where it has its result."""
        takers = [taker for takers in self.taken if (taker := takers.get(node)) is not None]
        if not takers:
            yield ()
            return
        with self.line.turn(node, tile):
            for taker in takers:
                if isinstance(taker, Reducer):
                    taker.position = tile.start
            yield takers


def _shaped(value: Any, node: Node) -> Any:
    return value if isinstance(value, tuple) else value.view(node.type.shape)


def _in_rows(value: Any, node: Node, tile: Tile) -> Any:
    """A tile's rows; a part in its own shape, a table as it is asked."""
    if isinstance(value, tuple) or callable(value):
        return value
    return value.view(node.type.shape) if node.type.space == "part" else value.view(-1, tile.row)
