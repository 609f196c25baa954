"""Merges of tiny checkpoints for tests: recipes as values, folders as bytes, headers written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import mergec
from mergec.io.lockfile import LOCK_NAME
from mergec.ops.registry import methods

NEEDED = {"t": 0.3, "weight": 0.5, "density": 0.5, "gamma": 0.1, "epsilon": 0.1, "select_topk": 0.5}


def write_recipe(folder: Path, method: str, models: Sequence[Any], **rest: Any) -> Path:
    """A recipe file in a folder; models are references, or entries with parameters. JSON is YAML."""
    entries = [one if isinstance(one, dict) else {"model": str(one)} for one in models]
    rest = {key: str(value) if isinstance(value, Path) else value for key, value in rest.items()}
    path = folder / "recipe.yml"
    path.write_text(json.dumps({"merge_method": method, "models": entries, **rest}, indent=1))
    return path


def linear(folder: Path, *models: Any, **rest: Any) -> Path:
    """A recipe for the plain mean of models."""
    return write_recipe(folder, "linear", models, **{"parameters": {"weight": 1.0}, **rest})


def dare(folder: Path, base: Path, *models: Any, **rest: Any) -> Path:
    """A recipe with everything that could go wrong about order: deltas, random trims, an election."""
    parameters = {"weight": 0.5, "density": 0.5}
    return write_recipe(folder, "dare_ties", models, base_model=base, parameters=parameters, seed=7, **rest)


def any_method(folder: Path, name: str, models: Path, **parameters: Any) -> Path:
    """A recipe of a method in a folder, over models base, a, b and c in another, with what it needs said."""
    method = methods()[name]
    needed = {key: value for key, value in (NEEDED | parameters).items() if key in method.parameters}
    base = {} if method.base == "input" else {"base_model": models / "base"}
    return write_recipe(folder, name, [models / one for one in "abc"[: method.models[1]]], parameters=needed, **base)


def write_one_tensor(folder: Path, shape: tuple[int, int]) -> None:
    """Models base, a, b and c of one tensor each, `w`, of which some entries are those of the base."""
    for number, model in enumerate(("base", "a", "b", "c")):
        base = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
        change = torch.randn(shape, generator=torch.Generator().manual_seed(number)) * 0.002 * bool(number)
        change[change.abs() < 0.0005] = 0
        (folder / model).mkdir()
        save_file({"w": (base + change).to(torch.bfloat16)}, folder / model / "model.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative name, but for the lock, which names its place."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def merged(recipe: Path, out: Path, **options: Any) -> dict[str, bytes]:
    """Compile and run a recipe; the bytes of what it made."""
    mergec.compile(recipe, **options).run(out, device="cpu")
    return contents(out)


def dtypes(folder: Path) -> dict[str, str]:
    """The safetensors library's word for the dtype of every tensor of a model folder."""
    found: dict[str, str] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    return found


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def raw_file(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
