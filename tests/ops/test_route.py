"""Routers' rows and experts' noise: small numbers by hand, and no trace of tiles."""

from __future__ import annotations

import math

import pytest
import torch
from harness import EVERYTHING, loads, run

from mergec.graph import Graph
from mergec.ops.registry import Draw
from mergec.ops.route import drawn_router, perturb, prompt_sums, unit


def test_sums_of_rows_have_length_1_before_and_after_they_are_subtracted() -> None:
    rows = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0])]
    picks = (((0, 1, 2), ()), ((0,), (1,)), ((1,), (2,)))  # [3, 4]; [1, 0] - [0, 1]; nothing is left
    found = run(prompt_sums(*loads(Graph(), rows, "part"), picks=picks), rows)
    expected = torch.tensor([[0.6, 0.8], [math.sqrt(0.5), -math.sqrt(0.5)], [0.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_a_row_of_length_0_stays() -> None:
    assert torch.equal(unit(torch.tensor([[0.0, 0.0], [0.0, 5.0]])), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("tile", [1, 7, EVERYTHING])
def test_noise_depends_on_seed_stream_tensor_and_model_alone(tile: int) -> None:
    values = torch.ones(5, 9)

    def noise(seed: int = 1, slot: str = "a", name: str = "w", tile: int = EVERYTHING) -> torch.Tensor:
        (weight,) = loads(Graph(), [values])
        return run(perturb(weight, scale=0.5, seed=seed, stream="moe.1", slot=slot), [values], tile, name) - values

    assert torch.equal(noise(tile=tile), noise())
    others = [noise(seed=2), noise(slot="b"), noise(name="x")]
    assert not any(torch.equal(noise(), other) for other in others)


@pytest.mark.parametrize(("uniform", "most"), [(True, 0.25), (False, 6.0)])
def test_a_drawn_router_is_as_large_as_it_says(uniform: bool, most: float) -> None:
    found = run(drawn_router(Graph(), (40, 16), Draw(0, "moe.1.router"), uniform=uniform), [])
    assert found.shape == (40, 16)
    assert 0.9 < float(found.std()) / (most / math.sqrt(3) if uniform else 1) < 1.1
    assert float(found.abs().max()) <= most
