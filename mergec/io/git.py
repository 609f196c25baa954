"""Git: have its diffs show recipes by `mergec canon`, in one repository or in all of a user's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mergec.errors import UsageError, path_text
from mergec.io.replace import replace_file
from mergec.io.revisions import call_git

_KEY = "diff.mergec.textconv"
_BEGIN, _END = b"# mergec git install: begin\n", b"# mergec git install: end\n"
_BLOCK = re.compile(re.escape(_BEGIN) + b".*?" + re.escape(_END), re.DOTALL)


def install(patterns: Sequence[str], everywhere: bool) -> list[str]:
    """Set the driver and the attributes of files of the patterns; says what it did, line by line.

    Raises UsageError: E682 outside of a repository, E683 where the driver is somebody else's, E684 without git,
    E685 where git refuses.
    """
    scope, attributes = _where(everywhere)
    known, wanted = _driver(scope), _command()
    if known and not _is_ours(known):
        what = f"git's {_KEY} is '{known}', which mergec did not set"
        raise UsageError("E683", what, f"remove it: git config {scope} --unset {_KEY}")
    _set("config", scope, _KEY, wanted)
    lines = b"".join(_attribute(pattern) for pattern in patterns)
    before = attributes.read_bytes() if attributes.exists() else b""
    after = _BEGIN + lines + _END + _BLOCK.sub(b"", before)  # what follows wins, so that the user's lines do
    attributes.parent.mkdir(parents=True, exist_ok=True)
    if after != before:
        replace_file(attributes, after)
    shown = ", ".join(patterns)
    return [f"git config {scope} {_KEY} '{wanted}'", f"{path_text(str(attributes))}: diff=mergec for {shown}"]


def uninstall(everywhere: bool) -> list[str]:
    """Remove what `install` set, and a file of attributes that holds nothing else; says what it did.

    Raises UsageError as `install` does, but leaves a driver that is somebody else's.
    """
    scope, attributes = _where(everywhere)
    done = []
    if _is_ours(_driver(scope)):
        _set("config", scope, "--unset", _KEY)
        done.append(f"git config {scope} --unset {_KEY}")
    before = attributes.read_bytes() if attributes.exists() else b""
    after = _BLOCK.sub(b"", before)
    if after == before:
        return done or ["nothing to remove"]
    if after:
        replace_file(attributes, after)
    else:
        attributes.unlink()
    return [*done, f"{path_text(str(attributes))}: diff=mergec removed"]


def _where(everywhere: bool) -> tuple[str, Path]:
    """The scope of `git config`, and the file of attributes that goes with it."""
    if not everywhere:
        found = _git("rev-parse", "--show-toplevel")
        if not found:
            what = f"{Path.cwd()} is in no working tree of a git repository"
            raise UsageError("E682", what, "git init, go to a repository, or --global")
        return "--local", Path(found) / ".gitattributes"
    file = _git("config", "--global", "--type=path", "core.attributesFile")
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return "--global", Path(file) if file else Path(folder) / "git" / "attributes"


def _driver(scope: str) -> str:
    return _git("config", scope, _KEY)


def _command() -> str:
    program = "mergec" if shutil.which("mergec") else f"{shlex.quote(sys.executable)} -m mergec"
    return f"{program} canon --textconv"


def _is_ours(driver: str) -> bool:
    return driver.endswith("mergec canon --textconv")


def _attribute(pattern: str) -> bytes:
    """A line of attributes; a pattern with spaces or quotes is quoted as git wants it."""
    if re.search(r'[\s"]|^[#!]', pattern):
        escaped = pattern.replace("\\", "\\\\").replace('"', '\\"')
        pattern = f'"{escaped}"'
    return f"{pattern} diff=mergec\n".encode()


def _git(*arguments: str) -> str:
    """What git answers, "" where it has no answer."""
    done = call_git(*arguments)
    return done.stdout.decode().rstrip("\n") if done.returncode == 0 else ""


def _set(*arguments: str) -> None:
    done = call_git(*arguments)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise UsageError("E685", f"git {arguments[0]} failed: {said}", "may you write its settings?")
