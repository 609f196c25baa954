"""Trim keeps exactly what it says: counts, ties, tails, chances."""

from __future__ import annotations

import doctest
import math
from collections.abc import Iterator

import harness
import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergec.graph import Graph, Node
from mergec.ops import trim
from mergec.ops.registry import Draw, ParameterError

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DRAW = Draw(0, "test.1")


def delta_node(delta: Tensor) -> Node:
    return harness.loads(Graph(), [delta], "delta")[0]


def trimmed(delta: Tensor, density: float, tile: int = harness.EVERYTHING) -> Tensor:
    return harness.run(trim.trim_magnitude(delta_node(delta), density), [delta], tile)


def middle(delta: Tensor, density: float, gamma: float, tile: int = harness.EVERYTHING) -> Tensor:
    return harness.run(trim.trim_outliers(delta_node(delta), density, gamma), [delta], tile)


def ranked(delta: Tensor, density: float, epsilon: float, name: str = "w") -> Tensor:
    kept, _ = trim.trim_ranked(delta_node(delta), density, epsilon, 0, DRAW)
    return harness.run(kept, [delta], name=name)


def chances(delta: Tensor, density: float, epsilon: float) -> Tensor:
    _, chance = trim.trim_ranked(delta_node(delta), density, epsilon, 0, DRAW)
    assert chance is not None
    kind_root = chance
    rows = harness.run(kind_root, [delta])
    return rows


def test_documented_examples_hold() -> None:
    assert doctest.testmod(trim).failed == 0
    assert trimmed(torch.tensor([3.0, -1.0, 2.0, 0.0]), 0.5).tolist() == [3, 0, 2, 0]
    assert trimmed(torch.tensor([1.0, -1.0, 1.0, 1.0]), 0.5).tolist() == [1, -1, 0, 0]


@given(
    st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0]), min_size=1, max_size=60),
    st.floats(0, 1),
    st.sampled_from(DTYPES),
    st.integers(1, 70),
)
def test_a_threshold_through_ties_keeps_exactly_k_of_lowest_index(
    numbers: list[float], density: float, dtype: torch.dtype, tile: int
) -> None:
    delta = torch.tensor(numbers, dtype=dtype)
    found = trimmed(delta, density, tile)
    expected = oracle.largest(delta.double().numpy(), density)
    assert torch.equal(found.double(), torch.from_numpy(expected))


