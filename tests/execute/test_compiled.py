"""Compiled loops: the bytes of torch's kernels, taken only from a folder of the user's own, never needed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_recipe
from recipes_fixtures import mergec as command
from safetensors.torch import save_file

import mergec
from mergec.errors import UsageError
from mergec.execute import compiled
from mergec.execute import loops as loaded
from mergec.execute.chain import TILE, Chain, stages
from mergec.execute.compiled import has_compiler, key_of, private_folder
from mergec.execute.loops import Loops
from mergec.ops import bracket
from mergec.ops.fused import Numbers

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")
SHAPES = {
    "a.w": (300, 300),
    "b.w": (257, 511),
    "c.w": (70_001,),
    "d.w": (512, 256),
    "e.w": (300, 700),
    "small.b": (33,),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models base, a, b and c, of bfloat16 and float32 tensors, in the current folder, and a cache of its own."""
    for number, model in enumerate(("base", "a", "b", "c")):
        tensors = {}
        for index, (name, shape) in enumerate(SHAPES.items()):
            base = torch.randn(shape, generator=torch.Generator().manual_seed(index)) * 0.02
            change = torch.randn(shape, generator=torch.Generator().manual_seed(100 * number + index)) * 0.002
            change[change.abs() < 0.0005] = 0  # entries that do not change, and ties of their magnitudes
            dtype = torch.float32 if name == "d.w" else torch.bfloat16
            tensors[name] = (base + change * bool(number)).to(dtype)
        (tmp_path / model).mkdir()
        save_file(tensors, tmp_path / model / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEC_CACHE", str(tmp_path / "cache"))
    return tmp_path


def bytes_of(recipe: Path, out: str, *, tile: int | None = None, **options: Any) -> bytes:
    plan = mergec.compile(recipe, workers=3)
    plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=tile or plan.memory.tile))
    plan.run(out, device="cpu", rebuild=True, **options)
    return Path(out, "model.safetensors").read_bytes()


def libraries() -> list[Path]:
    return sorted(Path("cache").glob("loops/*.so"))


