"""diff, as people use it: recipes, revisions, locks, outputs and plans."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from recipes_fixtures import SHAPES, mergec, write_family

RECIPE = """\
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: [{filter: mlp, value: 0.5}, {value: 0.4}]}}
  - {model: b, parameters: {weight: 0.3}}
parameters: {density: 0.5}
"""
EDITED = RECIPE.replace("value: 0.5", "value: 0.7")
MLP = [name for name in SHAPES if "mlp" in name]


def git(*arguments: str) -> None:
    who = ["-c", "user.name=me", "-c", "user.email=me@here"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with `my recipes/ties.yml` committed as RECIPE, and EDITED in the working tree; models beside it."""
    folder = tmp_path / "my recipes"
    folder.mkdir()
    write_family(folder)
    monkeypatch.chdir(folder)
    Path("ties.yml").write_text(RECIPE)
    Path("notes.yml").write_text("just: notes\n")
    git("init", "-q", str(tmp_path))
    git("add", "ties.yml", "notes.yml")
    git("commit", "-qm", "first")
    Path("ties.yml").write_text(EDITED)
    return folder


def changed(*operands: str) -> list[str]:
    called = mergec("diff", "--json", *operands)
    assert called.code in (0, 1), called.err
    found: dict[str, Any] = json.loads(called.out)
    names: list[str] = found["changed"]
    assert called.code == (1 if names else 0)
    return names


def away(folder: Path) -> None:
    """Take the models off the machine."""
    for name in ("base", "a", "b"):
        shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    "operands", [["ties.yml"], ["HEAD:ties.yml", "ties.yml"], ["HEAD:my recipes/ties.yml", "ties.yml"]]
)
def test_a_revision_is_compared_with_the_working_tree(repository: Path, operands: list[str]) -> None:
    assert changed(*operands) == MLP


def test_without_operands_every_tracked_recipe_is(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("new.yml").write_text(RECIPE)
    Path("untracked.yml").write_text(RECIPE)
    git("add", "new.yml")
    monkeypatch.chdir(repository.parent)
    called = mergec("diff")
    assert called.code == 1
    heads = [line.split("  ")[0] for line in called.out.splitlines() if line.startswith(("HEAD", "my"))]
    assert heads == ["my recipes/new.yml", "HEAD:my recipes/ties.yml -> my recipes/ties.yml"]
    assert [one.get("is") for one in json.loads(mergec("diff", "--json").out)] == ["added", None]


def test_a_broken_recipe_does_not_hide_the_others(repository: Path) -> None:
    Path("broken.yml").write_text(RECIPE)
    git("add", "broken.yml")
    git("commit", "-qm", "second", "broken.yml")
    Path("broken.yml").write_text(RECIPE.replace("density", "densty"))
    called = mergec("diff")
    assert called.code == 2
    assert "HEAD:my recipes/ties.yml -> ties.yml" in called.out
    assert "broken.yml:6:14: error[E202]" in called.err


def test_equal_trees_have_nothing_to_compare(repository: Path) -> None:
    Path("ties.yml").write_text(RECIPE)
    called = mergec("diff")
    assert (called.code, called.out) == (0, "no recipe differs\n")
    assert (mergec("diff", "HEAD", "HEAD").out, mergec("diff", "--json").out) == ("no recipe differs\n", "[]\n")


@pytest.mark.parametrize("are_away", [False, True])
def test_locks_outputs_and_plans_stand_for_recipes(repository: Path, are_away: bool) -> None:
    """Also where there are no models: their headers are in the locks and in the plan."""
    Path("ties.yml").write_text(RECIPE)
    assert mergec("lock", "ties.yml").code == 0
    assert mergec("run", "ties.yml", "out", "-q").code == 0
    Path("plan.json").write_text(mergec("plan", "ties.yml", "--json").out)
    Path("ties.yml").write_text(EDITED)
    if are_away:
        away(repository)
    for one in ("mergec.lock", "out", "plan.json"):
        assert changed(one, "ties.yml") == changed("ties.yml", one) == MLP
        for other in ("mergec.lock", "out", "plan.json"):
            assert changed(one, other) == []
    assert changed("HEAD:ties.yml", "ties.yml") == MLP


def test_a_model_that_changed_is_an_input_that_changed(repository: Path) -> None:
    Path("ties.yml").write_text(RECIPE)
    mergec("run", "ties.yml", "out", "-q")
    data = bytearray(Path("a/model.safetensors").read_bytes())
    data[-1] ^= 1
    Path("a/model.safetensors").write_bytes(data)
    mergec("lock", "ties.yml")
    called = mergec("diff", "out", "mergec.lock")
    assert called.code == 1
    assert "inputs that changed\n  a/model.safetensors\n" in called.out
    assert set(changed("out", "mergec.lock")) == SHAPES.keys()


def test_a_lock_of_several_recipes_gives_the_one_of_that_name(repository: Path) -> None:
    Path("other.yml").write_text(EDITED)
    for name in ("ties.yml", "other.yml"):
        mergec("lock", name)
    assert changed("mergec.lock", "other.yml") == []
    Path("third.yml").write_text(RECIPE)
    called = mergec("diff", "mergec.lock", "third.yml")
    assert called.code == 2
    assert "error[E613]: mergec.lock has no entry for third.yml" in called.err


@pytest.mark.parametrize(
    ("operands", "said"),
    [
        (["HEAD:tis.yml", "ties.yml"], "there is no 'tis.yml' in HEAD; hint: did you mean 'my recipes/ties.yml'?"),
        (["NONE:ties.yml", "ties.yml"], "has no revision 'NONE'; hint: write REV:path"),
        (["ties.yml", "tis.yml"], "tis.yml:1:1: error[E008]: no such file; hint: did you mean 'ties.yml'?"),
        (["ties.yml", "a"], "error[E620]: there is no a/mergec.lock"),
        (["ties.yml", "no.json"], "error[E612]: no.json is not a plan"),
        (["ties.yml", "ties.yml", "ties.yml"], "diff compares two, found 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said(repository: Path, operands: list[str], said: str) -> None:
    Path("no.json").write_text("{}")
    called = mergec("diff", *operands)
    assert called.code == 2
    assert said in called.err


def test_outside_of_a_repository_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    called = mergec("diff")
    assert called.code == 2
    assert called.err.startswith("mergec: error[E611]: git rev-parse: not a git repository")


def test_the_readme_shows_what_diff_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    recipe = tmp_path / "examples" / "quickstart" / "ties.yml"
    shutil.copytree(root / "examples" / "quickstart", recipe.parent)
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("add", str(recipe))
    git("commit", "-qm", "first")
    lines = recipe.read_text().splitlines()
    lines[13] = lines[13].replace("0.4", "[{filter: mlp, value: [0.4, 0.6]}, {value: 0.4}]")
    lines.insert(21, "seed: 7")
    recipe.write_text("\n".join(lines))
    called = mergec("diff", "examples/quickstart/ties.yml")
    assert f"$ mergec diff examples/quickstart/ties.yml\n{called.out}```" in (root / "README.md").read_text()
