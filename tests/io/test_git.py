"""`mergec git install` with git itself: diffs of meaning, and everything as it was after `uninstall`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from recipes_fixtures import mergec
from repositories import committed, git, new_repository

RECIPE = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: 0.5}
  - model: b
    parameters: {weight: 0.3}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return new_repository(tmp_path, monkeypatch)


def changed_lines(diff: str) -> list[str]:
    return [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def test_diffs_show_what_a_change_means(repository: Path) -> None:
    path = repository / "my recipes" / "ties of two.yml"
    committed(path, RECIPE)
    assert mergec("git", "install").code == 0
    path.write_text("# why\n" + RECIPE.replace("0.5}", "5e-1}  # half").replace("ties\n", "ties\nseed: 0\n"))
    assert changed_lines(git("diff")) == []
    path.write_text("# why\n" + RECIPE.replace("0.5}", ".75, density: 0.2}"))
    assert changed_lines(git("diff")) == ["-      weight: 0.5", "+      density: 0.2", "+      weight: 0.75"]
    git("commit", "-qam", "heavier")
    assert "+      weight: 0.75" in git("log", "-p", "-1")


def test_a_broken_recipe_and_other_yaml_are_shown_as_they_are(repository: Path) -> None:
    path = repository / "r.yml"
    committed(path, RECIPE)
    mergec("git", "install")
    broken = RECIPE.replace("base_model: base", "base_model: [base  # oh")
    path.write_text(broken)
    assert "+base_model: [base  # oh" in git("diff").splitlines()
    git("commit", "-qam", "broken")
    path.write_text(RECIPE)
    assert "-base_model: [base  # oh" in git("diff").splitlines()
    committed(repository / "compose.yaml", "services: {web: 1} # x\n")
    (repository / "compose.yaml").write_text("services: {web: 2} # y\n")
    assert changed_lines(git("diff", "compose.yaml")) == ["-services: {web: 1} # x", "+services: {web: 2} # y"]


def test_installing_twice_is_once_and_uninstalling_leaves_all_as_it_was(repository: Path) -> None:
    for attributes in (None, b"*.yml text\n*.png binary", b"# mine\r\n*.yml diff=mergec\r\n"):
        file = repository / ".gitattributes"
        if attributes is not None:
            file.write_bytes(attributes)
        config = (repository / ".git" / "config").read_bytes()
        first = mergec("git", "install")
        made = file.read_bytes(), (repository / ".git" / "config").read_bytes()
        assert mergec("git", "install") == first
        assert (file.read_bytes(), (repository / ".git" / "config").read_bytes()) == made
        assert git("check-attr", "diff", "x/y z.yaml") == "x/y z.yaml: diff: mergec\n"
        assert mergec("git", "uninstall").code == 0
        assert (file.read_bytes() if file.exists() else None) == attributes
        assert (repository / ".git" / "config").read_bytes() == config
    assert mergec("git", "uninstall").out == "nothing to remove\n"


def test_what_is_printed(repository: Path) -> None:
    (repository / "sub").mkdir()
    os.chdir(repository / "sub")
    installed = mergec("git", "install", "*.merge.yml", "my recipes/*.yml")
    assert installed.out == (
        "git config --local diff.mergec.textconv 'mergec canon --textconv'\n"
        f"{repository}/.gitattributes: diff=mergec for *.merge.yml, my recipes/*.yml\n"
    )
    assert git("check-attr", "diff", "../my recipes/x.yml", "../x.yml") == (
        "../my recipes/x.yml: diff: mergec\n../x.yml: diff: unspecified\n"
    )
    os.chdir(repository)
    assert mergec("git", "uninstall").out == (
        "git config --local --unset diff.mergec.textconv\n.gitattributes: diff=mergec removed\n"
    )


def test_for_all_repositories(repository: Path, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    assert mergec("git", "install", "--global").code == 0
    path = repository / "r.yml"
    os.chdir(repository)
    committed(path, RECIPE)
    path.write_text(RECIPE + "# more\n")
    assert changed_lines(git("diff")) == []
    assert mergec("git", "uninstall", "--global").code == 0
    assert changed_lines(git("diff")) == ["+# more"]
    assert not (tmp_path / "home" / ".config" / "git" / "attributes").exists()


def test_what_cannot_be_done_is_said(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git("config", "diff.mergec.textconv", "cat")
    refused = mergec("git", "install")
    assert (refused.code, refused.err.partition(";")[0]) == (
        2,
        "mergec: error[E683]: git's diff.mergec.textconv is 'cat', which mergec did not set",
    )
    assert mergec("git", "uninstall").out == "nothing to remove\n"
    git("config", "--unset", "diff.mergec.textconv")
    (repository / ".git" / "config.lock").touch()
    assert "mergec: error[E685]: git config failed:" in mergec("git", "install").err
    monkeypatch.chdir(tmp_path)
    assert mergec("git", "install").err.startswith(f"mergec: error[E682]: {tmp_path} is in no working tree")
    assert mergec("git", "uninstall").code == 2
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mergec("git", "install").err == "mergec: error[E684]: no program 'git' is found; hint: install git\n"
