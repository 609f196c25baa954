"""Commands about the text of recipes: fmt."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

_STDIN = Path("-")


@click.command()
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--check", "is_check", is_flag=True, help="Write nothing; exit with 1 if a recipe would change.")
@click.option("--diff", "is_diff", is_flag=True, help="Write nothing; print what would change.")
def fmt(recipes: tuple[Path, ...], is_check: bool, is_diff: bool) -> int:
    """Lay out each RECIPE in the one canonical way, in place; - is standard input, written to standard output."""
    from mergec.errors import Problem, RecipeError
    from mergec.io.replace import replace_file
    from mergec.recipe.format import format_text

    problems: list[Problem] = []
    is_changed = False
    for path in recipes:
        name = "<stdin>" if path == _STDIN else str(path)
        try:
            data, text = _read(path, name)
            made = format_text(text, name)
        except RecipeError as error:  # the others are formatted all the same
            problems += error.problems
            continue
        differs = made.encode() != data
        is_changed |= differs
        if is_diff:
            before, after = text.splitlines(), made.splitlines()
            for line in difflib.unified_diff(before, after, name, name, "as it is", "formatted", lineterm=""):
                click.echo(line)
        elif path == _STDIN and not is_check:
            click.echo(made.encode(), nl=False)
        elif differs and is_check:
            click.echo(f"would change {name}")
        elif differs:
            replace_file(path, made.encode())
            click.echo(f"formatted {name}")
    if problems:
        raise RecipeError(problems)
    return int(is_check and is_changed)


def _read(path: Path, name: str) -> tuple[bytes, str]:
    """The bytes of a recipe and its text."""
    from mergec.recipe.load import decoded, read_bytes

    data = sys.stdin.buffer.read() if path == _STDIN else read_bytes(path)
    return data, decoded(data, name)
