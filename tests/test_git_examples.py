"""What the documents show of git, the hooks for pre-commit and the script for pull requests, run as they are."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recipes_fixtures import write_family
from repositories import ROOT, committed, git, new_repository
from ruamel.yaml import YAML

HOOKS = {hook["id"]: hook for hook in YAML(typ="safe").load(ROOT / ".pre-commit-hooks.yaml")}
WORKFLOW = YAML(typ="safe").load(ROOT / "examples" / "git" / "recipes.yaml")
SCRIPT = ROOT / "examples" / "git" / "pull_request.py"
RECIPE = """\
merge_method: ties
base_model: ../base
models:
  - model: ../a
    parameters: {weight: 0.5}
  - model: ../b
    parameters: {weight: 0.3}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a recipe whose models are there, but not in version control."""
    folder = new_repository(tmp_path, monkeypatch)
    write_family(folder)
    (folder / ".gitignore").write_text("/base\n/a\n/b\n/c\n")
    committed(folder / "recipes" / "two.yml", RECIPE)
    return folder


def sessions(document: str, start: str, end: str) -> list[tuple[str, str]]:
    """The commands of a part of a document, each with what the document says it prints."""
    lines = (ROOT / document).read_text(encoding="utf-8").partition(start)[2].partition(end)[0].splitlines()
    if "```" in lines:
        lines = lines[lines.index("```") + 1 :]
        lines = lines[: lines.index("```")]
    else:
        lines = [line[4:] for line in lines if line.startswith("    ")]
    found: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


@pytest.mark.parametrize(
    ("document", "start", "end"),
    [("docs/git.md", "## One layout", "## Before a commit"), ("README.md", "## Recipes in git", "## Python")],
)
def test_the_documents_show_what_is_printed(
    document: str, start: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_repository(tmp_path, monkeypatch)
    (folder / "merge.yml").write_text(sessions("docs/git.md", "## One layout", "## Before a commit")[0][1])
    commands = sessions(document, start, end)
    assert [command.split()[:2] for command, _ in commands].count(["git", "diff"]) == 2
    for command, shown in commands:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (shown, ""), command
        if command.startswith("mergec fmt"):
            committed(folder / "merge.yml", (folder / "merge.yml").read_text())


def hooked(name: str, *files: str) -> subprocess.CompletedProcess[str]:
    command = [*shlex.split(HOOKS[name]["entry"]), *HOOKS[name].get("args", []), *files]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hooks_take_recipes_and_no_other_yaml(hook: dict[str, Any]) -> None:
    taken = ["recipes/a.yml", "x/recipes/b.yaml", "c.merge.yml", "x/y z.merge.yaml"]
    left = ["compose.yml", "recipes/x/values.yml", "my_recipes/a.yml", "recipes/a.yml.orig", "merge.yml"]
    assert [name for name in taken + left if re.search(hook["files"], name)] == taken
    assert {key: hook[key] for key in ("language", "require_serial")} == {"language": "system", "require_serial": True}


def test_the_hooks_run(repository: Path) -> None:
    (repository / "recipes" / "messy one.yml").write_text("# why\n" + RECIPE.replace("weight: 0.5", " weight:  0.5 "))
    files = ["recipes/two.yml", "recipes/messy one.yml"]
    done = hooked("mergec-check", *files)
    assert (done.returncode, done.stdout.count(": ok, 9 tensors from 3 models")) == (0, 2)
    done = hooked("mergec-fmt", *files)
    assert (done.returncode, done.stdout) == (0, "formatted recipes/messy one.yml\n")
    assert (repository / "recipes" / "messy one.yml").read_text() == "# why\n" + RECIPE
    for file in files:
        (repository / file).write_text(RECIPE.replace("weight: 0.3", "wieght: 0.3"))
    done = hooked("mergec-check", *files)
    assert (done.returncode, done.stderr.count("error[E202]")) == (2, 2)


def commented(base: str) -> str:
    done = subprocess.run([sys.executable, SCRIPT, base], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_pull_request_gets_what_its_recipes_change(repository: Path) -> None:
    git("checkout", "-qb", "change")
    committed(repository / "recipes" / "two.yml", RECIPE.replace("weight: 0.3", "weight: 0.4"))
    committed(repository / "compose.yml", "services: {}\n")
    text = commented("HEAD~2")
    head = "## What this changes in the results\n\n### `recipes/two.yml`: 9 of 9 tensors change, 624 B of 624 B\n\n"
    assert text.startswith(head)
    assert "| `models[1].weight` | `../b` | `0.3 -> 0.4` | `recipes/two.yml:7:26` |" in text
    assert "could not be compared" not in text
    assert "compose" not in text
    assert ".base-" not in text
    assert git("status", "--porcelain") == ""


def test_new_renamed_and_removed_recipes_are_told_apart(repository: Path) -> None:
    committed(repository / "recipes" / "old.yml", RECIPE.replace("ties", "task_arithmetic"))
    base = git("rev-parse", "HEAD").strip()
    (repository / "recipes" / "old.yml").unlink()
    git("mv", "recipes/two.yml", "recipes/both of them.yml")
    committed(
        repository / "recipes" / "linear.yml",
        "# new\nmerge_method: linear\nmodels: [{model: ../a}, {model: ../b}]\nparameters: {weight: .5}\n",
    )
    text = commented(base)
    assert "`recipes/two.yml` is called `recipes/both of them.yml` now.\n" in text
    assert "### `recipes/both of them.yml`: same result\n" in text
    assert "### `recipes/old.yml` is gone\n" in text
    assert "### `recipes/linear.yml` is new\n\n```yaml\nmerge_method: linear\nmodels:\n  - model: ../a\n" in text


def test_where_models_are_absent_the_recipes_are_compared(repository: Path) -> None:
    git("checkout", "-qb", "change")
    committed(repository / "recipes" / "two.yml", RECIPE.replace("../b", "../d").replace("0.5", "0.6"))
    text = commented("HEAD~1")
    assert "```diff\n--- recipes/two.yml (before)\n+++ recipes/two.yml\n" in text
    assert {"-      weight: 0.5", "+      weight: 0.6", "-  - model: ../b", "+  - model: ../d"} <= set(
        text.splitlines()
    )
    assert "<summary>The results could not be compared.</summary>" in text
    assert "recipes/two.yml:6:12: error[E300]" in text
    committed(repository / "recipes" / "two.yml", "# ``` and\n" + RECIPE.replace("base_model: ", "base_model: ["))
    assert "````diff\n" in commented("HEAD~1")


def test_nothing_to_say_is_nothing(repository: Path) -> None:
    committed(repository / "README.md", "merge_method: none\n")
    assert commented("HEAD~1") == ""


def test_the_workflow_runs_the_script() -> None:
    steps = [step.get("run", "") for step in WORKFLOW["jobs"]["diff"]["steps"]]
    assert sum("pull_request.py" in run and "> comment.md" in run for run in steps) == 1
    assert WORKFLOW["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert not any("${{" in run for run in steps)  # names of branches are no part of a command
