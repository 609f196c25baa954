"""Drawings: rows are longest paths, nothing lies on anything else, and edges cross only where they must."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mergec.compiler.arrange import Arrangement, arrange


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """For each node the numbers of its inputs, all smaller than its own."""
    size = draw(st.integers(1, 14))
    return [draw(st.lists(st.integers(0, node - 1), max_size=3)) if node else [] for node in range(size)]


def longest(inputs: list[list[int]], node: int) -> int:
    return max((1 + longest(inputs, source) for source in inputs[node]), default=0)


def points(drawn: Arrangement) -> list[tuple[int, float, float]]:
    """Row, x and width of everything that takes room."""
    nodes = [(row, x, 1.0) for row, x in zip(drawn.rows, drawn.xs, strict=True)]
    return nodes + [
        (row + 1 + step, x, 0.4)
        for row, bends in zip(drawn.rows, drawn.bends, strict=True)
        for step, x in enumerate(bends)
    ]


@given(graphs())
def test_a_row_is_the_longest_path_and_nothing_overlaps(inputs: list[list[int]]) -> None:
    drawn = arrange(inputs)
    assert list(drawn.rows) == [longest(inputs, node) for node in range(len(inputs))]
    taken = sorted(points(drawn))
    for (row, x, width), (other, far, room) in pairwise(taken):
        assert row != other or far - x >= (width + room) / 2 - 0.02
    assert min(x for _, x, _ in taken) == 0


@given(graphs())
def test_an_edge_has_a_place_in_every_row_that_it_passes(inputs: list[list[int]]) -> None:
    drawn = arrange(inputs)
    for node, sources in enumerate(inputs):
        for source in sources:
            assert len(drawn.bends[source]) >= drawn.rows[node] - drawn.rows[source] - 1


def crossings(inputs: list[list[int]], drawn: Arrangement) -> int:
    edges = [(s, n) for n, sources in enumerate(inputs) for s in sources if drawn.rows[n] - drawn.rows[s] == 1]
    ends = [(drawn.rows[s], drawn.xs[s], drawn.xs[n]) for s, n in edges]
    return sum(a[0] == b[0] and (a[1] - b[1]) * (a[2] - b[2]) < 0 for i, a in enumerate(ends) for b in ends[i + 1 :])


def test_chains_are_untangled() -> None:
    """Ten chains of three, dealt in any order, are drawn side by side: each straight, none crossing another."""
    order = list(range(10))
    random.Random(3).shuffle(order)
    inputs = [[]] * 10 + [[n] for n in order] + [[10 + n] for n in reversed(range(10))]
    drawn = arrange(inputs)
    assert crossings(inputs, drawn) == 0
    assert all(drawn.xs[node] == drawn.xs[source] for node, (source,) in enumerate(inputs[10:], start=10))


def test_a_result_stands_in_the_middle_beneath_its_inputs() -> None:
    drawn = arrange([[], [], [], [0, 1, 2]])
    assert (drawn.rows, drawn.xs) == ((0, 0, 0, 1), (0, 1, 2, 1))


def test_the_same_graph_is_drawn_the_same() -> None:
    inputs = [[], [], [0], [1, 0], [2, 3], [4, 0]]
    assert arrange(inputs) == arrange(inputs)
    assert arrange([]) == Arrangement((), (), ())
