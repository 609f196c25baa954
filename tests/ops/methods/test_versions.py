"""Versions: a method whose results move has to say so, since keys and locks trust its version.

A few numbers of each method's results are stored with its version. They are compared with a tolerance that holds
between machines; where they moved, only another version lets `--update-golden` write new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
import torch

import mergec
from mergec.ops.registry import Method, Parameter, methods

STORE = Path(__file__).parents[2] / "golden" / "methods.json"
OWN = sorted(name for name, one in methods().items() if one.build.__module__.startswith("mergec.ops.methods."))
NEEDED = {"weight": 0.4, "density": 0.5, "t": 0.37, "select_topk": 0.5}
SHAPES = {"matrix": (12, 17), "vector": (33,)}


def options(method: Method) -> Iterator[dict[str, Any]]:
    """The usual settings, and with each of them every other word or truth that a parameter may have."""
    usual = {name: value for name, value in NEEDED.items() if name in method.parameters}
    yield usual
    for one in method.parameters.values():
        for value in words(one):
            if value != one.default:
                yield {**usual, one.name: value}


def words(one: Parameter) -> list[Any]:
    schemas = one.schema.get("anyOf", [one.schema])
    found = [
        value for schema in schemas for value in schema.get("enum", [schema["const"]] if "const" in schema else [])
    ]
    return found + [True, False] * any(schema.get("type") == "boolean" for schema in schemas)


def probe(name: str) -> dict[str, list[float]]:
    """Six entries and two sums of everything that a method makes of small tensors, by settings."""
    method = methods()[name]
    count = 3 if method.models[1] is None else method.models[1]
    states: list[dict[str, torch.Tensor]] = [{} for _ in range(count + 1)]
    for number, (label, shape) in enumerate(SHAPES.items()):
        for state, tensor in zip(states, harness.family(shape, seed=number, noise=0.3), strict=False):
            state[label] = tensor
    base = states[0] if method.base != "input" else None
    found = {}
    for values in options(method):
        made = mergec.merge(name, states[1:], base=base, parameters=values, seed=5)
        numbers: list[float] = []
        for label in sorted(made):
            flat = made[label].double().flatten()
            if flat.numel():
                picked = flat[torch.linspace(0, flat.numel() - 1, 6).long()]
                numbers += [*picked.tolist(), float(flat.sum()), float(flat.abs().sum())]
        found[json.dumps(values, sort_keys=True)] = [round(value, 7) for value in numbers]
    return found


@pytest.mark.parametrize("name", OWN)
def test_results_move_only_with_the_version(name: str, request: pytest.FixtureRequest) -> None:
    stored: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}
    known, version, found = stored.get(name), methods()[name].version, probe(name)
    may_write = request.config.getoption("--update-golden")
    if known is not None and known["version"] == version:
        moved = [key for key, numbers in known["results"].items() if not close(found.get(key), numbers)]
        assert moved == [], f"results of {name} moved: raise its version, then --update-golden"
        new = found.keys() - known["results"].keys()
        if new and may_write:
            write({**stored, name: {"version": version, "results": {**known["results"], **found}}})
        assert not new or may_write, f"{name} has options that are not stored yet: --update-golden"
        return
    assert may_write, f"{name} has version {version}, of which nothing is stored yet: --update-golden"
    write({**stored, name: {"version": version, "results": found}})


def close(found: list[float] | None, stored: list[float]) -> bool:
    return found is not None and found == pytest.approx(stored, rel=2e-4, abs=2e-5)


def write(stored: dict[str, Any]) -> None:
    STORE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
