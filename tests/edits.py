"""Random edits of one value of a recipe: what the diff names, what differs in two clean builds, what a rebuild does."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from recipes_fixtures import mergec, tensors_of

_AB = [{"model": "a", "parameters": {"weight": 0.4}}, {"model": "b", "parameters": {"weight": [0.7, 0.2]}}]
_FILTERED = [{"filter": "self_attn", "value": 0.8}, {"filter": "mlp", "value": [0.3, 0.6]}, {"value": 0.5}]
_PLAIN = [{"model": name} for name in "abc"]
RECIPES: tuple[dict[str, Any], ...] = (
    {"merge_method": "linear", "models": _AB, "parameters": {"normalize": False}, "dtype": "float32"},
    {"merge_method": "linear", "models": _AB, "parameters": {"normalize": True}},
    {"merge_method": "slerp", "base_model": "a", "models": [{"model": "b"}], "parameters": {"t": _FILTERED}},
    {"merge_method": "task_arithmetic", "base_model": "base", "models": _AB, "parameters": {"lambda": 0.9}},
    {
        "merge_method": "ties",
        "base_model": "base",
        "models": [*_AB, {"model": "c", "parameters": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 0}]}}],
        "parameters": {"density": _FILTERED, "normalize": True},
        "out_dtype": "bfloat16",
    },
    {"merge_method": "ties", "base_model": "base", "models": _AB, "parameters": {"density": 0.6, "scope": "model"}},
    {"merge_method": "dare_ties", "base_model": "base", "models": _AB, "parameters": {"density": 0.5}, "seed": 3},
    {"merge_method": "dare_linear", "base_model": "base", "models": _AB, "parameters": {"density": _FILTERED}},
    {"merge_method": "della", "base_model": "base", "models": _AB, "parameters": {"density": 0.5, "epsilon": 0.2}},
    {"merge_method": "breadcrumbs", "base_model": "base", "models": _AB, "parameters": {"density": 0.8, "gamma": 0.1}},
    {"merge_method": "nuslerp", "models": _AB},
    {"merge_method": "model_stock", "base_model": "base", "models": _PLAIN, "dtype": "float32", "seed": 1},
    {"merge_method": "sce", "base_model": "base", "models": _PLAIN, "parameters": {"select_topk": 0.5}},
    {"merge_method": "passthrough", "models": [{"model": "a", "parameters": {"scale": _FILTERED}}], "name": "scaled"},
    {
        "merge_method": "linear",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 1], **_AB[0]}, {"layer_range": [0, 1], **_AB[1]}]},
            {"sources": [{"layer_range": [1, 2], **_AB[0]}, {"layer_range": [0, 1], **_AB[1]}]},
        ],
        "parameters": {"normalize": False},
    },
    {
        "merge_method": "pipeline",
        "base_model": "base",
        "models": _AB,
        "steps": ["diff", {"trim": {"keep": "largest", "density": 0.5}}, {"elect": "sum"}, {"fuse": "agreeing"}],
    },
)
_WORDS = {
    "dtype": ["float32", "bfloat16", "float64"],
    "out_dtype": ["float32", "bfloat16", "float16"],
    "merge_method": [
        "ties",
        "dare_ties",
        "task_arithmetic",
        "linear",
        "della",
        "breadcrumbs",
        "nuslerp",
        "dare_linear",
    ],
    "filter": ["mlp", "self_attn", "norm", "layers.0.", "nothing", "*"],
    "model": ["a", "b", "c"],
    "base_model": ["base", "c"],
    "scope": ["model", "tensor"],
    "name": ["other"],
    "elect": ["sum", "count"],
    "keep": ["largest", "middle"],
}


class Outcome(NamedTuple):
    """An edit, and the tensors that the diff names, that differ between clean builds, and that a rebuild computes.

    `exact` are those that differ where both are computed and stored in float64.
    """

    what: str
    named: frozenset[str]
    differing: frozenset[str]
    exact: frozenset[str]
    computed: frozenset[str]
    rebuilt_as_built: bool


def outcome(folder: Path, number: int) -> Outcome:
    """What the edit of that number does to models a, b, c and base in a folder, which must be the current one."""
    what, old, new = _edit(number)
    work = folder / f"edit-{number}"
    (folder / "old.yml").write_text(_text(old))
    (folder / "recipe.yml").write_text(_text(old))
    _run("recipe.yml", work / "out")
    old_bytes = tensors_of(work / "out" / "model.safetensors")
    (folder / "recipe.yml").write_text(_text(new))
    _run("recipe.yml", work / "clean")
    new_bytes = tensors_of(work / "clean" / "model.safetensors")
    called = mergec("diff", "--json", "old.yml", "recipe.yml")
    assert called.code in (0, 1), called.err
    named = frozenset(json.loads(called.out)["changed"])
    differing = _differing(old_bytes, new_bytes)
    computed = _computed(_run("recipe.yml", work / "out"), frozenset(new_bytes))
    rebuilt = tensors_of(work / "out" / "model.safetensors") == new_bytes
    exact = _exact(folder, work, old, new) if named - differing else named
    shutil.rmtree(work)
    return Outcome(what, named, differing, exact, computed, rebuilt)


def _text(recipe: dict[str, Any]) -> str:
    return json.dumps(recipe, indent=1)


def _run(recipe: str, out: Path) -> list[dict[str, Any]]:
    called = mergec("run", recipe, out, "--json", "--workers", 1)
    assert called.code == 0, called.err
    return [json.loads(line) for line in called.out.splitlines()]


def _differing(old: dict[str, bytes], new: dict[str, bytes]) -> frozenset[str]:
    return frozenset(name for name in old.keys() & new.keys() if old[name] != new[name])


def _computed(events: list[dict[str, Any]], every: frozenset[str]) -> frozenset[str]:
    """What a run computed, as it says; one that says nothing found nothing to do."""
    decisions = [event for event in events if event["event"] == "decision"]
    if not decisions:
        done = events[-1]
        return frozenset() if done["is_current"] else every
    return frozenset(name for names in decisions[0]["computed"].values() for name in names)


def _exact(folder: Path, work: Path, old: dict[str, Any], new: dict[str, Any]) -> frozenset[str]:
    made = []
    for name, recipe in (("o", old), ("n", new)):
        wide = {key: value for key, value in recipe.items() if key not in ("dtype", "out_dtype", "compute_dtype")}
        (folder / "wide.yml").write_text(_text({**wide, "dtype": "float64"}))
        _run("wide.yml", work / name)
        made.append(tensors_of(work / name / "model.safetensors"))
    return _differing(*made)


def _edit(number: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The first edit of a seed that leaves a recipe which compiles."""
    source = random.Random(f"edit {number}")
    for _ in range(100):
        old = json.loads(json.dumps(RECIPES[number % len(RECIPES)]))
        path, value = source.choice([*_leaves(old, ())])
        other = _other(source, str(next(part for part in reversed(path) if isinstance(part, str))), value)
        if other == value:
            continue
        new = json.loads(json.dumps(old))
        holder = new
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = other
        Path("draft.yml").write_text(_text(new))
        if mergec("check", "draft.yml").code == 0:
            return f"{old['merge_method']} {'.'.join(map(str, path))}: {value} -> {other}", old, new
    raise AssertionError(f"no edit {number} compiles")


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
    else:
        for key, inner in items:
            yield from _leaves(inner, (*path, key))


def _other(source: random.Random, name: str, value: Any) -> Any:
    """Another value for a leaf: a word of the same sort, or a number that is near, far, or at an end."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return source.choice(_WORDS.get(name, [value]))
    if isinstance(value, int) and name in ("seed", "layer_range"):
        return value + 1
    return source.choice([0, 1, value + 1e-9, value + 1e-4, round(value * 0.9, 6), round(source.random(), 3)])
