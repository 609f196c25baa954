"""Rescale gives back what trimming took, and survives deltas of which nothing is left."""

from __future__ import annotations

from typing import Any

import harness
import pytest
import torch
from torch import Tensor

from mergec.graph import Graph
from mergec.ops.registry import Arithmetic, Draw
from mergec.ops.rescale import drop_rule, norm_rule, rescale, rescale_l1, rescale_ranked
from mergec.ops.trim import trim_magnitude, trim_random, trim_ranked


def l1_rescaled(delta: Tensor, density: float, tile: int = harness.EVERYTHING) -> Tensor:
    node = harness.loads(Graph(), [delta], "delta")[0]
    return harness.run(rescale(node, trim_magnitude(node, density), "l1"), [delta], tile)


def test_documented_example_holds() -> None:
    assert l1_rescaled(torch.tensor([2.0, 1.0]), 0.5).tolist() == [3, 0]


@pytest.mark.parametrize("tile", [1, 7, 1000, harness.EVERYTHING])
def test_l1_is_restored_although_the_trim_needs_several_sweeps(tile: int) -> None:
    """A sum that is fed again on every sweep of another reduction counts each entry twice."""
    delta = torch.randn(20, 71, generator=torch.Generator().manual_seed(0))
    found = l1_rescaled(delta, 0.3, tile)
    assert found.double().abs().sum().item() == pytest.approx(delta.double().abs().sum().item(), rel=1e-6)
    kept = found[found != 0] / delta[found != 0]
    torch.testing.assert_close(kept, kept[:1].expand_as(kept), rtol=3e-7, atol=0)


@pytest.mark.parametrize("delta", [torch.zeros(50), torch.full((50,), 1e-12)], ids=["zero", "tiny"])
def test_a_delta_of_nothing_is_not_divided_by_nothing(delta: Tensor) -> None:
    assert torch.equal(l1_rescaled(delta, 0.5), torch.where(torch.arange(50) < 25, delta, 0))


def test_a_mask_that_drops_everything_stays_finite() -> None:
    assert rescale_l1.kernel(torch.zeros(4), (10.0,), (0.0,)).tolist() == [0] * 4


@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_dividing_by_the_chance_keeps_the_mean(density: float) -> None:
    delta = torch.ones(200_000)
    node = harness.loads(Graph(), [delta], "delta")[0]
    dropped = trim_random(node, density, 0, Draw(3, "test.1"))
    found = harness.run(rescale(node, dropped, "inverse_prob", density), [delta])
    assert set(found.unique().tolist()) == {0.0, float(torch.tensor(1.0) / density)}
    error = 3 * ((1 - density) / density / len(delta)) ** 0.5
    assert found.double().mean().item() == pytest.approx(1, abs=error)


def test_ranked_entries_are_divided_by_their_own_chance() -> None:
    delta, chance = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.5, 0.25, 0.8])
    torch.testing.assert_close(rescale_ranked.kernel(delta, chance), torch.tensor([2.0, 0.0, -2.5]))


def test_ranked_mean_is_kept_for_every_rank() -> None:
    rows = 20_000
    delta = torch.tensor([[1.0, 2.0, 3.0]]).repeat(rows, 1)
    node = harness.loads(Graph(), [delta], "delta")[0]
    kept, chance = trim_ranked(node, 0.5, 0.3, 0, Draw(1, "test.1"))
    found = harness.run(rescale(node, kept, "inverse_prob", chance), [delta]).double().mean(dim=0)
    for value, mean, p in zip((1, 2, 3), found.tolist(), (0.2, 0.5, 0.8), strict=True):
        assert mean == pytest.approx(value, abs=3 * value * ((1 - p) / p / rows) ** 0.5)


@pytest.mark.parametrize(
    ("value", "ours", "peers"),
    [
        (True, "inverse_prob", "l1"),
        (False, "none", "none"),
        ("l1", "l1", "l1"),
        ("inverse_prob", "inverse_prob", "inverse_prob"),
        ("none", "none", "none"),
    ],
)
def test_what_a_written_rescale_means_for_a_random_trim(value: Any, ours: str, peers: str) -> None:
    assert drop_rule(value, Arithmetic()) == ours
    assert drop_rule(value, Arithmetic(mergekit=True)) == peers


@pytest.mark.parametrize(("value", "rule"), [(True, "l1"), ("l1", "l1"), (False, "none"), ("none", "none")])
def test_what_a_written_rescale_means_for_a_trim_by_magnitude(value: Any, rule: str) -> None:
    assert norm_rule(value) == rule


def test_what_was_not_trimmed_is_not_rescaled() -> None:
    node = harness.loads(Graph(), [torch.ones(3)], "delta")[0]
    assert rescale(node, node, "l1") is node
    assert rescale(node, node, "inverse_prob", 0.5) is node
