"""Arcs and means of directions: closed forms on the circle, and the inputs for which there is no direction."""

from __future__ import annotations

import math

import harness
import pytest
import torch
from torch import Tensor

import mergec
from mergec.errors import RecipeError

EAST, NORTH = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])


def merged(name: str, models: list[Tensor], base: Tensor | None = None, **parameters: object) -> Tensor:
    origin = None if base is None else {"w": base}
    return mergec.merge(name, [{"w": one} for one in models], base=origin, parameters=parameters)["w"]


def test_nuslerp_walks_between_models_or_between_their_deltas() -> None:
    half = math.sqrt(0.5)
    torch.testing.assert_close(merged("nuslerp", [EAST, NORTH], weight=1.0), torch.tensor([2 * half, half, 0]))
    base = torch.tensor([0.0, 0.0, 5.0])
    found = merged("nuslerp", [base + EAST, base + NORTH], base, weight=1.0)
    torch.testing.assert_close(found, torch.tensor([2 * half, half, 5]))


def test_nuslerp_with_weights_that_cancel_out_is_half_way() -> None:
    models, one = [{"w": EAST}, {"w": NORTH}], {"0": {"weight": 0.5}, "1": {"weight": -0.5}}
    named = dict(zip("01", models, strict=True))
    found = mergec.merge("nuslerp", named, model_parameters=one)["w"]
    torch.testing.assert_close(found, merged("nuslerp", [EAST, NORTH], weight=1.0))


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 6)])
def test_arcs_of_rows_and_columns_are_arcs_of_each(row_wise: bool, shape: tuple[int, ...]) -> None:
    left, right = harness.family(shape, models=1)
    found = merged("nuslerp", [left, right], weight=1.0, nuslerp_flatten=False, nuslerp_row_wise=row_wise)
    axis = 0 if row_wise else -1
    lines = zip(*(one.movedim(axis, -1).reshape(-1, shape[axis]) for one in (found, left, right)), strict=True)
    for line, start, end in lines:
        torch.testing.assert_close(line, merged("nuslerp", [start, end], weight=1.0))


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("tile", [1, 7, 300])
def test_rows_and_columns_do_not_depend_on_tiles(row_wise: bool, tile: int) -> None:
    values = {"weight": [0.3, 0.6], "nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
    tensors = harness.family((31, 270), models=2)
    whole = harness.merged("nuslerp", tensors, values)
    assert torch.equal(harness.merged("nuslerp", tensors, values, tile=tile), whole)


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("kind", ["zero", "equal", "opposite"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e4])
def test_nuslerp_without_an_arc_is_a_straight_line(flatten: bool, kind: str, scale: float) -> None:
    left = harness.family((4, 6))[0] * scale
    right = {"zero": 0 * left, "equal": left, "opposite": -left}[kind]
    found = merged("nuslerp", [left, right], weight=0.5, nuslerp_flatten=flatten)
    torch.testing.assert_close(found, (left + right) / 2, rtol=1e-5, atol=1e-5 * scale)


def test_multislerp_has_the_mean_direction_and_the_mean_norm() -> None:
    half = math.sqrt(0.5)
    found = merged("multislerp", [EAST, NORTH], weight=1.0)
    torch.testing.assert_close(found, torch.tensor([1.5 * half, 1.5 * half, 0]))


@pytest.mark.parametrize("weight", [0.5, -2.0])
def test_multislerp_of_one_model_is_that_model(weight: float) -> None:
    assert torch.equal(merged("multislerp", [EAST], weight=weight, normalize_weights=False), EAST)


def test_multislerp_of_directions_that_cancel_out_is_the_weighted_sum() -> None:
    angles = torch.arange(3) * (2 * math.pi / 3)
    models = [torch.tensor([math.cos(a), math.sin(a)]) * (i + 1) for i, a in enumerate(angles.tolist())]
    found = merged("multislerp", models, weight=1.0)
    torch.testing.assert_close(found, sum(models, start=torch.zeros(2)) / 3)
    torch.testing.assert_close(merged("multislerp", [EAST, -EAST * 3], weight=1.0), -EAST)


def test_multislerp_refuses_weights_without_a_sum() -> None:
    for weight in (0.0, [1.0, -1.0]):
        own = {str(i): {"weight": w} for i, w in enumerate(weight if isinstance(weight, list) else [weight] * 2)}
        with pytest.raises(RecipeError, match=r"E206.*sum to zero.*normalize_weights: false"):
            mergec.merge("multislerp", {"0": {"w": EAST}, "1": {"w": NORTH}}, model_parameters=own)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", ["multislerp", "karcher"])
def test_equal_models_are_their_own_mean(name: str, count: int) -> None:
    model = harness.family((6, 9))[0]
    parameters = {"weight": 0.4} if name == "multislerp" else {}
    torch.testing.assert_close(merged(name, [model] * count, **parameters), model)


def test_karcher_is_the_mean_angle_on_a_circle() -> None:
    angles = [0.1, 0.5, 1.5]
    found = merged("karcher", [torch.tensor([math.cos(a), math.sin(a)]) * (i + 1) for i, a in enumerate(angles)])
    torch.testing.assert_close(found, 2 * torch.tensor([math.cos(0.7), math.sin(0.7)]))


def test_karcher_of_opposite_models_is_the_first_one_with_the_mean_norm() -> None:
    torch.testing.assert_close(merged("karcher", [EAST, -EAST * 2]), EAST * 1.5)


def test_karcher_takes_zero_tensors_as_norms_only() -> None:
    zero = torch.zeros(3)
    torch.testing.assert_close(merged("karcher", [EAST, zero]), EAST / 2)
    assert not merged("karcher", [zero, zero]).any()


@pytest.mark.parametrize("scale", [1e-9, 1.0])
def test_karcher_does_not_depend_on_scale(scale: float) -> None:
    models = harness.family((5, 8), torch.float64)
    found = merged("karcher", [one * scale for one in models]) / scale
    torch.testing.assert_close(found, merged("karcher", models))
