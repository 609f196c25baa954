"""A result sent to the Hugging Face hub: the files that its lock names, in one commit, and none beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergec.errors import InputError, RunError, UsageError
from mergec.io import hub
from mergec.io.lockfile import LOCK_NAME, LockFile

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
_WAYS_OUT = {
    "LocalTokenNotFoundError": "log in with `hf auth login`",
    "RepositoryNotFoundError": "log in with `hf auth login`; is the name yours to write to?",
    "ConnectError": "check the network; what was sent already is not sent again",
    "ConnectionError": "check the network; what was sent already is not sent again",
}


@dataclass(frozen=True)
class Pushed:
    """What a push did: the commit, the files it holds, and those of an earlier push that it took away."""

    repo: str
    url: str
    commit: str
    files: tuple[str, ...]
    removed: tuple[str, ...]


def files_of(out: Path, lock: LockFile) -> dict[str, Path]:
    """The files that make a result, by their names in it, its lock last."""
    return {name: out / name for name in (*sorted(lock.files or {}), LOCK_NAME)}


def check_name(repo: str) -> None:
    """Refuse what is no name of a repository (E724), or a hub that is switched off (E725); asks nobody."""
    if hub.is_offline():
        raise RunError("E725", "the hub is switched off (HF_HUB_OFFLINE)", "unset HF_HUB_OFFLINE")
    with _hub_errors(repo):
        from huggingface_hub.utils import HFValidationError, validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(_split(repo)[0])
        except HFValidationError:
            what = f"'{repo}' is no name of a repository on the hub"
            raise UsageError("E724", what, "write USER/NAME, or USER/NAME@BRANCH") from None


def push(
    out: Path, lock: LockFile, repo: str, *, private: bool, message: str, force: bool, quiet: bool = False
) -> Pushed:
    """Make `repo`, or `repo@branch`, hold the result and no other weights; a repository that is absent is made.

    Raises UsageError (E724) where the repository has files and no lock of mergec, unless `force`; RunError (E725)
    where the hub refuses or cannot be reached.
    """
    name, branch = _split(repo)
    files = files_of(out, lock)
    with _hub_errors(repo):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        if quiet:
            disable_progress_bars()
        api = HfApi()
        api.create_repo(name, private=private or None, exist_ok=True)
        if branch:
            api.create_branch(name, branch=branch, exist_ok=True)
        info = api.model_info(name, revision=branch)
        there = {one.rfilename for one in info.siblings or []}
        if LOCK_NAME not in there and not force and any(not one.startswith(".git") for one in there):
            what = f"the repository {repo} has files, and mergec did not make them"
            raise UsageError("E724", what, "name another repository, or --force to replace its weights")
        removed = sorted(one for one in there - files.keys() if "/" not in one and one.endswith(_WEIGHTS))
        operations: list[Any] = [
            *(CommitOperationAdd(path_in_repo=one, path_or_fileobj=path) for one, path in files.items()),
            *(CommitOperationDelete(path_in_repo=one) for one in removed),
        ]
        made = api.create_commit(
            name, operations, commit_message=message, revision=branch, parent_commit=info.sha if there else None
        )
    return Pushed(repo, str(made.commit_url), str(made.oid), tuple(files), tuple(removed))


def _split(repo: str) -> tuple[str, str | None]:
    name, _, branch = repo.partition("@")
    return name, branch or None


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    try:
        yield
    except (InputError, RunError):
        raise
    except ImportError as error:
        raise RunError("E725", f"huggingface_hub cannot be imported: {error}", "pip install huggingface_hub") from None
    except Exception as error:  # the hub client's errors share no base class across its versions
        kind, why = hub.reason(error)
        hint = _WAYS_OUT.get(kind, "log in with `hf auth login`" if "401" in why else "")
        raise RunError("E725", f"{repo}: the hub does not take it: {why}", hint) from None
