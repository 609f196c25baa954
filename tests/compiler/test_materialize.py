"""From an artifact to a task's model: what is written, what is refused, what an interruption leaves."""

# ruff: noqa: E501 - a message is one line

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifacts
import pytest
import torch
from checkpoints import contents
from interrupts import run_until_killed
from models import Family
from recipes_fixtures import mergec as command
from safetensors.torch import load_file, save_file

import mergec
from mergec.compiler.materialize import compile_task
from mergec.errors import InputError
from mergec.keys import plan_hash

STATES = artifacts.states()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return artifacts.make(tmp_path, "tall_mask", STATES, parameters={"mask_lambda": 0.5})


def ok(*arguments: object) -> str:
    called = command(*arguments)
    assert (called.code, called.err) == (0, ""), called.err
    return called.out


def test_what_lies_in_an_artifact(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")}
    assert files == {"model.safetensors", "shared/delta.safetensors", *(f"experts/{t}.safetensors" for t in "abc")}
    masks = load_file(folder / "experts" / "a.safetensors")
    assert masks["model.layers.0.norm.weight.mask"].shape == (1,)
    assert masks["cube.mask"].dtype == torch.uint8
    manifest = json.loads((folder / "mergec_artifact.json").read_text())
    assert [task["name"] for task in manifest["tasks"]] == ["a", "b", "c"]
    assert manifest["format"] == 1


def test_materialize_writes_what_for_task_gives(folder: Path, tmp_path: Path) -> None:
    loaded = mergec.load_artifact(folder)
    assert loaded.tasks == ("a", "b", "c")
    for task in loaded.tasks:
        out = tmp_path / "merged" / task
        ok("materialize", folder, "--task", task, out, "-q")
        written, lazy = load_file(out / "model.safetensors"), loaded.for_task(task)
        assert written.keys() == lazy.keys()
        assert len(lazy) == len(written)
        assert all(torch.equal(written[key], lazy[key]) for key in written)
        assert not (out / "mergec_artifact.json").exists()
    assert loaded.for_task("a", "bfloat16")["cube"].dtype == torch.bfloat16


def test_a_dtype_of_its_own_is_in_tensors_and_config(folder: Path, tmp_path: Path) -> None:
    ok("materialize", folder, "--task", "a", tmp_path / "half", "--dtype", "float16", "-q")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "float16"


def test_backbone_and_tasks_load_as_models(family: Callable[..., Family], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    llama = family("llama", torch.bfloat16)
    recipe = tmp_path / "r.yml"
    models = [{"model": str(tune)} for tune in llama.tunes]
    recipe.write_text(json.dumps({"merge_method": "tall_mask", "base_model": str(llama.base), "models": models}))
    mergec.compile(recipe).run(tmp_path / "artifact", device="cpu")
    ok("materialize", tmp_path / "artifact", "--task", "b", tmp_path / "b", "-q")
    for out, expected in (("artifact", llama.base), ("b", tmp_path / "b")):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / out, dtype="auto")
        stored = load_file(Path(expected) / "model.safetensors")
        assert all(torch.equal(model.state_dict()[key], value) for key, value in stored.items())
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    recipe = artifacts.write_recipe(tmp_path, "tall_mask", STATES)
    plan = mergec.compile(recipe, workers=1)
    plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=16))
    plan.run(tmp_path / "clean", device="cpu")
    run_until_killed(plan, tmp_path / "out", 60)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / ".out.mergec").rglob("*.safetensors"))
    result = plan.run(tmp_path / "out", device="cpu")
    assert 0 < result.kept < result.tensors
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_a_second_run_replaces_an_artifact_and_keeps_what_others_put_in(folder: Path, tmp_path: Path) -> None:
    (folder / "experts" / "notes.txt").write_text("mine")
    (folder / "scores.json").write_text("{}")
    recipe = artifacts.write_recipe(tmp_path, "tall_mask", {k: v for k, v in STATES.items() if k != "c"})
    mergec.compile(recipe).run(folder, device="cpu")
    names = {str(path.relative_to(folder)) for path in folder.glob("experts/*")}
    assert names == {"experts/a.safetensors", "experts/b.safetensors", "experts/notes.txt"}
    assert (folder / "scores.json").exists()
    assert [path.name for path in tmp_path.glob(".artifact*")] == []


