"""Models with adapters, by mergekit (which lets PEFT write the whole model first) and by mergec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import write_adapter
from differential import assert_same, run_ours, run_peer, tolerance
from models import Family, tensors_of

pytest.importorskip("mergekit")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["passthrough", "task_arithmetic"])
def test_the_same_numbers(method: str, dtype: torch.dtype, family: Callable[..., Family], tmp_path: Path) -> None:
    base = family("llama", dtype).base
    write_adapter(base, tmp_path / "a", r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    model = {"model": f"{base}+{tmp_path}/a"}
    recipe = {"merge_method": method, "models": [model]}
    if method == "task_arithmetic":
        recipe = {**recipe, "base_model": str(base), "models": [{**model, "parameters": {"weight": 0.5}}]}
    run_peer(recipe, tmp_path / "peer")
    run_ours(recipe, tmp_path / "ours")
    near = tolerance({**recipe, "merge_method": "task_arithmetic"})
    ours, peer = tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "peer")
    assert_same(ours, peer, {}, near)
    assert not torch.equal(
        ours["model.layers.0.mlp.up_proj.weight"], tensors_of(base)["model.layers.0.mlp.up_proj.weight"]
    )
