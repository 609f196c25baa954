"""The consensus mask as a pass: what few models need goes back to the base, whatever made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harness
import oracle
import pytest
import torch
from torch import Tensor

import mergec
from mergec.errors import RecipeError

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "goldens.json").read_text())
SUM = {"weight": 1.0, "density": 0.4, "aggregate": "sum"}


def passed(method: str, tensors: list[Tensor], parameters: dict[str, Any], **own: Any) -> Tensor:
    models, post = [{"w": one} for one in tensors[1:]], [{"consensus_mask": own}] if own else None
    return mergec.merge(method, models, base={"w": tensors[0]}, parameters=parameters, post=post)["w"]


def test_after_task_arithmetic_it_is_consensus() -> None:
    base = torch.tensor(GOLDENS["inputs"]["base"]["w"])
    models = [base + torch.tensor(delta["w"]) for delta in GOLDENS["inputs"]["task_vectors"].values()]
    found = passed("task_arithmetic", [base, *models], {"weight": 1.0}, mask_lambda=0.4, agreement=2) - base
    torch.testing.assert_close(found, torch.tensor(GOLDENS["consensus"]["delta"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("agreement", [1, 2, 3])
def test_after_ties_it_is_the_formula(agreement: int) -> None:
    tensors = [one.double() for one in harness.family((23, 31))]
    merged = passed("ties", tensors, SUM)
    base, *models = (one.numpy() for one in tensors)
    joint, deltas = merged.numpy() - base, [model - base for model in models]
    takers = sum((abs(one) > 0.7 * abs(joint - one)).astype(int) for one in deltas)
    expected = torch.where(torch.from_numpy(takers >= agreement), merged, tensors[0])
    found = passed("ties", tensors, SUM, mask_lambda=0.7, agreement=agreement)
    assert torch.equal(found, expected)
    assert not torch.equal(found, merged)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)], ids=str)
def test_degenerate_inputs_stay_as_they_are(shape: tuple[int, ...]) -> None:
    base = harness.family(shape)[0]
    assert torch.equal(passed("ties", [base, base, base], SUM, agreement=1), base)
    one = harness.family(shape)[1]
    assert torch.equal(
        passed("ties", [base, one], SUM | {"density": 1.0}, agreement=1),
        passed("ties", [base, one], SUM | {"density": 1.0}),
    )


def test_the_oracle_of_consensus_is_another_way_to_the_same() -> None:
    tensors = [one.double() for one in harness.family((9, 14))]
    base, *models = (one.numpy() for one in tensors)
    expected = oracle.consensus(base, models, mask_lambda=[0.6] * len(models))
    found = passed("task_arithmetic", tensors, {"weight": 1.0}, mask_lambda=0.6)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-13)


def test_more_models_than_there_are_cannot_agree() -> None:
    tensors = harness.family((3, 4))
    for make in (
        lambda: passed("ties", tensors, SUM, agreement=4),
        lambda: passed("consensus", tensors, {"agreement": 4}),
    ):
        with pytest.raises(
            RecipeError, match=r"4 models are to agree, and the merge has 3.*; hint: expected 3 or less"
        ):
            make()
