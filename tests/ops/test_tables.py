"""Rows of computed weights: the bits that they have in the weight as a whole, in any order and for every tile."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from harness import EVERYTHING, loads, run
from torch import Tensor

from mergec.graph import Graph, Node
from mergec.ops.adapt import ROWS, adapt, stretch
from mergec.ops.basic import cast
from mergec.ops.embed import embed, index_text
from mergec.ops.magnify import magnify
from mergec.ops.tables import adapt_rows, magnify_rows, round_rows, stretch_rows

COUNT, COLUMNS, RANK = 3 * ROWS + 5, 7, 9  # with 7 columns a row's last bits depend on its place in a block
TILES = (1, 2 * ROWS * COLUMNS, EVERYTHING)


def index() -> list[int]:
    """Runs, single rows, rows twice and rows of zeros."""
    drawn = random.Random(0)
    return [*range(20, 45), -1, *drawn.choices(range(-1, COUNT), k=40), *range(13, COUNT)]


def looked_up(table: Node, given: Sequence[Tensor], tile: int) -> Tensor:
    return run(embed(table, rows=(index_text(index()),), axis=0, width=COLUMNS, dtype="float32"), list(given), tile)


def picked(whole: Tensor) -> Tensor:
    return torch.stack([whole[row] if row >= 0 else torch.zeros(COLUMNS) for row in index()])


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_adapted_rows(tile: int, transposed: bool, with_lengths: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(COUNT, COLUMNS)
    sizes = (COLUMNS, COUNT) if transposed else (COUNT, COLUMNS)
    given = [weight, torch.randn(sizes[0], RANK), torch.randn(RANK, sizes[1]), torch.rand(COUNT) + 0.5]
    given = given if with_lengths else given[:3]
    options = {"scale": 0.75, "transposed": transposed}
    made = Graph()
    rows, whole = loads(made, given[:1], "table")[0], loads(Graph(), given[:1])[0]
    left, right, *lengths = loads(made, given, "part")[1:]
    others = loads(whole.graph, given, "part")[1:]
    rows = adapt_rows(rows, left, right, dtype="float32", **options)
    whole = adapt(whole, *others[:2], **options)
    if with_lengths:
        rows, whole = stretch_rows(rows, *lengths, dtype="float32"), stretch(whole, *others[2:])
    found = looked_up(rows, given, tile)
    assert torch.equal(found, picked(run(whole, given)))
    product = given[1].double() @ given[2].double()
    expected = weight.double() + 0.75 * (product.T if transposed else product)
    if with_lengths:
        expected *= (given[3].double() / expected.norm(dim=1))[:, None]
    assert float((found - picked(expected.float())).abs().max()) < 1e-5


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("block", [(COUNT, COLUMNS), (1, COLUMNS), (16, 16), (7, 4)])
def test_rows_times_the_scales_of_their_blocks(tile: int, block: tuple[int, int]) -> None:
    torch.manual_seed(0)
    coded = (torch.randn(COUNT, COLUMNS) * 8).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-COUNT // block[0]), -(-COLUMNS // block[1]))
    made, other = Graph(), Graph()
    table, part = loads(made, [coded], "table")[0], loads(made, [coded, scales], "part")[1]
    found = looked_up(magnify_rows(table, part, block=block, dtype="float32"), [coded, scales], tile)
    weight = cast(loads(other, [coded])[0], dtype="float32")
    assert torch.equal(
        found, picked(run(magnify(weight, loads(other, [coded, scales], "part")[1], block=block), [coded, scales]))
    )
    for place, row in enumerate(index()):
        if row >= 0:
            expected = float(coded[row, 5]) * float(scales[row // block[0], 5 // block[1]])
            assert float(found[place, 5]) == pytest.approx(expected, rel=1e-6)


def test_rows_are_rounded() -> None:
    table = torch.randn(COUNT, COLUMNS)
    found = looked_up(round_rows(*loads(Graph(), [table], "table"), dtype="bfloat16"), [table], 1)
    assert torch.equal(found, picked(table.bfloat16().float()))
