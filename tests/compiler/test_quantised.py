"""float8 models as inputs: the weights they stand for, with scales for all, for rows, or for blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import write_adapter
from checkpoints import config, merged, write_recipe
from conftest import write_checkpoint
from models import Family, tensors_of

import mergec
from mergec.errors import RecipeError

NAME = "model.layers.0.mlp.up_proj.weight"
ROWS, COLUMNS = 70, 52


def coded(dtype: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.randn(ROWS, COLUMNS) * 8).to(dtype)


def run(folder: Path, tensors: Mapping[str, torch.Tensor], scheme: Any = None, **options: Any) -> torch.Tensor:
    """What a passthrough makes of a model with these tensors, in float32."""
    described = {"torch_dtype": "bfloat16", **({"quantization_config": scheme} if scheme else {})}
    write_checkpoint(folder / "m", {"norm.weight": torch.ones(3), **tensors}, described, **options)
    merged(write_recipe(folder, "passthrough", ["m"], out_dtype="float32"), folder / "out")
    found = tensors_of(folder / "out")
    assert found.keys() == {"norm.weight", NAME}
    return found[NAME]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_without_a_scale_it_is_the_number_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    assert torch.equal(run(tmp_path, {NAME: coded(dtype)}), coded(dtype).float())


@pytest.mark.parametrize(
    ("shape", "name", "scheme"),
    [
        ((), "weight_scale", {"quant_method": "compressed-tensors"}),
        ((1,), "weight_scale_inv", {"quant_method": "fp8"}),
        ((ROWS, 1), "weight_scale", {"quant_method": "compressed-tensors"}),
        ((ROWS,), "weight_scale", {"quant_method": "compressed-tensors"}),
        ((5, 4), "weight_scale_inv", {"quant_method": "fp8", "weight_block_size": [16, 16]}),
        (
            (3, 6),
            "weight_scale",
            {"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": {"block_structure": [24, 10]}}}},
        ),
    ],
)
@pytest.mark.parametrize("shards", [1, 2])  # the scale in another file than the weight
def test_a_weight_is_the_code_times_the_scale_of_its_block(
    shape: tuple[int, ...], name: str, scheme: Any, shards: int, tmp_path: Path
) -> None:
    scale = torch.rand(shape) + 0.1
    block = {(5, 4): (16, 16), (3, 6): (24, 10)}.get(shape, (1 if ROWS in shape else ROWS, COLUMNS))
    grid = scale.reshape(shape if len(shape) == 2 else (-1, 1))
    wide = grid.double().repeat_interleave(block[0], 0)[:ROWS].repeat_interleave(block[1], 1)[:, :COLUMNS]
    tensors = {NAME: coded(), NAME.replace("weight", "input_scale"): torch.ones(1), NAME.replace("weight", name): scale}
    found = run(tmp_path, tensors, scheme, shards=shards)
    assert torch.equal(found, (coded().double() * wide).float())
    assert "quantization_config" not in config(tmp_path / "out")
    notes = mergec.compile(tmp_path / "recipe.yml").notes
    assert "m: float8 is read as the bfloat16 weights it stands for, in 1 tensor" in notes
    assert any(
        note.startswith("m: scales are not in the result: model.layers.0.mlp.up_proj.input_scale") for note in notes
    )


def test_the_result_is_stored_in_the_dtype_of_the_config(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", {NAME: coded()}, {"torch_dtype": "float16"})
    merged(write_recipe(tmp_path, "passthrough", ["m"]), tmp_path / "out")
    assert tensors_of(tmp_path / "out")[NAME].dtype == torch.float16
    assert config(tmp_path / "out")["torch_dtype"] == "float16"


def test_bytes_do_not_depend_on_the_tiles_and_scales_are_in_the_keys(tmp_path: Path) -> None:
    import dataclasses

    scheme = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    expected = run(tmp_path, {NAME: coded(), f"{NAME}_scale_inv": torch.rand(5, 4)}, scheme)
    plan = mergec.compile(tmp_path / "recipe.yml")
    dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=1)).run(tmp_path / "again", device="cpu")
    assert torch.equal(tensors_of(tmp_path / "again")[NAME], expected)
    output = next(output for output in plan.outputs if output.name == NAME)
    assert [ref.name for ref in output.sources] == [NAME, f"{NAME}_scale_inv"]


def test_an_adapter_is_added_to_the_weights_that_are_meant(family: Any, tmp_path: Path) -> None:
    made: Family = family("llama")
    plain = tensors_of(made.base)
    name = "model.layers.1.self_attn.q_proj.weight"
    code, scale = (plain[name] * 100).to(torch.float8_e4m3fn), torch.tensor(0.01)
    settings = json.loads((made.base / "config.json").read_text())
    scheme = {"quantization_config": {"quant_method": "fp8"}}
    write_checkpoint(tmp_path / "q", {**plain, name: code, f"{name}_scale": scale}, {**settings, **scheme})
    expected = write_adapter(made.base, tmp_path / "a", r=4)[name] - plain[name] + code.float() * scale
    merged(write_recipe(tmp_path, "passthrough", ["q+a"], out_dtype="float32"), tmp_path / "out")
    assert float((tensors_of(tmp_path / "out")[name] - expected).abs().max()) < 2e-6


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "hqq"])
def test_other_schemes_are_refused_by_name(method: str, tmp_path: Path) -> None:
    scheme = {"quantization_config": {"quant_method": method}}
    write_checkpoint(tmp_path / "m", {"w": torch.zeros(3, 2, dtype=torch.uint8)}, scheme)
    with pytest.raises(RecipeError, match=rf"error\[E330\]: 'm' is quantised \({method}\): w is uint8"):
        mergec.compile(write_recipe(tmp_path, "passthrough", ["m"]))


def test_a_scale_per_column_is_not_taken_for_one_per_row(tmp_path: Path) -> None:
    square = coded()[:COLUMNS]
    scheme = {"quantization_config": {"quant_method": "fp8"}}
    write_checkpoint(tmp_path / "m", {NAME: square, f"{NAME}_scale": torch.ones(1, COLUMNS)}, scheme)
    with pytest.raises(RecipeError, match="E345"):
        mergec.compile(write_recipe(tmp_path, "passthrough", ["m"]))
