"""What adapters add to weights: the formula in float64, and the same bits for every tile."""

from __future__ import annotations

import pytest
import torch
from harness import EVERYTHING, loads, run

from mergec.compiler.schedule import evaluated_bytes, make_kind
from mergec.graph import Graph, Node
from mergec.ops.adapt import ROWS, adapt, shift, stretch
from mergec.ops.op import SpaceError
from mergec.plan import Output

ROW_COUNT, COLUMNS, RANK = 3 * ROWS + 5, 70, 9


def graph(*tensors: torch.Tensor, transposed: bool = False) -> Node:
    """W + 0.75 B A, of tensors in that order; with lengths as the fourth, DoRA's."""
    made = Graph()
    (weight,) = loads(made, tensors[:1])
    parts = loads(made, tensors, "part")[1:]
    changed = adapt(weight, *parts[:2], scale=0.75, transposed=transposed)
    return stretch(changed, *parts[2:]) if parts[2:] else changed


def tensors(transposed: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(0)
    weight, left, right = torch.randn(ROW_COUNT, COLUMNS), torch.randn(ROW_COUNT, RANK), torch.randn(RANK, COLUMNS)
    return [weight.T.contiguous() if transposed else weight, left, right]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("tile", [1, 5 * COLUMNS, 2 * ROWS * COLUMNS, EVERYTHING])
def test_the_product_is_added(transposed: bool, tile: int) -> None:
    given = tensors(transposed)
    weight, left, right = (one.double() for one in given)
    product = left @ right
    expected = weight + 0.75 * (product.T if transposed else product)
    found = run(graph(*given, transposed=transposed), given, tile)
    assert float((found - expected).abs().max()) < 1e-5
    assert torch.equal(found, run(graph(*given, transposed=transposed), given))


@pytest.mark.parametrize("tile", [1, 2 * ROWS * COLUMNS])
def test_rows_get_their_lengths(tile: int) -> None:
    given = [*tensors(), torch.rand(ROW_COUNT) + 0.5]
    weight, left, right, lengths = (one.double() for one in given)
    changed = weight + 0.75 * left @ right
    expected = changed * (lengths / changed.norm(dim=1))[:, None]
    found = run(graph(*given), given, tile)
    assert float((found - expected).abs().max()) < 1e-5
    assert torch.equal(found, run(graph(*given), given))


def test_a_bias_is_shifted() -> None:
    bias, change = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    assert run(shift(*loads(Graph(), [bias, change]), scale=0.5), [bias, change]).tolist() == [2.5, 1.5]


def test_factors_that_do_not_fit_are_refused() -> None:
    weight, left, right = tensors()
    with pytest.raises(SpaceError, match="expected a part"):
        graph(weight.T, left, right)


def test_factors_are_counted_whole_whatever_the_tile() -> None:
    given = tensors()
    root = graph(*given)
    kind = make_kind(root, root.graph.nodes)
    assert kind.held_bytes == 4 * RANK * (ROW_COUNT + COLUMNS)
    output = Output("w", "float32", root.type.shape, 0, (), 0, 0, 0)
    assert evaluated_bytes(kind, output, 1) > 2 * kind.held_bytes
