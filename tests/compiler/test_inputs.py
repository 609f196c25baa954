"""Inputs that are not all alike: dtypes that differ, folders of diffusers, weights without a config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints import linear, merged
from conftest import write_checkpoint
from models import tensors_of
from safetensors.torch import save_file

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize(
    ("mixed", "stored"),
    [
        (DTYPES, torch.float64),
        (DTYPES[:3], torch.float32),
        (DTYPES[1:3], torch.float32),
        ([torch.bfloat16, torch.bfloat16], torch.bfloat16),
    ],
)
def test_dtypes_may_be_mixed(mixed: list[torch.dtype], stored: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(7, 5, dtype=torch.float64).to(dtype) for dtype in mixed]
    folders = [
        write_checkpoint(tmp_path / str(number), {"w": tensor, "x.bias": tensor[0].clone()})
        for number, tensor in enumerate(tensors)
    ]
    merged(linear(tmp_path, *folders), tmp_path / "out")
    exact = torch.stack([tensor.double() for tensor in tensors]).mean(0)
    found = tensors_of(tmp_path / "out")["w"]
    assert found.dtype == stored
    assert float((found.double() - exact).abs().max()) <= torch.finfo(stored).eps * 3


def test_one_tensor_in_another_dtype_does_not_change_the_others(tmp_path: Path) -> None:
    one = {"a": torch.ones(3, dtype=torch.bfloat16), "norm": torch.ones(3, dtype=torch.float32)}
    folders = [write_checkpoint(tmp_path / name, one) for name in "ab"]
    merged(linear(tmp_path, *folders), tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    assert (found["a"].dtype, found["norm"].dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_component_of_a_diffusers_pipeline_keeps_its_file_names(shards: int, tmp_path: Path) -> None:
    stem = "diffusion_pytorch_model"
    folders = []
    for number in range(2):
        tensors = {name: torch.full((4, 4), float(number)) for name in ("conv.weight", "up.0.weight", "up.1.weight")}
        folder = write_checkpoint(tmp_path / f"unet{number}", tensors, {"_class_name": "UNet2DConditionModel"}, shards)
        for file in list(folder.glob("model*")):
            text = file.read_bytes()
            if file.suffix == ".json":
                text = text.replace(b"model-0", b"diffusion_pytorch_model-0")
            file.with_name(file.name.replace("model", stem, 1)).write_bytes(text)
            file.unlink()
        folders.append(folder)
    found = merged(linear(tmp_path, *folders), tmp_path / "out", shard_bytes=100 if shards == 2 else 10**9)
    assert all(name.startswith(stem) for name in found if "safetensors" in name)
    assert json.loads(found["config.json"])["_class_name"] == "UNet2DConditionModel"
    if shards == 2:
        assert set(json.loads(found[f"{stem}.safetensors.index.json"])["weight_map"]) == {
            "conv.weight",
            "up.0.weight",
            "up.1.weight",
        }
    again = merged(linear(tmp_path, tmp_path / "out"), tmp_path / "again")
    assert f"{stem}.safetensors" in again
    assert float(tensors_of(tmp_path / "again")["conv.weight"].mean()) == 0.5


def test_a_state_dict_without_a_config_is_a_model(tmp_path: Path) -> None:
    for name in "ab":
        save_file({"block.0.w": torch.ones(2), "block.1.w": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    found = merged(linear(tmp_path, "a.safetensors", "b.safetensors"), tmp_path / "out")
    assert "config.json" not in found
    assert tensors_of(tmp_path / "out")["block.0.w"].tolist() == [1, 1]
