"""A recipe run by mergekit, and what `mergec import` makes of it run by mergec: equal numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from differential import assert_same, tolerance
from models import Family, tensors_of

import mergec
from mergec.recipe.peer.convert import import_text

pytest.importorskip("mergekit")

RECIPES = {
    "misspelt and misplaced": """
merge_method: task_arithmetic
base_model: BASE
models:
  - model: BASE
    parameters: {weight: 9}
  - {model: A, parameters: {weight: 0.7, normalize: true, wieght: 3}}
  - {model: {model: {path: B}}, parameters: {weight: -0.2}}
parameters: {density: 0.1, rescale: yes, lambda: [], int8_mask: true, gamma: 3}
paramters: {lambda: 3}
""",
    "keys that stand twice, words of YAML 1.1": """
merge_method: ties
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.1, weight: 0.6}}
  - {model: B, parameters: {weight: 1}}
parameters: {normalize: off}
dtype: float16
dtype: bfloat16
""",
    "slices, a setting in each place": """
merge_method: linear
slices:
  - sources:
      - {model: A, layer_range: [0, 2], parameters: {weight: [{filter: mlp, value: 0.2, why: x}, {value: 1.0}]}}
      - {model: B, layer_range: [1, 3], normalize: false}
    residual_weight: 0.5
    parameters: {weight: 0.5}
  - sources: [{model: B, layer_range: [02, 3]}, {model: C, layer_range: [1, 2]}]
models: []
parameters: {weight: [0.3, 0.9]}
seeed: 3
""",
    "a filter list and a method without arithmetic": """
merge_method: passthrough
models: [{model: A}]
parameters: {scale: [{filter: down_proj, value: "5e-1"}]}
name: ignored
""",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", RECIPES)
def test_an_imported_recipe_gives_the_peers_numbers(
    case: str, dtype: torch.dtype, family: Callable[..., Family], tmp_path: Path
) -> None:
    import yaml
    from mergekit import config, merge, options

    made = family("llama", dtype)
    text = RECIPES[case]
    for label in ("base", "a", "b", "c"):
        text = text.replace(f": {label.upper()}", f": {getattr(made, label)}")
    recipe = yaml.safe_load(text)
    merge.run_merge(
        config.MergeConfiguration.model_validate(recipe),
        str(tmp_path / "peer"),
        options.MergeOptions(write_model_card=False, copy_tokenizer=False, quiet=True),
    )
    (tmp_path / "imported.yml").write_text(import_text(text, "r.yml").text)
    mergec.compile(tmp_path / "imported.yml", workers=1).run(tmp_path / "ours")
    unit = tolerance({**recipe, "models": [{"parameters": {}}]})
    assert_same(tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "peer"), {}, unit)
