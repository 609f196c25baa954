"""Merges and projections by singular values: degenerate inputs, equal bits from run to run, bytes accounted for."""

from __future__ import annotations

from typing import Any

import harness
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergec.graph import Graph, TensorType
from mergec.ops import steps
from mergec.ops.basic import load
from mergec.ops.op import remark_on
from mergec.ops.opcm import mean_norm_ratio
from mergec.ops.registry import Arithmetic, Draw
from mergec.ops.step import Steps
from mergec.ops.svd import factorise, merge_singular, polar

METHODS = ["tsv", "iso_c", "iso_cts"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(METHODS), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_merge_is_the_formula_for_any_shape_and_number_of_models(
    name: str, height: int, width: int, models: int, seed: int
) -> None:
    tensors = harness.family((height, width), torch.float64, models=models, seed=seed, noise=1.0)
    found = harness.merged(name, tensors, {})
    expected = oracle.METHODS[name](tensors[0].numpy(), [one.numpy() for one in tensors[1:]])
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-7)


def low_rank(rank: int, shape: tuple[int, int] = (9, 14), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)


DEGENERATE: dict[str, list[Tensor]] = {
    "all zero": [torch.zeros(9, 14)] * 3,
    "one zero": [low_rank(9), torch.zeros(9, 14)],
    "equal": [low_rank(9)] * 3,
    "opposite": [low_rank(9), -low_rank(9)],
    "of low rank": [low_rank(2), low_rank(1, seed=1)],
    "repeated singular values": [torch.eye(9, 14), torch.eye(9, 14) * 2],
    "one row": [low_rank(1, (1, 14)), low_rank(1, (1, 14), seed=1)],
    "one column": [low_rank(1, (9, 1)), low_rank(1, (9, 1), seed=1)],
    "more models than rows": [low_rank(2, (2, 14), seed=seed) for seed in range(5)],
    "tiny": [low_rank(9) * 1e-30, low_rank(9, seed=1) * 1e-30],
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_deltas_are_merged_by_the_formula(case: str, name: str) -> None:
    deltas = DEGENERATE[case]
    base = torch.zeros_like(deltas[0])
    found = harness.merged(name, [base, *deltas], {})
    assert found.isfinite().all()
    assert torch.equal(found, harness.merged(name, [base, *deltas], {}))
    expected = oracle.METHODS[name](base.double().numpy(), [one.double().numpy() for one in deltas])
    scale = max(1e-30, *(float(one.norm()) for one in deltas))
    torch.testing.assert_close(found.double() / scale, torch.from_numpy(expected) / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["tsv", "iso_c", "iso_cts"])
def test_sums_of_low_rank_stay_in_their_span(name: str) -> None:
    """A reference fills up with whatever singular vectors LAPACK returns for zeros."""
    deltas = [low_rank(1), low_rank(1, seed=1)]
    found = harness.merged(name, [torch.zeros(9, 14), *deltas], {"common_share": 0.5} if name == "iso_cts" else {})
    assert torch.linalg.matrix_rank(found, rtol=1e-5) <= 2


def test_equal_deltas_give_that_delta_again_in_tsv() -> None:
    delta = low_rank(3)
    found = harness.merged("tsv", [torch.zeros(9, 14), delta, delta], {})
    torch.testing.assert_close(found, delta, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flips", range(4))
def test_signs_of_singular_vectors_cancel(flips: int) -> None:
    """U D and D V, D of signs, are singular vectors as good as U and V."""
    u, s, v = factorise(torch.cat([low_rank(9), low_rank(9, seed=1)], dim=1))
    sign = torch.randint(0, 2, s.shape, generator=torch.Generator().manual_seed(flips)) * 2.0 - 1
    torch.testing.assert_close((polar(u * sign) * s) @ polar(v * sign[:, None]), (polar(u) * s) @ polar(v))


@pytest.mark.parametrize(("shape", "rank", "warned"), [((2, 9), 0, True), ((9, 9), 3, False), ((0, 9), 0, False)])
def test_keeping_nothing_is_remarked_on(shape: tuple[int, int], rank: int, warned: bool) -> None:
    delta = load(Graph(), 0, TensorType(shape, "float32", "delta"))
    assert (remark_on(merge_singular(delta, rank=rank)) is not None) == warned


def test_scratch_grows_with_what_is_stacked() -> None:
    graph = Graph()
    nodes = [load(graph, slot, TensorType((64, 64), "float32", "delta")) for slot in range(4)]
    values: list[Any] = [merge_singular(*nodes, rank=rank) for rank in (4, 16, 64)]
    scratches = [merge_singular.scratch(node) for node in values]
    assert scratches == sorted(set(scratches))


@pytest.mark.parametrize(("ratio", "rank"), [(0.4, 3), (1.0, 9), (0.01, 0), ("equal", 4)])
def test_a_projected_delta_is_the_nearest_of_its_rank(ratio: Any, rank: int) -> None:
    deltas = [low_rank(9).double(), low_rank(1, seed=1).double()]
    ways: list[Any] = [steps.diff(), steps.project_leading(rank_ratio=ratio), steps.fuse_sum(weight=(1.0, 1.0))]
    tensors = [torch.zeros(9, 14, dtype=torch.float64), *deltas]
    base, *models = harness.loads(Graph(), tensors)
    root = Steps(*ways).run(base, models, Draw(0, ""), Arithmetic())
    expected = torch.zeros(9, 14, dtype=torch.float64)
    for delta in deltas:
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        expected += (u[:, :rank] * s[:rank]) @ v[:rank]
    torch.testing.assert_close(harness.run(root, tensors), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("left", [0.0, 1e-40, 1e-16])
def test_what_cancels_but_for_rounding_is_not_scaled_up(left: float) -> None:
    """Deltas that are each other's negatives leave rounding errors, whose scale would be 1 / 0 or nearly so."""
    assert mean_norm_ratio.kernel((left, 1.0, 1.0)) == (0.0,)
    assert mean_norm_ratio.kernel((1e-8, 1.0, 1.0)) == (1e4,)
