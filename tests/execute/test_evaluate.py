"""Tiles: what a sweep over some runs of a tensor is cut into."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mergec.execute.evaluate import Tiles
from mergec.plan import Kind


class _Kind:
    def __init__(self, row: int) -> None:
        self.row, self.entries, self.shape = row, 1000, (1000 // row, row)


@pytest.mark.parametrize("row", [1, 10])
@pytest.mark.parametrize("unit", [1, 40])
def test_tiles_over_runs_hold_them_once_in_order_and_whole_rows(row: int, unit: int) -> None:
    tiles = Tiles("w", cast(Kind, cast(Any, _Kind(row))), 128, "cpu", unit)
    found = [(one.start, one.stop) for one in tiles.over([(903, 1000), (0, 5), (3, 300)])]
    entries = [entry for start, stop in found for entry in range(start, stop)]
    assert entries == sorted(set(entries))
    assert {*range(300), *range(903, 1000)} <= set(entries)
    assert len(entries) <= 397 + 2 * row
    assert all(start % row == 0 and 0 < stop - start <= 128 for start, stop in found)


def test_whole_tiles_are_of_the_loops_unit_where_it_fits() -> None:
    assert [one.stop for one in Tiles("w", cast(Kind, cast(Any, _Kind(10))), 128, "cpu", 40)][:2] == [120, 240]
    assert [one.stop for one in Tiles("w", cast(Kind, cast(Any, _Kind(10))), 128, "cpu", 400)][:2] == [120, 240]
