"""Replace a file at once: a reader, or a crash, finds the old bytes or the new ones, never half of them."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from mergec.errors import RunError


def replace(path: Path, data: bytes) -> None:
    """Give a file new bytes and leave its mode bits; a link stays a link to the file that is replaced.

    Raises OSError where the folder cannot be written; the file is then as it was.
    """
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, draft)
        os.replace(draft, target)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """The same for a file of the user's. Raises RunError (E681)."""
    try:
        replace(path, data)
    except OSError as error:
        what = f"cannot write {path}: {error.strerror or error}"
        raise RunError("E681", what, "may you write in its folder?") from None
