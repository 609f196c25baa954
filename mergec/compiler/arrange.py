"""Arrange: where the nodes of a graph are drawn - in rows, with few crossings, what belongs together in columns.

The three steps of Sugiyama, Tagawa and Toda (Methods for visual understanding of hierarchical system structures, 1981):
rows, an order within each row, positions. The positions are those of Brandes and Koepf (Fast and simple horizontal
coordinate assignment, 2001).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
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


def _placed(layers: Sequence[list[int]], above: Links, below: Links, nodes: int) -> dict[int, float]:
    """An x for each point: four layouts, leaning each to one corner, put together so that none of them shows."""
    blocked = _blocked(layers, below, nodes)
    found = []
    for neighbours, rows in ((above, layers), (below, layers[::-1])):
        for side in (1, -1):
            leaning = [row[::side] for row in rows]
            xs = _compact(leaning, _columns(leaning, neighbours, blocked), nodes)
            found.append((side, {point: side * x for point, x in xs.items()}))
    narrow = min((xs for _, xs in found), key=lambda xs: max(xs.values(), default=0) - min(xs.values(), default=0))
    for side, xs in found:
        edge = min if side == 1 else max
        shift = edge(narrow.values(), default=0.0) - edge(xs.values(), default=0.0)
        for point in xs:
            xs[point] += shift
    return {point: sum(sorted(xs[point] for _, xs in found)[1:3]) / 2 for point in narrow}


def _blocked(layers: Sequence[Sequence[int]], below: Links, nodes: int) -> set[tuple[int, int]]:
    """Edges that cross one which passes two rows: that one shall be straight."""
    blocked = set()
    for upper, lower in pairwise(layers):
        left, right = ({point: number for number, point in enumerate(row)} for row in (upper, lower))
        edges = [(left[p], right[q], p, q) for p in upper for q in below[p]]
        passing = [(a, b) for a, b, p, q in edges if p >= nodes and q >= nodes]
        for a, b, p, q in edges:
            if (p < nodes or q < nodes) and any((a - c) * (b - d) < 0 for c, d in passing):
                blocked |= {(p, q), (q, p)}
    return blocked


def _columns(rows: Sequence[Sequence[int]], before: Links, blocked: set[tuple[int, int]]) -> dict[int, int]:
    """Points that stand in one column, by the first of it: each joins the middle one of those before it, if it can."""
    first = {point: point for row in rows for point in row}
    for upper, lower in pairwise(rows):
        place, last = {point: number for number, point in enumerate(upper)}, -1
        for point in lower:
            around = sorted(before[point], key=place.__getitem__)
            for other in around[(len(around) - 1) // 2 : len(around) // 2 + 1]:
                if first[point] == point and place[other] > last and (point, other) not in blocked:
                    first[point], last = first[other], place[other]
    return first


def _compact(rows: Sequence[Sequence[int]], first: dict[int, int], nodes: int) -> dict[int, float]:
    """Columns as far to the left as their neighbours allow, and then as near to those on the right as can be."""
    left: dict[int, dict[int, float]] = {column: {} for column in first.values()}
    right: dict[int, dict[int, float]] = {column: {} for column in first.values()}
    for row in rows:
        for one, other in pairwise(row):
            room = sum(1.0 if point < nodes else _BEND for point in (one, other)) / 2
            a, b = first[one], first[other]
            left[b][a] = right[a][b] = max(room, left[b].get(a, 0.0))
    order = list(TopologicalSorter(left).static_order())
    xs: dict[int, float] = {}
    for column in order:
        xs[column] = max((xs[other] + room for other, room in left[column].items()), default=0.0)
    for column in reversed(order):
        if right[column]:
            xs[column] = max(xs[column], min(xs[other] - room for other, room in right[column].items()))
    return {point: xs[column] for point, column in first.items()}
