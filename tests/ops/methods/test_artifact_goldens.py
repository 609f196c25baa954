"""Artifact methods against values that the authors' own code gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import artifacts
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mergec.io.artifact import open_artifact, ratio_sums
from mergec.ops.parts import unpacked

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "goldens.json").read_text())
BASE = {name: torch.tensor(rows) for name, rows in GOLDENS["inputs"]["base"].items()}
MODELS = {
    task: {name: BASE[name] + torch.tensor(rows) for name, rows in delta.items()}
    for task, delta in GOLDENS["inputs"]["task_vectors"].items()
}


def made(folder: Path, method: str, **parameters: Any) -> Path:
    return artifacts.make(folder, method, {"base": BASE, **MODELS}, parameters=parameters)


def assert_near(found: Tensor, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=tolerance)


def scales(folder: Path) -> list[float]:
    """Each task's scale, from its ratios."""
    experts = open_artifact(folder).experts.values()
    sums = [ratio_sums([ref for name, ref in parts.items() if name.endswith(".ratio")]) for parts in experts]
    return [over / under for over, under in sums]


def masks(folder: Path, task: str) -> dict[str, Tensor]:
    stored = load_file(folder / "experts" / f"{task}.safetensors")
    return {name: unpacked(stored[f"{name}.mask"], one.numel()).view(one.shape) for name, one in BASE.items()}


@pytest.mark.parametrize(("weighting", "golden"), [("tensors", "emr_dict_version"), ("elements", "emr_flat_version")])
def test_emr(weighting: str, golden: str, tmp_path: Path) -> None:
    """The authors' two programs weigh tensors differently and agree in all else."""
    folder, expected = made(tmp_path, "emr", rescale_weighting=weighting), GOLDENS["emr_dict_version"]
    shared = load_file(folder / "shared" / "delta.safetensors")
    for name in BASE:
        assert_near(shared[f"{name}.delta"], expected["unified"][name])
        assert [masks(folder, task)[name].tolist() for task in "ABC"] == expected["masks"][name]
    assert scales(folder) == pytest.approx(GOLDENS[golden]["rescalers"], abs=1e-6)
    if weighting == "tensors":
        found = artifacts.deltas(artifacts.dense(folder, "A"), BASE)
        for name in BASE:
            assert_near(found[name], expected["recon_task_A"][name])


def test_tall_mask(tmp_path: Path) -> None:
    golden = GOLDENS["tall_mask_lambda1"]
    for value, key in ((1.0, "formula_in_utils"), (0.4, "lambda04")):
        folder = made(tmp_path / key, "tall_mask", mask_lambda=value)
        assert [masks(folder, task)["w"].tolist() for task in "ABC"] == golden[key]
    assert_near(load_file(folder / "shared" / "delta.safetensors")["w.delta"], golden["multi_tv"])


def test_twin(tmp_path: Path) -> None:
    golden = GOLDENS["twin_discriminative_scaling.25_svd_mask.5"]
    folder = made(tmp_path, "twin", rank_ratio=0.5, **{"lambda": 0.25})
    shared, expert = load_file(folder / "model.safetensors"), load_file(folder / "experts" / "A.safetensors")
    for name in BASE:
        assert_near(shared[name], golden["shared"][name])
    assert_near(expert["b.delta"], golden["expert_A"]["b"])
    assert_near(expert["w.left"] @ expert["w.right"], golden["expert_A"]["w"], 1e-5)
    tasks = [artifacts.dense(folder, task) for task in "ABC"]
    for name in BASE:  # mixed as the router says, which is linear in the experts
        mixed = sum(share * one[name] for share, one in zip(golden["router_softmax_012"], tasks, strict=True))
        assert_near(mixed, golden["mixed"][name], 1e-5)


def test_twin_of_full_rank_is_the_task_itself(tmp_path: Path) -> None:
    folder = made(tmp_path, "twin", rank=9)
    for task in "ABC":
        found = artifacts.dense(folder, task)
        for name in BASE:
            torch.testing.assert_close(found[name], MODELS[task][name], rtol=0, atol=1e-6)


def test_twin_of_rank_zero_without_vectors_is_the_backbone(tmp_path: Path) -> None:
    folder = made(tmp_path, "twin", rank=0, vectors="merged")
    backbone = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, backbone[name]) for name, value in artifacts.dense(folder, "A").items())
    assert not list(folder.glob("experts/*"))


def test_free_of_language_models(tmp_path: Path) -> None:
    golden = GOLDENS["free_lm_private_task0_delta_w"]["w"]
    values = {"filter": "reference", "cutoff": 0.3, "lambda": 0.2, "keep": 0.5, "expert_scale": 10}
    found = artifacts.deltas(artifacts.dense(made(tmp_path, "free", **values), "A"), BASE)
    assert_near(found["w"], golden, 1e-5)


def test_what_an_expert_of_free_keeps(tmp_path: Path) -> None:
    golden = GOLDENS["free_lm_top_rowwise_density.5"]
    folder = made(tmp_path, "free", keep=0.5, expert_scale=8, **{"lambda": 0})
    for task in "AC":
        assert_near(artifacts.deltas(artifacts.dense(folder, task), BASE)["w"], golden[task])


def test_the_scale_that_free_finds(tmp_path: Path) -> None:
    """With a filter that lets everything pass, as the golden was made."""
    folder = made(tmp_path, "free", keep=0.5, cutoff=0)
    assert scales(folder) == pytest.approx(GOLDENS["free_vit_cal_rescaling_keep.5"]["rescaling"], abs=1e-6)


def test_an_expert_of_free_replaces_what_it_overlaps(tmp_path: Path) -> None:
    """An expert [0, 2, 3] on a backbone [10, 20, 0]: two tasks whose sum is the backbone."""
    own, other = torch.tensor([0.0, 2.0, 3.0]), torch.tensor([10.0, 18.0, -3.0])
    states = {"base": {"w": torch.zeros(3)}, "own": {"w": own}, "other": {"w": other}}
    values = {"keep": 0.67, "expert_scale": 1, "combine": "replace", "as_matrix": False}
    folder = artifacts.make(tmp_path, "free", states, parameters=values)
    assert artifacts.dense(folder, "own")["w"].tolist() == GOLDENS["free_vit_sum_two_overlap_takes_expert"]["out"]


def test_a_task_that_changes_nothing_is_warned_about(tmp_path: Path) -> None:
    from mergec.compiler.materialize import compile_task

    folder = artifacts.make(tmp_path, "emr", {"base": BASE, "still": BASE, "A": MODELS["A"]})
    assert compile_task(folder, "A").warnings == ()
    (warning,) = compile_task(folder, "still").warnings
    assert warning.startswith("warning[W640]: the task 'still' changes nothing")
    assert all(torch.equal(value, BASE[name]) for name, value in artifacts.dense(folder, "still").items())
