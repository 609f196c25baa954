"""Load, cast, diff, weigh, scale."""

from __future__ import annotations

import harness
import pytest
import torch

from mergec.graph import Graph
from mergec.ops.basic import cast, diff, rounded, scale, weigh
from mergec.ops.op import SpaceError


def test_cast_rounds_to_nearest_even_and_keeps_the_space() -> None:
    model = torch.tensor([1.0 + 2**-9, 1.0 + 2**-8 + 2**-9, 1e30])
    node = harness.loads(Graph(), [model], "delta")[0]
    root = cast(node, dtype="bfloat16")
    assert root.type.space == "delta"
    assert harness.run(root, [model]).tolist() == [1.0, 1.0 + 2**-7 * 1, float(torch.tensor(1e30).bfloat16())]


def test_diff_is_the_model_minus_the_base_and_not_the_reverse() -> None:
    base, model = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.0])
    nodes = harness.loads(Graph(), [base, model])
    assert harness.run(diff(nodes[1], nodes[0]), [base, model]).tolist() == [3, -2]


def test_a_weight_is_rounded_to_the_dtype_of_a_half_delta() -> None:
    assert rounded(0.3, torch.ones(1, dtype=torch.bfloat16)) == 0.30078125
    assert rounded(0.3, torch.ones(1, dtype=torch.float64)) == 0.3
    assert weigh.kernel(torch.ones(1, dtype=torch.bfloat16), weight=0.3).item() == 0.30078125


def test_scale_by_zero_removes_a_tensor() -> None:
    assert scale.kernel(torch.tensor([1.0, -2.0]), factor=0.0).abs().tolist() == [0, 0]


@pytest.mark.parametrize("other", [torch.ones(4), torch.ones(3, dtype=torch.bfloat16)], ids=["shape", "dtype"])
def test_tensors_that_do_not_match_are_refused_when_the_graph_is_built(other: torch.Tensor) -> None:
    nodes = harness.loads(Graph(), [torch.ones(3), other])
    with pytest.raises(SpaceError, match="one shape and dtype"):
        diff(nodes[1], nodes[0])
