"""A recipe's file: its bytes and its text, or what is wrong with it as a file."""

from __future__ import annotations

from pathlib import Path

from mergec.errors import Place, Problem, RecipeError, did_you_mean
from mergec.recipe.document import MAX_TEXT_BYTES, too_large


def read_bytes(path: Path) -> bytes:
    """A recipe file's bytes. Raises RecipeError: E008 where it cannot be read, E009 where it is too large."""
    start = Place(str(path), 1, 1)
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise too_large(str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise RecipeError([Problem(start, "E008", "no such file", _near_files(path.parent, path.name))]) from None
    except OSError as error:
        what = f"cannot read the recipe: {error.strerror or error}"
        raise RecipeError([Problem(start, "E008", what, _near_files(path, "") if path.is_dir() else "")]) from None


def decoded(data: bytes, file: str) -> str:
    """Bytes as text. Raises RecipeError (E008) where they are not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()
        place = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        what = "cannot read the recipe: not UTF-8 text"
        raise RecipeError([Problem(place, "E008", what, "save it as UTF-8")]) from None


def _near_files(folder: Path, name: str) -> str:
    try:
        recipes = [path.name for path in folder.iterdir() if path.suffix in (".yml", ".yaml")]
    except OSError:
        return ""
    return did_you_mean(name, recipes) if recipes else "`mergec new ties` prints a recipe to start from"
