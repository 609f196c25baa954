"""Commands about the text of recipes: fmt, canon, git."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

from mergec.cli.options import plugin_option

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
    from mergec.recipe.source import decoded

    problems: list[Problem] = []
    is_changed = False
    for path in recipes:
        try:
            data, name = _read(path)
            text = decoded(data, name)
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


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--textconv", is_flag=True, help="Print what is no recipe, or a wrong one, as it is; exit with 0.")
@plugin_option
def canon(recipe: Path, textconv: bool) -> None:
    """Print RECIPE in canonical form: no comments, no defaults, one order and spelling. Needs no models."""
    from mergec.errors import MergecError
    from mergec.recipe.canon import canonical_text
    from mergec.recipe.source import decoded

    data, name = _read(recipe)
    try:
        text = canonical_text(decoded(data, name), name)
    except MergecError:
        if not textconv:
            raise
        click.echo(data, nl=False)
    else:
        click.echo(text.encode(), nl=False)


@click.group()
def git() -> None:
    """Make `git diff` compare what recipes mean, or have it compare their texts again."""


@git.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--global", "everywhere", is_flag=True, help="For all repositories of this user.")
def install(patterns: tuple[str, ...], everywhere: bool) -> None:
    """Show files by `mergec canon` in git's diffs: those of PATTERN, by default *.yml and *.yaml."""
    from mergec.io.git import install as install_driver

    for line in install_driver(patterns or ("*.yml", "*.yaml"), everywhere):
        click.echo(line)


@git.command()
@click.option("--global", "everywhere", is_flag=True, help="For all repositories of this user.")
def uninstall(everywhere: bool) -> None:
    """Take back what `mergec git install` did, and nothing else."""
    from mergec.io.git import uninstall as uninstall_driver

    for line in uninstall_driver(everywhere):
        click.echo(line)


def _read(path: Path) -> tuple[bytes, str]:
    """The bytes of a recipe, - being standard input, and what to call it."""
    from mergec.recipe.source import read_bytes

    return (sys.stdin.buffer.read(), "<stdin>") if path == _STDIN else (read_bytes(path), str(path))


def read_text(path: Path) -> tuple[str, str]:
    """The text of a recipe, - being standard input, and what to call it. Raises RecipeError (E008, E009)."""
    from mergec.recipe.source import decoded

    data, name = _read(path)
    return decoded(data, name), name
