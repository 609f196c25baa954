"""Packed experts beside single ones: the same merge as with single ones everywhere, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import linear, merged, write_recipe
from conftest import write_checkpoint

import mergec
from mergec.errors import RecipeError

EXPERTS, ROWS, COLUMNS = 3, 6, 4
STYLES = {
    "qwen": ("model.layers.0.mlp", ("gate_proj", "up_proj", "down_proj")),
    "mixtral": ("model.layers.0.block_sparse_moe", ("w1", "w3", "w2")),
}


def single(style: str, seed: int) -> dict[str, torch.Tensor]:
    stack, (gate, up, down) = STYLES[style]
    torch.manual_seed(seed)
    tensors = {f"{stack}.gate.weight": torch.randn(EXPERTS, COLUMNS)}
    for number in range(EXPERTS):
        tensors[f"{stack}.experts.{number}.{gate}.weight"] = torch.randn(ROWS, COLUMNS)
        tensors[f"{stack}.experts.{number}.{up}.weight"] = torch.randn(ROWS, COLUMNS)
        tensors[f"{stack}.experts.{number}.{down}.weight"] = torch.randn(COLUMNS, ROWS)
    return tensors


def packed(style: str, seed: int) -> dict[str, torch.Tensor]:
    """The same as transformers holds it in memory."""
    tensors = single(style, seed)
    stack, words = STYLES[style]
    gate, up, down = ([tensors[f"{stack}.experts.{n}.{word}.weight"] for n in range(EXPERTS)] for word in words)
    return {
        "model.layers.0.mlp.gate.weight": tensors[f"{stack}.gate.weight"],
        "model.layers.0.mlp.experts.gate_up_proj": torch.stack(
            [torch.cat(pair) for pair in zip(gate, up, strict=True)]
        ),
        "model.layers.0.mlp.experts.down_proj": torch.stack(down),
    }


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("first", ["packed", "single"])
def test_packed_experts_are_taken_apart(style: str, first: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_checkpoint(tmp_path / f"single{seed}", single(style, seed))
        write_checkpoint(tmp_path / f"packed{seed}", packed(style, seed))
    expected = merged(linear(tmp_path, "single1", "single2"), tmp_path / "expected")
    names = ["packed1", "single2"] if first == "packed" else ["single1", "packed2"]
    found = merged(linear(tmp_path, *names), tmp_path / "found")
    assert found["model.safetensors"] == expected["model.safetensors"]
    notes = mergec.compile(tmp_path / "recipe.yml").notes
    assert any(
        note.startswith(f"packed{names.index(next(n for n in names if 'packed' in n)) + 1}: packed experts")
        for note in notes
    )


def test_a_method_sees_an_expert_at_a_time(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_checkpoint(tmp_path / f"single{seed}", single("qwen", seed))
    write_checkpoint(tmp_path / "packed2", packed("qwen", 2))
    settings = {"base_model": "single1", "parameters": {"weight": 1, "density": 0.3}}
    expected = merged(write_recipe(tmp_path, "ties", ["single2"], **settings), tmp_path / "expected")
    found = merged(write_recipe(tmp_path, "ties", ["packed2"], **settings), tmp_path / "found")
    assert found["model.safetensors"] == expected["model.safetensors"]


def test_models_that_are_all_packed_stay_so(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_checkpoint(tmp_path / str(seed), packed("qwen", seed))
    plan = mergec.compile(linear(tmp_path, "1", "2"))
    assert {output.name for output in plan.outputs} == set(packed("qwen", 1))


@pytest.mark.parametrize("name", ["gate_up_proj", "down_proj"])
def test_packed_the_other_way_round_is_refused(name: str, tmp_path: Path) -> None:
    tensors = packed("qwen", 1)
    key = f"model.layers.0.mlp.experts.{name}"
    write_checkpoint(tmp_path / "a", single("qwen", 0))
    write_checkpoint(tmp_path / "b", {**tensors, key: tensors[key].transpose(1, 2).contiguous()})
    with pytest.raises(RecipeError, match=rf"E347\]: 'b' has packed experts in {key}.*expected \[experts, "):
        mergec.compile(linear(tmp_path, "a", "b"))