@given(
    st.integers(1, 300),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(DTYPES),
    st.integers(0, 9),
    st.integers(1, 99),
)
@settings(max_examples=150)
def test_both_tails_are_cut_exactly(
    entries: int, density: float, gamma: float, dtype: torch.dtype, seed: int, tile: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randint(-20, 21, (entries,), generator=generator).to(dtype) / 8
    found = middle(delta, density, gamma, tile)
    expected = oracle.middle(delta.double().numpy(), density, gamma)
    assert torch.equal(found.double(), torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_every_bit_of_a_magnitude_counts(dtype: torch.dtype, scale: float) -> None:
    """A search that stops after the first 16 bits of a float would keep too much."""
    delta = (torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * scale).to(dtype)
    delta[::7] = torch.nextafter(delta[:1], delta[:1] * 2)
    for density in (0.001, 0.2, 0.9999):
        found = trimmed(delta, density)
        assert torch.equal(found.double(), torch.from_numpy(oracle.largest(delta.double().numpy(), density)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_subnormal_numbers_and_negative_zeros_are_ranked_too(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    delta = torch.tensor([tiny / 2, -0.0, -tiny / 4, 0.0, tiny], dtype=torch.float64).to(dtype)
    assert trimmed(delta, 0.6).tolist() == [delta[0].item(), 0, delta[2].item(), 0, delta[4].item()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_delta_that_is_mostly_zero_keeps_k_entries_not_all(dtype: torch.dtype) -> None:
    """With 90 % zeros the threshold is 0, and a mask `>= threshold` would keep everything."""
    delta = torch.zeros(1000, dtype=dtype)
    delta[::10] = torch.arange(1, 101, dtype=dtype)
    marked = torch.where(delta == 0, torch.full_like(delta, 2**-14), delta)  # zeros are told from trimmed entries
    assert (trimmed(marked, 0.2) != 0).sum() == 200
    assert (trimmed(delta, 0.05) != 0).sum() == 50
    assert torch.equal(trimmed(delta, 0.5), delta)


def test_all_magnitudes_equal_keeps_the_first_k() -> None:
    delta = torch.ones(4096) * torch.tensor([1.0, -1.0]).repeat(2048)
    found = trimmed(delta, 0.3, tile=1000)
    assert torch.equal(found[:1228], delta[:1228])
    assert not found[1228:].any()


@pytest.mark.parametrize(
    ("entries", "density", "kept"), [(1, 0.01, 1), (4, 0.2, 1), (9, 0.2, 1), (10, 0.2, 2), (3, 0, 0)]
)
def test_a_tiny_tensor_keeps_at_least_one_entry(entries: int, density: float, kept: int) -> None:
    """A density of less than one entry crashed one peer and wiped the tensor in another."""
    assert (trimmed(torch.arange(1.0, entries + 1), density) != 0).sum() == kept
    assert (middle(torch.arange(1.0, entries + 1), density, 0.01) != 0).sum() == kept


@pytest.mark.parametrize("gamma", [0.0, 0.001])
def test_less_than_one_outlier_is_no_outlier(gamma: float) -> None:
    """gamma * n below 1 emptied the whole tensor in a peer: the slice [m:-0] is empty."""
    delta = torch.randn(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(middle(delta, 0.9, gamma), trimmed(delta, 0.9))


def test_more_outliers_than_room_still_keeps_the_density() -> None:
    delta = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert middle(delta, 0.75, 0.5).tolist() == [0, 3, 2, 1]


def test_outliers_are_the_largest_not_the_smallest() -> None:
    assert middle(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), 0.4, 0.2).tolist() == [0, 4, 3, 0, 0]


@pytest.mark.parametrize("density", [0.1, 0.5, 0.93])
def test_random_keep_rate_is_the_density(density: float) -> None:
    entries = 100_000
    delta = torch.ones(entries)
    kept = harness.run(trim.trim_random(delta_node(delta), density, 0, DRAW), [delta]).sum().item()
    assert abs(kept - density * entries) < 4 * math.sqrt(entries * density * (1 - density))


def test_random_keeps_all_at_density_1_and_nothing_at_0() -> None:
    delta = torch.ones(5000)
    node = delta_node(delta)
    assert harness.run(trim.trim_random(node, 1.0, 0, DRAW), [delta]).all()
    assert not harness.run(trim.trim_random(node, 0.0, 0, DRAW), [delta]).any()


def test_a_larger_density_keeps_what_a_smaller_one_kept() -> None:
    delta = torch.ones(5000)
    masks = [harness.run(trim.trim_random(delta_node(delta), d, 0, DRAW), [delta]) > 0 for d in (0.2, 0.5, 0.8)]
    assert (masks[0] <= masks[1]).all()
    assert (masks[1] <= masks[2]).all()


def test_ranked_keep_rate_is_the_chance_of_each_rank() -> None:
    rows, width = 4000, 8
    generator = torch.Generator().manual_seed(4)
    delta = torch.stack([torch.randperm(width, generator=generator) + 1.0 for _ in range(rows)])
    kept = ranked(delta, 0.6, 0.3) != 0
    for rank in range(width):
        expected = 0.3 + 0.6 * rank / (width - 1)
        found = kept[delta == rank + 1].double().mean().item()
        assert abs(found - expected) < 3 * math.sqrt(expected * (1 - expected) / rows)


def test_chances_run_from_low_to_high_in_each_row() -> None:
    delta = torch.tensor([[-0.75, -0.125, 0.625], [0.25, 0.0625, -0.875]])
    torch.testing.assert_close(chances(delta, 0.7, 0.07), torch.tensor([[0.77, 0.63, 0.7], [0.7, 0.63, 0.77]]))


def test_equal_magnitudes_rank_by_lowest_index() -> None:
    delta = torch.tensor([[1.0, -1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(chances(delta, 0.5, 0.2), torch.tensor([[0.7, 0.6, 0.5, 0.4, 0.3]]))


@pytest.mark.parametrize("shape", [(7, 1), (1,), (), (2, 3, 1)])
def test_a_row_of_one_entry_has_the_density_as_chance(shape: tuple[int, ...]) -> None:
    """(rank - min) / (max - min) is 0 / 0 there, and a Bernoulli of nan raises."""
    delta = torch.ones(shape)
    assert torch.equal(chances(delta, 0.25, 0.125), torch.full(shape, 0.25))


def test_rows_lie_along_the_last_axis_in_any_dimension() -> None:
    """A packed 3-D tensor is treated as its unpacked matrices are."""
    delta = harness.family((3, 4, 6))[0]
    packed = chances(delta, 0.5, 0.3)
    for number in range(3):
        assert torch.equal(packed[number], chances(delta[number], 0.5, 0.3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_ranks_beyond_65504_stay_distinct_in_half_types(dtype: torch.dtype) -> None:
    """Ranks kept in the tensor's own dtype collapse in bfloat16 and overflow in float16."""
    width = 70_000
    bits = torch.arange(width, dtype=torch.int32) % 31_000  # as bits of a half type: all finite, many equal
    delta = bits.to(torch.int16).view(dtype)
    found = chances(delta, 0.5, 0.4).double()
    assert found.min() == pytest.approx(0.1)
    assert found.max() == pytest.approx(0.9)
    order = torch.argsort(delta.double(), descending=True, stable=True)
    steps = found[order].diff()
    assert (steps < 0).all()
    assert torch.allclose(steps, torch.full_like(steps, -0.8 / (width - 1)), atol=2e-7)


@pytest.fixture(params=[False, True], ids=["", "subnormals are zero"])
def flushed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A processor as it is, and as libraries made with -ffast-math leave it."""
    torch.set_flush_denormal(request.param)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)  # abs changes what is no bfloat16
def test_every_bit_of_a_magnitude_ranks(dtype: torch.dtype) -> None:
    """Zeros of both signs, subnormals, infinities, values that are not numbers: as their bits, equal ones by index."""
    width = dtype.itemsize * 8
    edges = [0, 1, 2, 1 << (width - 9), 0x7F80 << (width - 16), 0x7FF0 << (width - 16), (1 << (width - 1)) - 1]
    bits = np.concatenate([np.random.default_rng(0).integers(0, 1 << (width - 1), 500), np.tile(edges, 9)])
    signed = bits | np.random.default_rng(1).integers(0, 2, bits.size) << (width - 1)
    delta = torch.from_numpy(signed.astype(f"uint{width}").view(f"int{width}")).view(dtype)
    assert trim.descending(delta[None])[0].tolist() == sorted(range(bits.size), key=lambda place: -bits[place])


def test_small_entries_are_not_kept_more_often_than_large_ones() -> None:
    """An epsilon with the wrong sign would turn DELLA upside down."""
    found = chances(torch.tensor([[1.0, 5.0, 3.0]]), 0.5, 0.2)
    assert found[0, 0] < found[0, 2] < found[0, 1]


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.1), (0.1, 0.1), (0.2, 0.5), (0.95, 0.06)])
def test_chances_outside_0_to_1_are_refused(density: float, epsilon: float) -> None:
    with pytest.raises(ParameterError, match="expected both inside") as caught:
        trim.trim_ranked(delta_node(torch.ones(4)), density, epsilon, 0, DRAW)
    assert caught.value.parameter == "epsilon"


def test_an_index_beyond_16_million_is_still_exact() -> None:
    """The last kept index travels as a float64: a float32 would round it."""
    tile = trim.Tile("w", 2**24 + 1, 2**24 + 5, 4)
    kept = trim.trim.kernel(torch.ones(4), (math.inf, -1.0, 1.0, 2.0**24 + 3), tile=tile)
    assert kept.tolist() == [1, 1, 1, 0]


def test_counting_by_digits_agrees_with_sorting_on_many_random_deltas() -> None:
    for seed in range(20):
        delta = torch.randn(3000, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
        found = trimmed(delta, 0.37, tile=700).numpy()
        assert np.array_equal(found, oracle.largest(delta.numpy(), 0.37).astype(np.float32))