def test_a_plan_of_another_shape_leaves_no_parts_behind(tmp_path: Path) -> None:
    """The staging folder of an interrupted artifact is taken over by a plan without experts."""
    plan = mergec.compile(artifacts.write_recipe(tmp_path, "tall_mask", STATES), workers=1)
    run_until_killed(plan, tmp_path / "out", 20)
    artifacts.write_recipe(tmp_path, "task_arithmetic", STATES, parameters={"weight": 0.5})
    mergec.compile(tmp_path / "artifact.yml").run(tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "experts").exists()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda folder: (folder / "mergec_artifact.json").unlink(), "error[E640]: FOLDER is not a merge artifact: it has no mergec_artifact.json; hint: run a recipe of a method that makes one, such as tall_mask"),
        (lambda folder: _edit(folder, format=2), "error[E640]: FOLDER/mergec_artifact.json is of format 2, expected 1; hint: use the mergec it was made with"),
        (lambda folder: _edit(folder, tasks=3), "error[E640]: FOLDER/mergec_artifact.json is not the manifest of an artifact: TypeError: 'int' object is not iterable; hint: make the artifact again"),
        (lambda folder: _edit(folder, method="\ud800"), "error[E308]: FOLDER/mergec_artifact.json is not JSON: 'utf-8' codec can't encode character '\\ud800' in position 25: surrogates not allowed; hint: fetch or copy it again"),
        (lambda folder: _edit(folder, shared="../b/model.safetensors"), "error[E640]: FOLDER/mergec_artifact.json is not the manifest of an artifact: ValueError: found '../b/model.safetensors', expected a file inside the folder; hint: make the artifact again"),
        (lambda folder: (folder / "experts" / "a.safetensors").unlink(), "error[E311]: cannot read FOLDER/experts/a.safetensors: No such file or directory"),
        (lambda folder: save_file({"cube.mask": torch.ones(3, dtype=torch.uint8)}, folder / "experts" / "a.safetensors"), "error[E642]: what is stored of cube does not fit its shape [2, 3, 5]: expected a part uint8[4], got uint8[3]; hint: do the files belong to one artifact?"),
        (lambda folder: save_file({"cub.mask": torch.ones(4, dtype=torch.uint8)}, folder / "experts" / "a.safetensors"), "error[E642]: FOLDER/experts/a.safetensors has cub.mask, and the backbone in FOLDER has no tensor 'cub'; hint: did you mean 'cube'?"),
        (lambda folder: save_file({"cube.maks": torch.ones(4, dtype=torch.uint8)}, folder / "experts" / "a.safetensors"), "error[E642]: FOLDER/experts/a.safetensors has cube.maks, a part of no known kind; hint: did you mean 'mask'?"),
    ],
)  # fmt: skip
def test_what_is_no_artifact_is_refused(spoil: Any, text: str, folder: Path, tmp_path: Path) -> None:
    spoil(folder)
    called = command("materialize", folder, "--task", "a", tmp_path / "out")
    assert called.code == 2
    assert called.err.strip().replace(str(folder), "FOLDER") == f"mergec: {text}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("above", [False, True])
def test_an_index_outside_of_its_tensor_is_refused(above: bool, tmp_path: Path) -> None:
    folder = artifacts.make(tmp_path, "free", STATES, parameters={"keep": 0.5})
    file = folder / "experts" / "a.safetensors"
    parts = load_file(file)
    name = next(key for key in parts if key.endswith(".indices"))
    count = STATES["a"][name.removesuffix(".indices")].numel()
    parts[name][0] = count if above else -1
    save_file(parts, file)
    called = command("materialize", folder, "--task", "a", tmp_path / "out")
    assert called.code == 2
    found = f"{int(parts[name].min())} to {int(parts[name].max())}"
    assert f"error[E642]: a sparse delta has the indices {found}, expected 0 to {count - 1}; hint: make" in called.err
    assert not (tmp_path / "out").exists()


def _edit(folder: Path, **changed: Any) -> None:
    path = folder / "mergec_artifact.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_an_unknown_task_is_answered_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    called = command("materialize", folder, "--task", "math", tmp_path / "out")
    assert called.code == 2
    assert called.err == f"mergec: error[E641]: {folder} has no task 'math'; hint: known here: a, b, c\n"
    with pytest.raises(InputError, match="E641"):
        mergec.load_artifact(folder).for_task("math")


def test_an_output_inside_the_artifact_is_refused(folder: Path) -> None:
    called = command("materialize", folder, "--task", "a", folder / "dense")
    assert (called.code, "E400" in called.err) == (2, True)


def test_a_changed_expert_is_another_plan(folder: Path) -> None:
    before = plan_hash(compile_task(folder, "a"))
    assert plan_hash(compile_task(folder, "a")) == before
    assert plan_hash(compile_task(folder, "a", "bfloat16")) != before


def test_inspect(folder: Path, golden: Any, tmp_path: Path) -> None:
    assert ok("inspect", folder).replace(str(folder), "FOLDER") == golden()
    facts = json.loads(ok("inspect", folder, "--json"))["artifact"]
    assert facts["tasks"]["a"]["parts"] == {"gate": 4, "mask": len(artifacts.SHAPES)}


def test_what_run_and_materialize_print(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "my artifact")
    said = command("materialize", "my artifact", "--task", "a")
    lines = said.out.splitlines()
    assert lines[0].startswith("made merged/my artifact-a: 8 tensors")
    assert lines[2] == "  see what the result is  mergec inspect 'merged/my artifact-a'"
    said = command("run", "artifact.yml", "again")
    assert "  make a task's model        mergec materialize again --task NAME" in said.out.splitlines()


@pytest.mark.parametrize(
    ("models", "tasks"),
    [
        (["x/a", "y/a", "b/"], ("a", "a-2", "b")),
        (["org/Math@v1", "math", "c d.safetensors"], ("Math", "math-2", "c-d")),
    ],
)
def test_tasks_are_named_after_models_and_never_alike(models: list[str], tasks: tuple[str, ...]) -> None:
    from mergec.recipe.bound import task_names

    assert task_names(models) == tasks
