"""A git repository to try things in, apart from this machine's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def git(*arguments: str) -> str:
    """What git prints, run in the current folder."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def committed(path: Path, text: str) -> None:
    """Write a file and commit everything."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    git("add", "-A")
    git("commit", "-qm", "a recipe")


def new_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new repository, the current folder, whose git knows no settings of this machine and finds this mergec."""
    home, folder, programs = tmp_path / "home", tmp_path / "a repository", tmp_path / "bin"
    for made in (home, folder, programs):
        made.mkdir()
    program = programs / "mergec"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mergec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("XDG_CONFIG_HOME", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CONFIG_GLOBAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    git("init", "-q")
    git("config", "user.email", "someone@example.org")
    git("config", "user.name", "Someone")
    return folder
