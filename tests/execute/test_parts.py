"""A plan run in parts: processes that share only its text and a folder make what one run makes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import contents, dare
from models import Family

import mergec
from mergec.execute.run import publish, run_part
from mergec.io.journal import Journal
from mergec.io.staging import Staging
from mergec.keys import plan_hash
from mergec.planfile import plan_json, read_plan

PART = """
import sys
from pathlib import Path
from mergec.execute.run import run_part
from mergec.planfile import read_plan
text, folder, *names = sys.argv[1:]
run_part(read_plan(Path(text).read_text()), names, folder, device="cpu")
"""


@pytest.fixture
def plan(family: Callable[..., Family], tmp_path: Path) -> mergec.Plan:
    """A merge into two shards, some of whose tensors are copied."""
    llama = family("llama", torch.bfloat16)
    keep_norms = [{"filter": "norm", "value": 0.0}, {"value": 0.5}]
    recipe = dare(tmp_path, llama.base, *llama.tunes)
    made = mergec.compile(recipe, overrides={"parameters.weight": keep_norms}, shard_bytes=40_000)
    assert len(made.shards) == 2
    assert {kind.kind_class for kind in made.kinds} >= {"copy", "map"}
    return made


@pytest.fixture
def halves(plan: mergec.Plan) -> tuple[list[str], list[str]]:
    names = [output.name for output in plan.outputs]
    return names[::2], names[1::2]


def test_two_processes_make_what_one_run_makes(
    plan: mergec.Plan, halves: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text(plan_json(plan))
    command = [sys.executable, "-c", PART, tmp_path / "plan.json", tmp_path / "shared"]
    parts = [subprocess.Popen([*command, *names]) for names in halves]
    assert [part.wait(120) for part in parts] == [0, 0]
    assert not list((tmp_path / "shared").glob("*.safetensors"))
    publish(read_plan((tmp_path / "plan.json").read_text()), tmp_path / "shared", tmp_path / "out")
    plan.run(tmp_path / "whole", device="cpu")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "shared").exists()


def test_an_incomplete_folder_is_not_published(
    plan: mergec.Plan, halves: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    shared, out = tmp_path / "shared", tmp_path / "out"
    run_part(plan, halves[0], shared, device="cpu")
    first = next(output.name for output in plan.outputs if output.name in halves[1])
    with pytest.raises(mergec.RunError, match=rf"E414.*{len(halves[1])} tensors of 30 .*{first}"):
        publish(plan, shared, out)
    assert not out.exists()
    run_part(plan, halves[1][:-1], shared, device="cpu")
    with pytest.raises(mergec.RunError, match=rf"E414.*1 tensor of 30 .*{halves[1][-1]}"):
        publish(plan, shared, out)
    run_part(plan, halves[1], shared, device="cpu")
    publish(plan, shared, out)
    assert (out / "config.json").exists()


def test_a_part_that_was_damaged_is_not_published_and_is_computed_again(plan: mergec.Plan, tmp_path: Path) -> None:
    shared, names = tmp_path / "shared", [output.name for output in plan.outputs]
    run_part(plan, names, shared, device="cpu")
    damaged = next(output for output in plan.outputs if plan.kinds[output.kind].kind_class == "map")
    with open(Staging(shared, plan.shards).part(damaged.shard), "r+b") as stream:
        stream.seek(damaged.begin)
        stream.write(b"\x77")
    with pytest.raises(mergec.RunError, match=rf"E414.*1 tensor of 30 .*{damaged.name}"):
        publish(plan, shared, tmp_path / "out")
    run_part(plan, names, shared, device="cpu")
    publish(plan, shared, tmp_path / "out")
    plan.run(tmp_path / "whole", device="cpu")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_folder_in_which_parts_are_being_computed_is_not_published(plan: mergec.Plan, tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "shared", {}, sync=lambda: None, shared=True),
        pytest.raises(mergec.UsageError, match="E404"),
    ):
        publish(plan, tmp_path / "shared", tmp_path / "out")


def test_of_the_parts_of_another_plan_those_with_equal_keys_count(plan: mergec.Plan, tmp_path: Path) -> None:
    run_part(plan, [output.name for output in plan.outputs], tmp_path / "shared", device="cpu")
    other = mergec.compile(tmp_path / "recipe.yml", shard_bytes=40_000)
    assert plan_hash(other) != plan_hash(plan)
    norms = sum("norm" in output.name for output in plan.outputs)  # their weight was 0 there
    with pytest.raises(mergec.RunError, match=rf"E414.*{norms} tensors of 30 .*layers\.0\.input_layernorm"):
        publish(other, tmp_path / "shared", tmp_path / "out")


def test_publishing_asks_what_a_run_asks(plan: mergec.Plan, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(mergec.UsageError, match="E401"):
        publish(plan, tmp_path / "shared", tmp_path / "out")
    with pytest.raises(mergec.UsageError, match="E400"):
        publish(plan, tmp_path / "shared", Path(plan.files[0].path).parent, force=True)
    run_part(plan, [output.name for output in plan.outputs], tmp_path / "shared", device="cpu")
    assert publish(plan, tmp_path / "shared", tmp_path / "out", force=True) == tmp_path / "out.old"


def test_a_name_the_plan_does_not_have_is_refused(plan: mergec.Plan, tmp_path: Path) -> None:
    with pytest.raises(mergec.UsageError, match=r"E405.*'model\.norm'"):
        run_part(plan, ["model.norm"], tmp_path / "shared")
    assert not (tmp_path / "shared").exists()
