"""An artifact in Python: lazy tensors, and the router beside its formula in numpy."""

from __future__ import annotations

import json
from pathlib import Path

import artifacts
import harness
import numpy as np
import pytest
import torch
from recipes_fixtures import mergec as command
from safetensors.torch import load_file

import mergec
from mergec.errors import UsageError
from mergec.graph import Graph
from mergec.ops.parts import gate

STATES = artifacts.states()
UP = "model.layers.1.mlp.up.weight"


def vectors(task: str, tensor: str, rank: int) -> np.ndarray:
    delta = (STATES[task][tensor] - STATES["base"][tensor]).double().numpy()
    return np.linalg.svd(delta, full_matrices=False)[2][:rank]


@pytest.mark.parametrize("tensor", [UP, "model.layers.0.mlp.down.weight"])
def test_scores_are_lengths_in_the_subspace_a_task_listens_to(tensor: str, tmp_path: Path) -> None:
    router = mergec.load_artifact(artifacts.make(tmp_path, "emr", STATES, router={"rank": 2})).router
    hidden = torch.randn(4, 5, STATES["base"][tensor].shape[1], generator=torch.Generator().manual_seed(1))
    found = router.scores(hidden, tensor)
    expected = [np.linalg.norm(hidden.double().numpy() @ vectors(task, tensor, 2).T, axis=-1) for task in "abc"]
    torch.testing.assert_close(found.double(), torch.from_numpy(np.stack(expected, -1)), rtol=0, atol=1e-5)
    assert torch.equal(router.weights(hidden, tensor).argmax(-1), found.argmax(-1))
    assert router.scores(hidden).shape == found.shape


@pytest.mark.parametrize(("rule", "kept"), [("softmax", 3), ("argmax", 1), ("top-k", 2)])
def test_weights_follow_the_rule_and_add_up_to_one(rule: str, kept: int, tmp_path: Path) -> None:
    router = mergec.load_artifact(artifacts.make(tmp_path, "twin", STATES, router={"rule": rule, "top_k": 2})).router
    hidden = torch.randn(6, 7, generator=torch.Generator().manual_seed(2))
    weights, shares = router.weights(hidden, UP), router.scores(hidden, UP).softmax(-1)
    assert ((weights > 0).sum(-1) == kept).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(6))
    kept_shares = torch.where(weights > 0, shares, 0)
    torch.testing.assert_close(weights, kept_shares / kept_shares.sum(-1, keepdim=True))


def test_only_matrices_of_layers_have_gates(tmp_path: Path) -> None:
    router = mergec.load_artifact(artifacts.make(tmp_path, "tall_mask", STATES)).router
    assert set(router.tensors) == {name for name in STATES["base"] if ".mlp." in name}
    assert router.tasks == ("a", "b", "c")
    with pytest.raises(UsageError, match=r"E645.*no gate for any matrix with 9 inputs"):
        router.scores(torch.zeros(9))


def test_a_gate_of_a_task_without_change_scores_zero(tmp_path: Path) -> None:
    states = {**STATES, "b": STATES["base"]}
    router = mergec.load_artifact(artifacts.make(tmp_path, "emr", states)).router
    assert router.scores(torch.ones(7), UP)[1] == 0


def test_the_gate_of_the_reference() -> None:
    delta = torch.tensor([[0.5, -0.25, 0.125], [1.0, -0.0625, 0.0]])
    goldens = json.loads((Path(__file__).parent / "goldens.json").read_text())
    found = harness.run(gate(harness.loads(Graph(), [delta], "delta")[0], rank=1), [delta])
    torch.testing.assert_close(
        found.abs()[0], torch.tensor(goldens["smile_gate_row_A_k1_abs"]["abs_v1"]), rtol=0, atol=1e-6
    )


def test_a_router_of_ones_own_is_copied_and_none_has_no_gates(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"anything")
    folder = artifacts.make(tmp_path, "emr", STATES, router={"scores": "none", "file": "mine.pt"})
    router = mergec.load_artifact(folder).router
    assert (router.tensors, router.file) == ((), folder / "router" / "mine.pt")
    assert router.file.read_bytes() == b"anything"
    assert not any(name.endswith(".gate") for name in load_file(folder / "experts" / "a.safetensors"))


@pytest.mark.parametrize(
    ("method", "router", "text"),
    [
        (
            "ties",
            {},
            "E643]: ties makes one dense model, which needs no router; hint: remove it; artifacts are ",
        ),
        ("emr", {"file": "mine.pt"}, "E644]: no file 'mine.pt' beside the recipe; hint: paths count from the recipe"),
        ("emr", {"rule": "best"}, "E104]"),
        ("emr", {"rank": 0}, "E103]"),
    ],
)
def test_routers_that_cannot_be_meant(method: str, router: dict[str, object], text: str, tmp_path: Path) -> None:
    parameters = {"parameters": {"weight": 0.5}} if method == "ties" else {}
    recipe = artifacts.write_recipe(tmp_path, method, STATES, router=router, **parameters)
    called = command("check", recipe)
    assert called.code == 2
    assert called.err.startswith(f"{recipe}:1:")
    assert f"error[{text}" in called.err
