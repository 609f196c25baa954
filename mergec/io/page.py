"""Writes a page: whole or not at all, and over nothing but an earlier page unless that is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mergec.errors import UsageError, path_text
from mergec.io.replace import replace

MARK = '<meta name="generator" content="mergec">'
"""What a page of mergec's has among its first bytes."""

_HEAD_BYTES = 2048


def write_page(out: Path, text: str, *, force: bool, inputs: Iterable[str] = ()) -> None:
    """Write a page by a rename, so that a reader sees the old one or the new one.

    Raises UsageError if something else lies there and `force` is not given, or one of the `inputs` does (E690), if
    there is no such folder (E691), or if it cannot be written (E692).
    """
    place = Path(os.path.realpath(out))
    try:
        _check(out, place, force, {os.path.realpath(path) for path in inputs})
        replace(place, text.encode())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            "E692", f"cannot write {out}: {why}", "is the folder yours, and the name one for files?"
        ) from None


def _check(out: Path, place: Path, force: bool, inputs: set[str]) -> None:
    if place.is_dir():
        raise UsageError("E690", f"{out} is a folder", f"name a file in it, such as {out / 'plan.html'}")
    if not place.parent.is_dir():
        raise UsageError(
            "E691", f"no folder {path_text(str(place.parent))} to write {place.name} in", "make it, or mind the name"
        )
    if str(place) in inputs:
        raise UsageError("E690", f"{out} is an input of this plan", "give the page a file of its own")
    if not force and place.exists() and not _is_page(place):
        raise UsageError(
            "E690", f"{out} is there, and is no page of mergec's", "choose another name, or --force to replace it"
        )


def _is_page(place: Path) -> bool:
    """Whether a file is a page, or empty."""
    if not place.is_file():
        return False
    with place.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return not head or MARK.encode() in head
