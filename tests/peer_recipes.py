"""Recipes of tiny models in a few words, and what both tools made of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from differential import Recipe, assert_same, tolerance
from safetensors.torch import save_file
from torch import Tensor


class Results(NamedTuple):
    """The tensors that both made, and the folder of ours."""

    ours: dict[str, Tensor]
    peer: dict[str, Tensor]
    folder: Path

    def same(self, recipe: Recipe, allowed: Mapping[str, Tensor] | None = None) -> None:
        assert_same(self.ours, self.peer, allowed or {}, tolerance({**recipe, "models": [recipe]}))
        assert facts(self.folder) == facts(self.folder.parent / "peer")


def facts(folder: Path) -> Mapping[str, Any]:
    """What of a config has to agree with the weights."""
    config = json.loads((folder / "config.json").read_text())
    return {key: config.get(key) for key in ("num_hidden_layers", "n_layer", "vocab_size", "architectures")}


Run = Callable[[Recipe], Results]


def model(folder: Path, **parameters: Any) -> Recipe:
    return {"model": str(folder), "parameters": parameters}


def source(folder: Path, first: int, end: int, **parameters: Any) -> Recipe:
    return {**model(folder, **parameters), "layer_range": [first, end]}


def merge(method: str, *models: Recipe, base: Path | None = None, **top: Any) -> Recipe:
    given = {"base_model": str(base)} if base else {}
    return {"merge_method": method, "models": list(models), **given, **top}


def stack(method: str, *slices: list[Recipe] | Recipe, base: Path | None = None, **top: Any) -> Recipe:
    listed = [one if isinstance(one, dict) else {"sources": one} for one in slices]
    given = {"base_model": str(base)} if base else {}
    return {"merge_method": method, "slices": listed, **given, **top}


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert {name for name, tensor in found.items() if not torch.equal(tensor, expected[name])} == set()


def save_model(like: Path, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """A model folder with the config of another."""
    folder.mkdir()
    (folder / "config.json").write_text((like / "config.json").read_text())
    save_file({name: one.clone() for name, one in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
