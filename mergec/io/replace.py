"""Replace a file at once: a reader, or a crash, finds the old bytes or the new ones, never half of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from mergec.errors import RunError


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new bytes and leave its mode bits; a link stays a link to the file that is replaced.

    Raises RunError (E681) where the folder cannot be written; the file is then as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            what = f"cannot write {path}: {error.strerror or error}"
            raise RunError("E681", what, "may you write in its folder?") from None
        raise
