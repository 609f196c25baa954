"""Sums are the same however a tensor is cut, and accurate."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergec.ops.tree import LEAF, TreeSum, TreeSums, row_sums

VALUES = torch.randn(10 * LEAF + 77, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()


def tree_sum(values: torch.Tensor, cuts: list[int]) -> float:
    tree = TreeSum()
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    for start, stop in itertools.pairwise(edges):
        tree.add(values[start:stop])
    return tree.total()


@given(st.lists(st.integers(0, len(VALUES)), max_size=12), st.integers(0, len(VALUES)))
def test_sum_has_the_same_bits_wherever_it_is_cut(cuts: list[int], length: int) -> None:
    values = VALUES[:length]
    assert tree_sum(values, cuts) == tree_sum(values, [])


@pytest.mark.parametrize("length", [0, 1, 2, LEAF - 1, LEAF, LEAF + 1, 3 * LEAF, 10 * LEAF + 77])
def test_sum_is_accurate_to_the_last_bits(length: int) -> None:
    values = VALUES[:length]
    assert tree_sum(values, [5, 1500]) == pytest.approx(math.fsum(values.tolist()), rel=1e-14)


def test_single_entries_are_not_lost_between_leaves() -> None:
    assert tree_sum(torch.ones(3 * LEAF + 5, dtype=torch.float64), list(range(0, 3 * LEAF, 7))) == 3 * LEAF + 5


def test_a_sum_does_not_change_when_its_tile_is_overwritten() -> None:
    """What waits for the next tile must be a copy: buffers are used again."""
    tile = torch.ones(10, dtype=torch.float64)
    tree = TreeSum()
    tree.add(tile)
    tile.zero_()
    assert tree.total() == 10


@given(st.lists(st.integers(0, 5000), max_size=4), st.integers(1, 5000))
def test_products_side_by_side_are_summed_as_each_alone(cuts: list[int], length: int) -> None:
    tiles = VALUES[:length].float(), VALUES[-length:].float()
    pairs, sums = [(0, 0), (0, 1), (1, 1)], TreeSums()
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    for start, stop in itertools.pairwise(edges):
        sums.add_products([tile[start:stop] for tile in tiles], pairs)
    assert sums.totals() == tuple(tree_sum(tiles[i].double() * tiles[j].double(), []) for i, j in pairs)


def test_total_can_be_asked_for_twice() -> None:
    tree = TreeSum()
    tree.add(VALUES[:1500])
    assert tree.total() == tree.total()


@pytest.mark.parametrize("width", [1, 2, 3, 31, 64, 100])
def test_row_sums_do_not_depend_on_the_other_rows(width: int) -> None:
    rows = VALUES[: 50 * width].view(50, width)
    together = row_sums(rows)
    assert together.shape == (50, 1)
    for number in (0, 17, 49):
        assert row_sums(rows[number : number + 1]).item() == together[number].item()
    torch.testing.assert_close(together[:, 0], rows.sum(dim=1), rtol=1e-14, atol=0)
