"""Embed: rows by number, whatever the tiles; means in float64 within a rounding; and no more memory than promised."""

from __future__ import annotations

import pytest
import torch
from harness import EVERYTHING, loads, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergec.graph import Graph
from mergec.ops.embed import embed, index_rows, index_text, pad, row_mean
from mergec.ops.op import SpaceError

TILES = (1, 5, 12, EVERYTHING)


def embedded(tables: list[Tensor], rows: list[list[int]], tile: int = EVERYTHING, dtype: str = "float32") -> Tensor:
    nodes = loads(Graph(), tables, "table")
    width = tables[0][0].numel()
    root = embed(*nodes, rows=tuple(map(index_text, rows)), axis=0, width=width, dtype=dtype)
    return run(root, tables, tile)


def by_hand(tables: list[Tensor], rows: list[list[int]]) -> Tensor:
    """The same row by row in float64."""
    found = []
    for numbers in zip(*rows, strict=True):
        given = [table[number].double() for table, number in zip(tables, numbers, strict=True) if number >= 0]
        found.append(sum(given) / len(given) if given else torch.zeros_like(tables[0][0]).double())
    return torch.stack(found)


@given(st.lists(st.integers(-1, 20), max_size=40))
def test_an_index_is_read_as_it_was_written(index: list[int]) -> None:
    text = index_text(index)
    assert index_rows(text) == len(index)
    numbers = [start + n if sign else -1 for start, sign, length in parsed(text) for n in range(length)]
    assert numbers == index


def parsed(text: str) -> list[tuple[int, bool, int]]:
    found = []
    for run_text in text.split():
        start, plus, length = run_text.rpartition("+") if "+" in run_text else ("0", "", run_text[1:])
        found.append((int(start), bool(plus), int(length)))
    return found


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_copied_bit_by_bit(tile: int, dtype: torch.dtype) -> None:
    table = torch.randn(6, 4).to(dtype)
    table[2, 1] = -0.0
    index = [5, 0, 1, 2, -1, 4, 3, -1, -1, 0, 1]
    result = embedded([table], [index], tile)
    assert torch.equal(result, by_hand([table], [index]).float())
    assert torch.signbit(result[3, 1])


def test_a_row_after_an_absent_one_is_not_taken_for_the_next_of_a_run() -> None:
    table = torch.tensor([[1.0], [2.0]])
    assert embedded([table], [[-1, 0, 1, -1, 0]]).flatten().tolist() == [0, 1, 2, 0, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(TILES))
def test_rows_of_several_tables_are_averaged(seed: int, tile: int) -> None:
    torch.manual_seed(seed)
    tables = [torch.randn(size, 4) for size in (7, 5, 9)]
    rows = [torch.randint(-1, len(table), (13,)).tolist() for table in tables]
    torch.testing.assert_close(embedded(tables, rows, tile), by_hand(tables, rows).float(), rtol=1e-6, atol=1e-7)
    assert torch.equal(embedded(tables, rows, tile), embedded(tables, rows))


def test_tables_of_several_dtypes() -> None:
    tables = [torch.randn(3, 2).bfloat16(), torch.randn(3, 2).double()]
    rows = [[0, -1, 2], [1, 2, -1]]
    assert torch.equal(embedded(tables, rows, dtype="float64"), by_hand(tables, rows))


def test_a_row_of_one_entry_before_which_there_is_an_axis() -> None:
    table = torch.arange(5.0).view(1, 5)
    root = embed(*loads(Graph(), [table], "table"), rows=("4+1 -1 0+2",), axis=1, width=1, dtype="float32")
    assert root.type.shape == (1, 4)
    assert run(root, [table]).tolist() == [[4, 0, 0, 1]]


@pytest.mark.parametrize("tile", TILES)
def test_padding_is_the_mean_of_the_rows_before_it(tile: int) -> None:
    table = torch.randn(7, 4)
    (node,) = loads(Graph(), [table])
    root = pad(node, row_mean(node, rows=5, width=4), rows=5, width=4)
    result = run(root, [table], tile)
    assert torch.equal(result[:5], table[:5])
    torch.testing.assert_close(result[5:], table[:5].double().mean(0).float().expand(2, 4))
    assert torch.equal(result, run(root, [table]))


def test_indices_of_different_lengths_do_not_fit() -> None:
    nodes = loads(Graph(), [torch.zeros(3, 2), torch.zeros(3, 2)], "table")
    with pytest.raises(SpaceError, match="one length"):
        embed(*nodes, rows=("0+3", "0+2"), axis=0, width=2, dtype="float32")
