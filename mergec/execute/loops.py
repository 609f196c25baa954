"""Loops: a chain's shared library as a function of tiles, and a pass whose chains are computed by such."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergec.execute.chain import TILE, Chain, Stage, function
from mergec.execute.evaluate import Sweep
from mergec.graph import Node
from mergec.ops.fused import CUTS, FORMS, TAKEN, Numbers, results, unbounded
from mergec.ops.op import Reducer, Tile
from mergec.ops.random import BLOCK
from mergec.ops.tree import LEAF
from mergec.plan import Kind

if TYPE_CHECKING:
    from torch import Tensor


class Loops:
    """A loaded library: the loops of one chain."""

    def __init__(self, path: Path, chain: Chain) -> None:
        library = ctypes.CDLL(str(path))
        self._run = library.chain_run
        self._run.restype = None
        library.chain_scratch.restype = ctypes.c_int64
        self.scratch_bytes = int(library.chain_scratch())
        self._text = chain.text
        self._real: Any = ctypes.c_double if '"real": "float64"' in chain.text else ctypes.c_float
        self._is_checked = False
        self.is_sound = True

    def __call__(self, sources: Sequence[Tensor], numbers: Numbers, results: Sequence[Tensor], scratch: Tensor) -> None:
        """Fill the results from the sources."""
        reals = (self._real * max(1, len(numbers.reals)))(*numbers.reals)
        whole = (ctypes.c_int32 * (1 + len(numbers.whole)))(0, *numbers.whole)
        count = sources[0].numel() // TILE
        steps = [one.element_size() * TILE for one in sources] + [0, 0]
        steps += [one.numel() * one.element_size() // count for one in results] + [0]
        given = [one.data_ptr() for one in sources] + [ctypes.addressof(reals), ctypes.addressof(whole)]
        given += [one.data_ptr() for one in (*results, scratch)]
        pointers = (ctypes.c_void_p * len(given))(*given)
        strides = (ctypes.c_int64 * len(given))(*steps)
        self._run(pointers, strides, ctypes.c_int64(count), ctypes.c_int64(TILE))
        if not (self._is_checked and self.is_sound):
            self._check(sources, reals, whole, results)

    def _check(self, sources: Sequence[Tensor], reals: Any, whole: Any, results: Sequence[Tensor]) -> None:
        """Compare some of what was made with what torch's kernels make; where it differs, all that these make stays."""
        count = sources[0].numel() // TILE
        some = {count * part // 3 for part in range(3)} | {count - 1}
        if not all(self._made_as_by_kernels(number, sources, reals, whole, results) for number in sorted(some)):
            self.is_sound = False
            for number in range(count):
                self._made_as_by_kernels(number, sources, reals, whole, results)
        self._is_checked = True

    def _made_as_by_kernels(
        self, number: int, sources: Sequence[Tensor], reals: Any, whole: Any, results: Sequence[Tensor]
    ) -> bool:
        """Whether the loops made of a tile, to the bit, what torch's kernels make; else theirs is put in its place."""
        import torch

        whole[0] = number * TILE
        real = torch.float64 if self._real is ctypes.c_double else torch.float32
        numbers = torch.frombuffer(reals, dtype=real), torch.frombuffer(whole, dtype=torch.int32)
        pieces = [one[number * TILE : (number + 1) * TILE] for one in sources]
        is_same = True
        for expected, result in zip(function(self._text)(*pieces, *numbers), results, strict=True):
            made = result.view(-1)[number * expected.numel() : (number + 1) * expected.numel()]
            expected = expected.contiguous().view(-1)
            if not torch.equal(expected.view(torch.uint8), made.view(torch.uint8)):
                is_same = False
                made.copy_(expected)
        return is_same


class Program:
    """A pass of a kind with its chains compiled."""

    def __init__(self, made: Sequence[Stage], loops: Mapping[str, Loops], kind: Kind, nodes: Sequence[Node]) -> None:
        import torch

        self._stages, self._nodes, self.unit = made, nodes, together(kind.row)
        self._loops = loops
        scratch = max(loops[stage.chain.text].scratch_bytes for stage in made if stage.chain)
        self._scratch = torch.empty(scratch, dtype=torch.uint8)
        self._rooms: dict[int, tuple[int, list[Tensor], list[Tensor]]] = {}

    def cut(self, tile: Tile) -> Iterator[Tile]:
        """A tile in pieces: as many entries as the loops take at once, then what is left over."""
        start = tile.start
        while start < tile.stop:
            edge = min(tile.stop, (start // BLOCK + 1) * BLOCK)
            stop = start + (edge - start) // self.unit * self.unit
            stop = stop if stop > start else tile.stop
            yield Tile(tile.name, start, stop, tile.row, tile.device)
            start = stop

    def takes(self, tile: Tile) -> bool:
        """Whether a tile is cut as loops need it, and all loops have made what torch's kernels make."""
        entries = tile.stop - tile.start
        same_block = tile.start // BLOCK == (tile.stop - 1) // BLOCK
        is_sound = all(self._loops[stage.chain.text].is_sound for stage in self._stages if stage.chain)
        return is_sound and entries % TILE == 0 and tile.start % LEAF == 0 and same_block

    def over(self, sweep: Sweep, tile: Tile) -> Any:
        """One tile through the pass, to the bit as `Sweep.over` has it."""
        if not self.takes(tile):
            return sweep.over(tile)
        live: dict[int, Any] = {}
        value: Any = None
        for stage in self._stages:
            if stage.chain:
                value = self._fused(stage.chain, sweep, tile, live)
            for index in stage.then:
                node = self._nodes[index]
                inputs = [
                    sweep.scalars[one.index] if one.type.space == "scalar" else self._value(one, sweep, tile, live)
                    for one in node.inputs
                ]
                value = live[index] = sweep.applied(node, inputs, tile)
        return value

    def _value(self, node: Node, sweep: Sweep, tile: Tile, live: dict[int, Any]) -> Any:
        if node.index not in live:
            live[node.index] = sweep.loaded(node, tile)
        return live[node.index]

    def _fused(self, chain: Chain, sweep: Sweep, tile: Tile, live: dict[int, Any]) -> Any:
        """Let a chain's loops fill its results; returns the last."""
        sources = [self._value(self._nodes[index], sweep, tile, live) for index in chain.sources]
        entries = tile.stop - tile.start
        rooms = [self._room(index, entries) for index in chain.results]
        numbers = _numbers([self._nodes[index] for index in chain.body], sweep, tile)
        self._loops[chain.text](sources, numbers, [one for made, _ in rooms for one in made], self._scratch)
        for index, (_, joined) in zip(chain.results, rooms, strict=True):
            if self._nodes[index].op not in TAKEN:
                (live[index],) = joined
                continue
            with sweep.takers(index, tile) as takers:
                for taker in takers:
                    if isinstance(taker, Reducer):  # a part of a statistic has no form
                        taker.take(*joined)
        return live.get(chain.results[-1])

    def _room(self, index: int, entries: int) -> tuple[list[Tensor], list[Tensor]]:
        """Room for what loops make of a node, tile after tile, and the same as one: flat, or tiles x streams x leaves.

        It is used again from tile to tile: who keeps of it copies.
        """
        import torch

        held = self._rooms.get(index)
        if held is None or held[0] != entries:
            wanted = results(self._nodes[index], TILE)
            made = [torch.empty((entries // TILE, *shape), dtype=getattr(torch, dtype)) for shape, dtype in wanted]
            held = self._rooms[index] = entries, made, [one if one.dim() > 2 else one.view(-1) for one in made]
        return held[1:]


@cache
def together(row: int) -> int:
    """The fewest entries that are whole tiles of loops and whole rows."""
    return lcm(TILE, row)


def _reducer(index: int, sweep: Sweep) -> Reducer | None:
    """Who takes the tiles of a reduction, if it has no result yet."""
    return next((one for takers in sweep.taken if isinstance(one := takers.get(index), Reducer)), None)


def _numbers(body: Iterable[Node], sweep: Sweep, tile: Tile) -> Numbers:
    reals: list[float] = []
    whole: list[int] = []
    for node in body:
        if node.op in CUTS:
            reducer = _reducer(node.index, sweep)
            reals += reducer.bounds() if reducer else unbounded(node)
            continue
        values = [sweep.scalars[one.index] for one in node.inputs if one.type.space == "scalar"]
        found = FORMS[node.op].numbers(node, values, tile)
        reals += found.reals
        whole += found.whole
    return Numbers(tuple(reals), tuple(whole))
