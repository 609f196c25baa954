"""What every method that makes an artifact owes its user: each task's tensors are the formula's, for any tiling."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import artifacts
import numpy as np
import oracle
import pytest
import torch
from artifacts import TASKS
from checkpoints import contents
from safetensors.torch import load_file

import mergec
from mergec.compiler.materialize import compile_task
from mergec.ops.registry import methods
from mergec.planfile import plan_json, read_plan

ALL = sorted(name for name, one in methods().items() if one.makes_artifact)
# A value for every parameter of any method, in none of its defaults; lists have one per task.
VALUES: dict[str, Any] = {
    "mask_lambda": [0.5, 0.4, 0.7],
    "rescale_weighting": "tensors",
    "weight": [0.7313, 0.4517, 0.2891],
    "rank": 3,
    "rank_ratio": 0.5,
    "as_matrix": True,
    "vectors": "whole",
    "lambda": 0.7,
    "filter": "clean",
    "cutoff": 0.3,
    "keep": 0.3,
    "keep_per": "tensor",
    "expert_scale": 2.0,
    "combine": "replace",
}
# ... and one that must give another result.
OTHER: dict[str, Any] = {
    "mask_lambda": [0.5, 0.4, 0.1],
    "rescale_weighting": "elements",
    "weight": [0.7313, 0.4517, 0.6],
    "rank": 1,
    "rank_ratio": 0.3,
    "as_matrix": False,
    "vectors": "merged",
    "lambda": 0.8,
    "filter": "reference",
    "cutoff": 0.6,
    "keep": 0.6,
    "keep_per": "rows",
    "expert_scale": "auto",
    "combine": "add",
}
BESIDE: dict[str, Any] = {"rank_ratio": {"rank": "auto"}}
"""What a parameter needs beside it to have an effect."""


def values_of(name: str, changed: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (VALUES | changed).items() if key in methods()[name].parameters}


def settings(name: str, changed: dict[str, Any] | None = None) -> dict[str, Any]:
    """The recipe's `parameters` and the models' own."""
    values = values_of(name, changed or {})
    own = {
        task: {key: value[number] for key, value in values.items() if isinstance(value, list)}
        for number, task in enumerate(TASKS)
    }
    return {"parameters": {k: v for k, v in values.items() if not isinstance(v, list)}, "own": own}


def expected(
    name: str, tensors: dict[str, Any], tensor: str, task: int, changed: dict[str, Any] | None = None
) -> torch.Tensor:
    whole = [[state[key].double().numpy() for state in tensors.values()] for key in artifacts.SHAPES]
    base, *models = (state[tensor].double().numpy() for state in tensors.values())
    parameters = methods()[name].parameters
    values = {parameters[key].argument: value for key, value in values_of(name, changed or {}).items()}
    return torch.from_numpy(
        np.asarray(oracle.ARTIFACTS[name](base, models, task, **values, tensor=tensor, whole=whole))
    )


def test_the_oracle_knows_every_method() -> None:
    assert set(oracle.ARTIFACTS) == set(ALL)
    assert {p for name in ALL for p in methods()[name].parameters} == set(VALUES) == set(OTHER)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_each_task_is_the_formula_in_float64(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = artifacts.states(dtype)
    folder = artifacts.make(tmp_path, name, tensors, **settings(name))
    unit = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 2**-7}[dtype]
    for number, task in enumerate(TASKS):
        found = artifacts.dense(folder, task)
        assert found.keys() == tensors["base"].keys()
        for tensor, value in found.items():
            exact = expected(name, tensors, tensor, number)
            assert (value.dtype, value.shape) == (dtype, exact.shape)
            assert (value.double() - exact).abs().max() <= unit * (1 + exact.abs().max()), (task, tensor)


@pytest.mark.parametrize("name", ALL)
def test_bytes_do_not_depend_on_tiles_workers_and_shards(name: str, tmp_path: Path) -> None:
    recipe = artifacts.write_recipe(tmp_path, name, artifacts.states(), **settings(name))
    plan = mergec.compile(recipe)
    plan.run(tmp_path / "once", device="cpu")
    for tile, workers in ((8, 3), (24, 1)):
        memory = dataclasses.replace(plan.memory, tile=tile, workers=workers)
        dataclasses.replace(plan, memory=memory).run(tmp_path / "again", device="cpu")
        assert contents(tmp_path / "again") == contents(tmp_path / "once")
        shutil.rmtree(tmp_path / "again")
    mergec.compile(recipe, shard_bytes=500).run(tmp_path / "shards", device="cpu")
    parts = {name: data for name, data in contents(tmp_path / "once").items() if "/" in name}
    assert parts.items() <= contents(tmp_path / "shards").items()
    dense, once = compile_task(tmp_path / "shards", "b"), artifacts.dense(tmp_path / "once", "b")
    mergec.api.adopt(dataclasses.replace(dense, memory=dataclasses.replace(dense.memory, tile=8))).run(
        tmp_path / "dense"
    )
    written = load_file(tmp_path / "dense" / "model.safetensors")
    assert all(torch.equal(written[key], once[key]) for key in once)


@pytest.mark.parametrize("name", ALL)
def test_a_plan_survives_json(name: str, tmp_path: Path) -> None:
    plan = mergec.compile(artifacts.write_recipe(tmp_path, name, artifacts.states(), **settings(name)))
    assert mergec.api.adopt(read_plan(plan_json(plan))) == plan


@pytest.mark.parametrize(("name", "parameter"), [(n, p) for n in ALL for p in methods()[n].parameters])
def test_every_parameter_reaches_the_result(name: str, parameter: str, tmp_path: Path) -> None:
    beside = BESIDE.get(parameter, {})
    tensors, changed = artifacts.states(), {**beside, parameter: OTHER[parameter]}
    before = artifacts.make(tmp_path / "before", name, tensors, **settings(name, beside))
    after = artifacts.make(tmp_path / "after", name, tensors, **settings(name, changed))
    old, new = (artifacts.dense(folder, "c") for folder in (before, after))
    assert any(not torch.equal(old[key], new[key]) for key in old)
    for tensor, value in new.items():
        exact = expected(name, tensors, tensor, 2, changed)
        assert (value.double() - exact).abs().max() <= 4e-6 * (1 + exact.abs().max()), tensor


@pytest.mark.parametrize("name", ALL)
def test_tasks_without_a_change_stay_finite(name: str, tmp_path: Path) -> None:
    """0 / 0 has a defined answer everywhere: one task, and all of them, equal to the base."""
    tensors = artifacts.states()
    for number, still in enumerate([("b",), TASKS]):
        same = {label: tensors["base"] if label in still else state for label, state in tensors.items()}
        folder = artifacts.make(tmp_path / str(number), name, same, **settings(name))
        for task in TASKS:
            found = artifacts.dense(folder, task)
            assert all(value.isfinite().all() for value in found.values())
            if len(still) == 3:
                assert all(torch.equal(value, tensors["base"][key]) for key, value in found.items())


@pytest.mark.parametrize("name", ALL)
def test_integers_and_empty_tensors_are_the_base_s(name: str, tmp_path: Path) -> None:
    extra = {"ids": torch.tensor([1, 2**53 + 1]), "none": torch.zeros(0, 3)}
    tensors = {label: {**state, **extra} for label, state in artifacts.states().items()}
    folder = artifacts.make(tmp_path, name, tensors, **settings(name))
    for task in TASKS:
        found = artifacts.dense(folder, task)
        assert torch.equal(found["ids"], extra["ids"])
        assert found["none"].shape == (0, 3)
