"""A second run into an output: it computes what changed, takes over the rest, and ends in the bytes of a clean run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import contents
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_fixtures import SHAPES, write_family, write_model

import mergec
from mergec.execute.reuse import Decision
from mergec.execute.run import Result, run
from mergec.io.lockfile import LOCK_NAME, read_lock
from mergec.io.staging import staging_folder

MLP = {name for name in SHAPES if "mlp" in name}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_family(tmp_path)


def recipe(folder: Path, method: str = "ties", **changes: Any) -> Path:
    """A recipe whose settings differ between mlp and the rest."""
    weight = [{"filter": "mlp", "value": changes.pop("mlp", 0.5)}, {"value": changes.pop("rest", 0.4)}]
    models = [{"model": name, "parameters": {"weight": weight, **changes.pop(name, {})}} for name in ("a", "b")]
    written = {"merge_method": method, "base_model": "base", "models": models, "seed": changes.pop("seed", 1)}
    path = folder / "recipe.yml"
    path.write_text(json.dumps(written | {"parameters": {"density": changes.pop("density", 0.5)}} | changes))
    return path


def again(recipe: Path, out: Path, **options: Any) -> tuple[Result, Decision]:
    """Run into an output, with what was decided."""
    decisions: list[Decision] = []
    rebuild = options.pop("rebuild", False)
    plan = mergec.compile(recipe, **options)
    result = run(plan, out, device="cpu", rebuild=rebuild, notice=decisions.append)
    return result, decisions[0] if decisions else Decision({}, (), ())


def clean(recipe: Path, **options: Any) -> dict[str, bytes]:
    """What a run into a new folder makes."""
    out = recipe.parent / "clean"
    shutil.rmtree(out, ignore_errors=True)
    mergec.compile(recipe, **options).run(out, device="cpu")
    return contents(out)


def computed(decision: Decision) -> set[str]:
    return {name for names in decision.computed.values() for name in names}


def test_an_output_that_is_current_is_checked_and_left_alone(folder: Path) -> None:
    out = folder / "out"
    again(recipe(folder), out)
    before = (out / "model.safetensors").stat()
    result, _ = again(recipe(folder), out)
    assert result.is_current
    assert (result.reused, result.read_bytes) == (len(SHAPES), 0)
    after = (out / "model.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not staging_folder(out).exists()


def test_an_edit_computes_the_tensors_it_concerns(folder: Path) -> None:
    out = folder / "out"
    again(recipe(folder), out)
    result, decision = again(recipe(folder, mlp=0.7), out)
    (why,) = decision.computed
    assert why.startswith("recipe changed: weigh weight")
    assert "0.5 -> 0.7" in why
    assert computed(decision) == MLP
    assert set(decision.reused) == SHAPES.keys() - MLP
    assert 0 < result.read_bytes < mergec.compile(recipe(folder, mlp=0.7)).read_bytes * 2
    assert contents(out) == clean(recipe(folder, mlp=0.7))


def test_another_layout_copies_everything(folder: Path) -> None:
    out = folder / "out"
    again(recipe(folder), out)
    for size in (1, 200, 10**9):
        result, decision = again(recipe(folder), out, shard_bytes=size)
        assert (result.reused, result.read_bytes, computed(decision)) == (len(SHAPES), 0, set())
        assert contents(out) == clean(recipe(folder), shard_bytes=size)


def test_neither_paths_nor_times_of_inputs_count(folder: Path) -> None:
    out = folder / "out"
    recipe(folder).write_text(recipe(folder).read_text().replace('"model": "a"', '"model": "a", "id": "a"'))
    again(folder / "recipe.yml", out)
    (folder / "a").rename(folder / "elsewhere")
    for name in ("elsewhere", "b", "base"):
        os.utime(folder / name / "model.safetensors")
    text = (folder / "recipe.yml").read_text().replace('"model": "a"', '"model": "elsewhere"')
    (folder / "recipe.yml").write_text(text)
    result, _ = again(folder / "recipe.yml", out)
    assert (result.reused, result.read_bytes) == (len(SHAPES), 0)
    assert contents(out) == clean(folder / "recipe.yml")


def test_an_input_with_other_content_is_named(folder: Path) -> None:
    out = folder / "out"
    again(recipe(folder), out)
    write_model(folder / "b", seed="new")
    _, decision = again(recipe(folder), out)
    assert decision.computed.keys() == {"input changed: b/model.safetensors"}
    assert computed(decision) == SHAPES.keys()
    assert contents(out) == clean(recipe(folder))


def test_a_tensor_modified_in_the_output_is_computed_again(folder: Path) -> None:
    out = folder / "out"
    again(recipe(folder), out)
    name = "model.layers.1.self_attn.q_proj.weight"
    begin, _ = read_lock(out / LOCK_NAME).made.tensors[name].range or (0, 0)
    with open(out / "model.safetensors", "r+b") as stream:
        stream.seek(begin + 5)
        stream.write(b"\x55")
    _, decision = again(recipe(folder), out)
    assert decision.computed == {"modified in the output since it was made": (name,)}
    assert contents(out) == clean(recipe(folder))


@pytest.mark.parametrize("damage", ["cut short", "removed"])
def test_a_file_that_is_not_whole_any_more_gives_what_it_can(folder: Path, damage: str) -> None:
    out = folder / "out"
    again(recipe(folder), out, shard_bytes=200)
    victim = sorted(out.glob("*.safetensors"))[1]
    if damage == "removed":
        victim.unlink()
    else:
        os.truncate(victim, victim.stat().st_size - 1)
    result, decision = again(recipe(folder), out, shard_bytes=200)
    assert decision.computed.keys() == {"modified in the output since it was made"}
    assert 0 < result.reused < len(SHAPES)
    assert contents(out) == clean(recipe(folder), shard_bytes=200)


def test_what_was_computed_with_another_torch_is_not_taken_over(folder: Path) -> None:
    out = folder / "out"
    again(recipe(folder), out)
    lock = out / LOCK_NAME
    torch = read_lock(lock).made.numerics or {}
    lock.write_text(lock.read_text().replace(f'"torch": "{torch["torch"]}"', '"torch": "1.0"'))
    result, decision = again(recipe(folder), out)
    assert list(decision.computed) == [f"numerics changed: torch 1.0 -> {torch['torch']}"]
    assert result.reused == 0


def test_rebuild_computes_everything(folder: Path) -> None:
    out = folder / "out"
    again(recipe(folder), out)
    result, _ = again(recipe(folder), out, rebuild=True)
    assert (result.reused, result.kept, result.is_current) == (0, 0, False)
    assert result.read_bytes > 0
    assert contents(out) == clean(recipe(folder))


def test_a_lock_that_is_damaged_makes_the_folder_a_stranger_s(folder: Path) -> None:
    out = folder / "out"
    again(recipe(folder), out)
    (out / LOCK_NAME).write_text("{")
    with pytest.raises(mergec.UsageError, match="E401"):
        again(recipe(folder), out)


EDITS: list[tuple[str, Any]] = [
    ("mlp", 0.5), ("mlp", 0.7), ("rest", 0.4), ("rest", 0.0), ("density", 0.5), ("density", [0.3, 0.9]),
    ("density", 1.0), ("a", {"density": 0.2}), ("seed", 2), ("dtype", "bfloat16"), ("out_dtype", "float16"),
    ("method", "dare_ties"), ("method", "task_arithmetic"), ("method", "ties"),
]  # fmt: skip


@settings(max_examples=12)
@given(st.lists(st.tuples(st.sampled_from(EDITS), st.sampled_from([150, 10**9])), min_size=2, max_size=4))
def test_whatever_the_edits_the_bytes_are_those_of_a_clean_run(
    edited: Callable[..., Path], edits: list[tuple[tuple[str, Any], int]]
) -> None:
    changes: dict[str, Any] = {}
    folder = edited()
    out, before = folder / "out", dict[str, bytes]()
    for (name, value), shard_bytes in edits:
        changes[name] = value
        written = {**changes}
        if written.get("method") == "task_arithmetic":  # it has no density
            written = {key: one for key, one in written.items() if key != "a"} | {"parameters": {}}
        path = recipe(folder, **written)
        _, decision = again(path, out, shard_bytes=shard_bytes)
        assert contents(out) == clean(path, shard_bytes=shard_bytes)
        lock = read_lock(out / LOCK_NAME)
        after = {key: tensor.sha256.encode() for key, tensor in lock.made.tensors.items() if tensor.sha256}
        if before:
            assert {key for key in after if after[key] != before.get(key)} <= computed(decision)
        before = after


@pytest.fixture
def edited(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: write_family(tmp_path_factory.mktemp("edited"))
