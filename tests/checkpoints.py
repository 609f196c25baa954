"""Merges of tiny checkpoints for tests: recipes as values, folders as bytes, headers written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

import mergec
from mergec.io.lockfile import LOCK_NAME


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
