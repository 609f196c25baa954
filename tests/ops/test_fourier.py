"""The high-pass filter: the reference's gains bin by bin, the clean ones for any shape, and what is warned of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harness
import oracle_matrix
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergec.graph import Graph, TensorType
from mergec.ops.basic import load
from mergec.ops.fourier import _clean_gains, _reference_gains, fourier_filter, high_pass
from mergec.ops.op import remark_on

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "goldens.json").read_text())
FILTERS = ["clean", "reference"]


def filtered(delta: Tensor, filter: str, cutoff: float) -> Tensor:
    node = high_pass(harness.loads(Graph(), [delta], "delta")[0], filter, cutoff)
    return harness.run(node, [delta])


@pytest.mark.parametrize(
    ("golden", "ratio"),
    [("fr_filter_4x4", 0.9), ("fr_filter_4x4", 0.6), ("fr_filter_4x4", 0.5), ("fr_filter_2x8", 0.9)],
)
def test_reference_gives_the_recorded_numbers(golden: str, ratio: float) -> None:
    table = GOLDENS[golden]
    expected = torch.tensor(table[f"ratio_{ratio * 10:02.0f}"])
    torch.testing.assert_close(filtered(torch.tensor(table["X"]), "reference", 1 - ratio), expected, rtol=0, atol=1e-6)


def test_reference_halves_what_an_odd_width_reflects_outside() -> None:
    delta = torch.tensor(GOLDENS["inputs"]["task_vectors"]["A"]["w"])
    expected = torch.tensor(GOLDENS["fr_filter_2x3_A"]["ratio_09"])
    torch.testing.assert_close(filtered(delta, "reference", 0.1), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "ratio", "removed", "doubled", "dc_kept"),
    GOLDENS["fr_removed_bins"],
)
def test_reference_removes_and_doubles_as_many_bins(
    height: int, width: int, ratio: float, removed: int, doubled: int, dc_kept: bool
) -> None:
    """Bins off the axes stand for two. Of even sides every gain is that of the mask, of odd ones their sum is."""
    found = dict.fromkeys((0, 0.5, 1, 1.5, 2), 0)
    for rows in torch.arange(height).split(256):
        gains = _reference_gains(rows, height, width, 1 - ratio)
        for gain in found:
            bins = gains == gain
            found[gain] += 2 * int(bins.sum()) - int(bins[:, 0].sum()) - int(bins[:, -1].sum())
    assert sum(found.values()) == height * width
    assert sum(gain * number for gain, number in found.items()) == height * width - removed + doubled
    if height % 2 == 0:
        assert (found[0], found[2]) == (removed, doubled)
    assert bool(_reference_gains(torch.arange(1), height, width, 1 - ratio)[0, 0]) == dc_kept


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(FILTERS), st.floats(0, 1, width=16), st.integers(0, 99))
def test_filter_is_the_transform_times_the_gain_for_any_shape(
    height: int, width: int, filter: str, cutoff: float, seed: int
) -> None:
    delta = torch.randn(height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.from_numpy(oracle_matrix.high_pass(delta.numpy(), filter, cutoff))
    torch.testing.assert_close(filtered(delta, filter, cutoff), expected, rtol=0, atol=1e-12)


def test_gains_do_not_depend_on_the_block_of_rows() -> None:
    """More rows than one block: the spectrum is multiplied piece by piece."""
    delta = torch.randn(700, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kind in FILTERS:
        expected = torch.from_numpy(oracle_matrix.high_pass(delta.numpy(), kind, 0.3))
        torch.testing.assert_close(filtered(delta, kind, 0.3), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(512, 512), (2048, 128), (64, 4096)])
def test_clean_cuts_the_same_share_of_any_shape(shape: tuple[int, int]) -> None:
    """A quarter disc of radius 0.5 * sqrt(1/2) in a square of side 1/2: pi / 8."""
    kept = _clean_gains(torch.arange(shape[0]), *shape, 0.5).double().mean()
    assert 1 - kept.item() == pytest.approx(torch.pi / 8, abs=0.02)


def test_clean_leaves_the_checkerboard_at_1_and_everything_at_0() -> None:
    delta = torch.tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0], [0.0, 1.0, 0.0, 1.0], [4.0, 0.0, 2.0, 8.0]])
    signs = 1.0 - 2.0 * ((torch.arange(4)[:, None] + torch.arange(4)) % 2)
    torch.testing.assert_close(filtered(delta, "clean", 1.0), 0.125 * signs, rtol=0, atol=1e-6)
    assert torch.equal(filtered(delta, "clean", 0.0), delta)
    assert filtered(delta, "clean", 1e-9).mean().abs() < 1e-6


@pytest.mark.parametrize("filter", FILTERS)
def test_half_types_are_transformed_in_float32(filter: str) -> None:
    delta = harness.family((24, 40), torch.bfloat16)[0]
    exact = torch.from_numpy(oracle_matrix.high_pass(delta.double().numpy(), filter, 0.3))
    assert (harness.ulps(filtered(delta, filter, 0.3), exact.to(torch.bfloat16)) > 1).sum() == 0


@pytest.mark.parametrize(
    ("shape", "filter", "cutoff", "warned"),
    [
        ((5120, 5120), "reference", 0.1, True),
        ((768, 768), "reference", 0.3, False),
        ((13824, 5120), "reference", 0.1, False),
        ((4, 4), "reference", 0.3, False),
        ((4, 4), "reference", 0.25, True),
        ((5120, 5120), "clean", 0.1, False),
    ],
)
def test_a_filter_that_cuts_nothing_is_remarked_on(
    shape: tuple[int, int], filter: str, cutoff: float, warned: bool
) -> None:
    delta = load(Graph(), 0, TensorType(shape, "float32", "delta"))
    remark = remark_on(fourier_filter(delta, filter=filter, cutoff=cutoff))
    assert (remark is not None) == warned
    if warned and shape == (4, 4):
        gains = _reference_gains(torch.arange(4), 4, 4, cutoff)
        assert gains.min() > 0
