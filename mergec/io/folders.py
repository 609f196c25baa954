"""Folders: what to say where one that was named is not there."""

from __future__ import annotations

from pathlib import Path

from mergec.errors import did_you_mean


def near_folders(folder: Path) -> str:
    """What a folder that does not exist may be a misspelling of; "" where its parent cannot be read."""
    try:
        return did_you_mean(folder.name, [entry.name for entry in folder.parent.iterdir() if entry.is_dir()])
    except OSError:
        return ""
