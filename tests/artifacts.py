"""Small artifacts on disk for tests: from tensors and a method to the folder, and from a folder to a task's tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from conftest import write_checkpoint
from torch import Tensor

import mergec

SHAPES: dict[str, tuple[int, ...]] = {
    "model.layers.0.mlp.up.weight": (12, 7),
    "model.layers.0.mlp.down.weight": (7, 12),
    "model.layers.0.norm.weight": (7,),
    "model.layers.1.mlp.up.weight": (12, 7),
    "model.layers.1.mlp.down.weight": (7, 12),
    "model.layers.1.norm.weight": (7,),
    "scalar": (),
    "cube": (2, 3, 5),
}
TASKS = ("a", "b", "c")


def states(dtype: torch.dtype = torch.float32, noise: float = 0.1) -> dict[str, dict[str, Tensor]]:
    """A base and three fine-tunes, by label, of a few tensors each."""
    families = {
        name: harness.family(shape, dtype, seed=n, noise=noise) for n, (name, shape) in enumerate(SHAPES.items())
    }
    return {
        label: {name: family[number].clone() for name, family in families.items()}
        for number, label in enumerate(("base", *TASKS))
    }


def write_recipe(folder: Path, method: str, tensors: Mapping[str, Mapping[str, Tensor]], **rest: Any) -> Path:
    """Models as folders, and the recipe that makes an artifact of them; `own` has parameters of single models."""
    for label, state in tensors.items():
        write_checkpoint(folder / label, state)
    own = rest.pop("own", {})
    models = [{"model": one, **({"parameters": own[one]} if one in own else {})} for one in tensors if one != "base"]
    recipe = folder / "artifact.yml"
    recipe.write_text(json.dumps({"merge_method": method, "base_model": "base", "models": models, **rest}))
    return recipe


def make(folder: Path, method: str, tensors: Mapping[str, Mapping[str, Tensor]], **rest: Any) -> Path:
    """The folder of an artifact made of state dicts."""
    mergec.compile(write_recipe(folder, method, tensors, **rest)).run(folder / "artifact", device="cpu")
    return folder / "artifact"


def dense(folder: Path, task: str) -> dict[str, Tensor]:
    """All tensors of one task."""
    return dict(mergec.load_artifact(folder).for_task(task))


def deltas(found: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: found[name] - base[name] for name in base}


def arrays(tensors: Sequence[Tensor]) -> list[Any]:
    return [one.double().numpy() for one in tensors]
