"""Revisions: what a file was in another revision of git, and which files are tracked."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mergec.errors import InputError, UsageError


def show(revision: str, path: str) -> bytes | None:
    """A file of a revision, its path counted from the top of the repository; None if the revision lacks it."""
    kind = call_git("cat-file", "-t", f"{revision}:{path}")
    return _output("cat-file", "blob", f"{revision}:{path}") if kind.stdout.strip() == b"blob" else None


def is_revision(word: str) -> bool:
    """Whether a word names a commit, and not an option."""
    return (
        not word.startswith("-") and call_git("rev-parse", "--verify", "--quiet", f"{word}^{{commit}}").returncode == 0
    )


def top() -> Path:
    """The top folder of the repository that the current folder lies in. Raises InputError (E611) outside of one."""
    return Path(_output("rev-parse", "--show-toplevel").decode().rstrip("\n"))


def prefix() -> str:
    """The current folder as a path from the top of the repository: "" or `folder/`."""
    return _output("rev-parse", "--show-prefix").decode().rstrip("\n")


def tracked(revision: str | None = None) -> list[str]:
    """The paths of all files of a revision, or of the index, from the top of the repository."""
    which = ["ls-tree", "-r", "-z", "--name-only", "--full-tree", revision] if revision else ["ls-files", "-z", ":/"]
    names = _output(*which, cwd=None if revision else top())
    return [name.decode("utf-8", "surrogateescape") for name in names.split(b"\0") if name]


def _output(*arguments: str, cwd: Path | None = None) -> bytes:
    done = call_git(*arguments, cwd=cwd)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[0].removeprefix("fatal: ") if said else f"exit code {done.returncode}"
        raise InputError("E611", f"git {arguments[0]}: {why}", "is this a git repository with that revision?")
    return done.stdout


def call_git(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run git and take what it says. Raises UsageError (E684) where there is none."""
    try:
        return subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("E684", "no program 'git' is found", "install git") from None
