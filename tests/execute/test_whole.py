"""Merges of whole matrices: the same bytes for any number of workers and threads, in files and in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from checkpoints import write_recipe
from safetensors.torch import load_file, save_file

import mergec

SHAPES = {"a": (96, 130), "b": (130, 96), "c": (64, 64), "d": (130,)}
METHODS: dict[str, dict[str, Any]] = {
    "fr": {"filter": "reference", "cutoff": 0.3},
    "tsv": {},
    "iso_c": {"rank_ratio": 0.5},
    "iso_cts": {},
    "wudi": {"iterations": 20},
    "opcm": {},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("whole models")
    families = {name: harness.family(shape, torch.bfloat16, noise=0.5) for name, shape in SHAPES.items()}
    for number in range(4):
        (folder / str(number)).mkdir()
        save_file({k: v[number] for k, v in families.items()}, folder / str(number) / "model.safetensors")
    return [folder / str(number) for number in range(4)]


@pytest.mark.parametrize("method", METHODS)
def test_bytes_are_equal_for_any_workers_tiles_and_threads(method: str, models: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, method, models[1:], parameters=METHODS[method], base_model=models[0])
    found = []
    for workers, tile, threads in ((1, 1 << 18, 1), (2, 1 << 12, 2)):
        plan = mergec.compile(recipe, workers=workers)
        plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=tile))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            plan.run(tmp_path / f"out {workers}", device="cpu")
        finally:
            torch.set_num_threads(before)
        found.append((tmp_path / f"out {workers}" / "model.safetensors").read_bytes())
    assert found[0] == found[1]
    base, *others = (load_file(model / "model.safetensors") for model in models)
    merged = mergec.merge(method, others, base=base, parameters=METHODS[method])
    for name, value in load_file(tmp_path / "out 1" / "model.safetensors").items():
        assert torch.equal(value, merged[name])
        assert not torch.equal(value, base[name])