@needs_compiler
def test_loops_make_the_bytes_of_the_kernels(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One plan of several methods, so that torch's compiler is started once."""
    rules: list[Mapping[str, Any]] = [
        {"match": "a.w", "method": "della", "parameters": {"density": 0.5, "epsilon": 0.2}},
        {"match": "b.w", "method": "ties", "parameters": {"density": 0.3}},
        {"match": "c.w", "method": "sce", "parameters": {"select_topk": 0.4}},
        {"match": "d.w", "method": "model_stock"},
        {"match": "e.w", "method": "breadcrumbs", "parameters": {"density": 0.4, "gamma": 0.02}},
    ]
    models = [
        {"model": one, "parameters": {"weight": weight}} for one, weight in zip("abc", (0.3, 0.5, -0.2), strict=True)
    ]
    recipe = write_recipe(here, "dare_ties", models, base_model="base", parameters={"density": 0.6}, rules=rules)
    plain = bytes_of(recipe, "plain", compile="off")
    assert libraries() == []
    assert bytes_of(recipe, "made", compile="on") == plain
    assert len(libraries()) >= 4
    made = {path: path.stat().st_mtime_ns for path in libraries()}
    assert bytes_of(recipe, "again", compile="auto") == plain
    assert bytes_of(recipe, "shared", compile="auto", tile=1 << 14) == plain  # by several workers
    monkeypatch.setattr(bracket, "_FEW", 100)  # so that what lies in a bracket is counted in bins
    assert bytes_of(recipe, "bins", compile="auto") == plain
    assert {path: path.stat().st_mtime_ns for path in libraries()} == made


@needs_compiler
def test_what_a_library_makes_first_is_compared(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(here, "task_arithmetic", "ab", base_model="base", parameters={"weight": 0.5})
    plain = bytes_of(recipe, "plain", compile="off")
    assert bytes_of(recipe, "made", compile="on") == plain
    text = _text_of(recipe)
    loops = Loops(here / "cache" / "loops" / f"{key_of(text)}.so", Chain((), (), (), text))
    true = loaded.function
    monkeypatch.setattr(loaded, "function", lambda text: lambda *given: tuple(one + 1 for one in true(text)(*given)))
    chain = json.loads(text)
    sources = [torch.ones(8 * TILE, dtype=getattr(torch, dtype)) for dtype in chain["sources"]]
    results = [torch.empty(8 * TILE, dtype=torch.bfloat16)]
    numbers = Numbers((0.5,) * 8, (0,) * 8)
    loops(sources, numbers, results, torch.empty(loops.scratch_bytes, dtype=torch.uint8))
    assert not loops.is_sound
    assert results[0].unique().numel() == 1  # also the pieces that were not looked at are torch's


def _text_of(recipe: Path) -> str:
    """The chain of the first plan's bfloat16 tensors."""
    plan = mergec.compile(recipe)
    found = [
        stage.chain.text
        for kind in plan.kinds
        if kind.entries == 300 * 300
        for steps in kind.passes
        for stage in stages(steps, plan.nodes)
        if stage.chain
    ]
    return found[0]


def test_draws_of_a_peer_are_not_fused(here: Path) -> None:
    more = {"base_model": "base", "parameters": {"weight": 0.5, "density": 0.5, "rescale": False}, "compat": "mergekit"}
    ops = []
    for order in ({}, {"random_order": "mergekit"}):
        plan = mergec.compile(write_recipe(here, "dare_linear", "ab", **more, **order))
        made = [stage for kind in plan.kinds for steps in kind.passes for stage in stages(steps, plan.nodes)]
        ops.append({plan.nodes[index].op for stage in made if stage.chain for index in stage.chain.body})
    assert "drop" in ops[0]
    assert "drop" not in ops[1]


def test_a_folder_that_others_can_write_to_is_not_used(here: Path) -> None:
    (here / "cache" / "loops").mkdir(parents=True)
    (here / "cache" / "loops").chmod(0o777)
    assert private_folder("auto") is None
    with pytest.raises(UsageError, match="is not a folder of this user alone"):
        private_folder("on")


def test_a_link_is_not_followed(here: Path) -> None:
    (here / "cache").mkdir()
    (here / "elsewhere").mkdir(mode=0o700)
    (here / "cache" / "loops").symlink_to(here / "elsewhere")
    assert private_folder("auto") is None


def test_without_a_compiler_only_on_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(here, "linear", "ab", parameters={"weight": 1})
    monkeypatch.setenv("CXX", str(here / "nowhere"))
    called = command("run", recipe, "out", "--compile", "on", "--device", "cpu")
    assert called.code == 2
    assert "error[E510]: nothing can be compiled here: there is no C++ compiler; hint: use --compile auto" in called.err
    assert command("run", recipe, "out", "--device", "cpu").code == 0


@needs_compiler
def test_on_says_what_could_not_be_compiled_and_tries_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(here, "task_arithmetic", "ab", base_model="base", parameters={"weight": 0.5})
    broken = here / "broken compiler"
    broken.write_text("#!/bin/sh\necho no headers here >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    plain = bytes_of(recipe, "plain", compile="off")
    called = command("run", recipe, "out", "--compile", "on", "--device", "cpu")
    assert called.code == 0
    (said,) = [line for line in called.err.splitlines() if "W512" in line]
    assert said.startswith("warning[W512]: 2 of 2 chains of ops could not be compiled: ")
    assert said.endswith("; hint: torch's kernels make the same bytes, in more time")
    assert (here / "out" / "model.safetensors").read_bytes() == plain
    assert "W512" not in command("run", recipe, "out", "--rebuild", "--compile", "auto", "--device", "cpu").err
    monkeypatch.delenv("CXX")
    assert "W512" not in command("run", recipe, "out", "--rebuild", "--compile", "on", "--device", "cpu").err
    assert len(libraries()) == 2


def test_small_merges_compile_nothing(here: Path) -> None:
    recipe = write_recipe(here, "linear", "ab", parameters={"weight": 1})
    assert command("run", recipe, "out", "--device", "cpu").code == 0
    assert libraries() == []
    assert not list(Path("cache").glob("loops/*.no"))
    assert os.listdir("out")


@needs_compiler
def test_auto_says_what_loops_that_are_missing_would_save(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = str(write_recipe(here, "task_arithmetic", "ab", base_model="base", parameters={"weight": 0.5}))
    run = ("run", recipe, "out", "--rebuild", "--device", "cpu")
    assert "W513" not in command(*run).err  # a moment
    monkeypatch.setattr(compiled, "_NOTABLE_SECONDS", 0.0)
    said = "warning[W513]: with compiled loops this would take about 0 s less; hint: `--compile on`"
    assert said in command(*run).err
    assert "W513" not in command(*run, "--compile", "off").err
    command(*run, "--compile", "on")
    assert "W513" not in command(*run).err
