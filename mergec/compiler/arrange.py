"""Arrange: where the nodes of a graph are drawn - in rows, with few crossings, what belongs together in columns.

The three steps of Sugiyama, Tagawa and Toda (Methods for visual understanding of hierarchical system structures, 1981):
rows, an order within each row, positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_ROUNDS = 12
_BEND = 0.4  # the room that a passing edge takes, as a share of a node's


@dataclass(frozen=True)
class Arrangement:
    """Where everything is drawn; a node is 1 wide, and so are rows apart.

    `rows` and `xs` are by node. `bends` has for each node the x at which its edges pass the rows beneath it: that
    of row `rows[node] + 1 + i` is `bends[node][i]`; edges of one node that pass the same row do so together.
    """

    rows: tuple[int, ...]
    xs: tuple[float, ...]
    bends: tuple[tuple[float, ...], ...]


def arrange(inputs: Sequence[Sequence[int]]) -> Arrangement:
    """Arrange a graph, given for each node the numbers of its inputs, which are smaller than its own.

    The row of a node is the length of the longest path to it.
    """
    rows: list[int] = []
    for sources in inputs:
        rows.append(max((rows[source] + 1 for source in sources), default=0))
    below, chains, layers = _points(inputs, rows)
    above: dict[int, list[int]] = defaultdict(list)
    for point, ends in below.items():
        for end in ends:
            above[end].append(point)
    layers = _ordered(layers, above, below)
    xs = _placed(layers, above, below, len(inputs))
    left = min(xs.values(), default=0.0)
    place = {point: round(x - left, 2) for point, x in xs.items()}
    nodes = range(len(inputs))
    return Arrangement(
        tuple(rows), tuple(place[n] for n in nodes), tuple(tuple(place[p] for p in chains[n]) for n in nodes)
    )


Links = dict[int, list[int]]


def _points(inputs: Sequence[Sequence[int]], rows: Sequence[int]) -> tuple[Links, Links, list[list[int]]]:
    """Nodes, and a point in every row that edges of a node pass: what each leads to, a node's points, points by row."""
    reach = list(rows)
    for node, sources in enumerate(inputs):
        for source in sources:
            reach[source] = max(reach[source], rows[node] - 1)
    layers: list[list[int]] = [[] for _ in range(max(rows, default=-1) + 1)]
    chains: Links = {}
    fresh = len(inputs)
    for node, row in enumerate(rows):
        layers[row].append(node)
    for node, row in enumerate(rows):
        chains[node] = list(range(fresh, fresh + reach[node] - row))
        fresh += len(chains[node])
        for step, point in enumerate(chains[node], start=row + 1):
            layers[step].append(point)
    below: Links = defaultdict(list)
    for chain_of, chain in chains.items():
        path = [chain_of, *chain]
        for point, following in pairwise(path):
            below[point].append(following)
    for node, sources in enumerate(inputs):
        for source in dict.fromkeys(sources):
            below[[source, *chains[source]][rows[node] - 1 - rows[source]]].append(node)
    return below, chains, layers


def _ordered(layers: list[list[int]], above: Links, below: Links) -> list[list[int]]:
    """Points within their rows by the mean place of their neighbours, downward and upward in turn; the best is kept."""
    best, fewest = layers, _crossings(layers, below)
    for turn in range(_ROUNDS):
        if not fewest:
            break
        downward = turn % 2 == 0
        found: list[list[int]] = []
        for layer in layers if downward else layers[::-1]:
            place = {point: number for number, point in enumerate(found[-1])} if found else {}
            own = {point: number for number, point in enumerate(layer)}
            found.append(sorted(layer, key=lambda p: (_mean((above if downward else below)[p], place, own[p]), own[p])))
        layers = found if downward else found[::-1]
        crossings = _crossings(layers, below)
        if crossings < fewest:
            best, fewest = layers, crossings
    return best


def _mean(points: Sequence[int], place: dict[int, float] | dict[int, int], otherwise: float) -> float:
    known = [place[point] for point in points if point in place]
    return sum(known) / len(known) if known else otherwise


def _crossings(layers: Sequence[Sequence[int]], below: Links) -> int:
    """How many pairs of edges between neighbouring rows cross."""
    total = 0
    for upper, lower in pairwise(layers):
        place = {point: number for number, point in enumerate(lower)}
        ends = [end for point in upper for end in sorted(place[target] for target in below[point])]
        total += sum(left > right for number, left in enumerate(ends) for right in ends[number + 1 :])
    return total


def _placed(layers: Sequence[Sequence[int]], above: Links, below: Links, nodes: int) -> dict[int, float]:
    """An x for each point: as near to its neighbours' mean as the order and the room of its row allow."""
    xs: dict[int, float] = {}
    for layer in layers:
        xs |= _spread(layer, {}, nodes)
    for turn in range(_ROUNDS):
        for layer in layers if turn % 2 == 0 else layers[::-1]:
            wanted = {p: _mean([*above[p], *below[p]], xs, xs[p]) for p in layer}
            xs |= _spread(layer, wanted, nodes)
    return xs


def _spread(layer: Sequence[int], wanted: dict[int, float], nodes: int) -> dict[int, float]:
    """Points at the places they want but for the room they need: least squares, by pooling those that collide."""
    offsets, edge = [], 0.0
    for point in layer:
        width = 1.0 if point < nodes else _BEND
        offsets.append(edge + width / 2)
        edge += width
    pools: list[tuple[float, int]] = []  # the mean of what is wanted, and how many points share it
    for point, offset in zip(layer, offsets, strict=True):
        mean, size = wanted.get(point, offset) - offset, 1
        while pools and pools[-1][0] > mean:
            before, others = pools.pop()
            mean, size = (before * others + mean * size) / (others + size), others + size
        pools.append((mean, size))
    shifts = [mean for mean, size in pools for _ in range(size)]
    return {point: offset + shift for point, offset, shift in zip(layer, offsets, shifts, strict=True)}
