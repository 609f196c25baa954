"""The command that takes recipes over from mergekit: import."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("import")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the recipe into this file.")
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the recipe and the report as JSON.")
def import_(recipe: Path, out: Path | None, force: bool, as_json: bool) -> int:
    """Print mergekit's RECIPE as one of mergec's that gives the same numbers; - is standard input.

    What mergekit ignores is commented out, and what means something else is reported, line by line. A recipe that
    is mergec's already stays as it is.
    """
    from mergec.cli.recipes import finding
    from mergec.cli.texts import read_text
    from mergec.errors import RecipeError
    from mergec.io.replace import replace_file
    from mergec.recipe.peer.convert import import_text

    text, name = read_text(recipe)
    if out is not None:
        _check_out(out, force)
    try:
        made = import_text(text, name, (out or recipe).parent)
    except RecipeError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"recipe": None, "findings": [finding(one) for one in error.problems]}, indent=2))
        return error.exit_code
    if out is not None:
        replace_file(out, made.text.encode())
    if as_json:
        found = [finding(one) for one in made.findings]
        click.echo(json.dumps({"recipe": made.text, "is_changed": made.text != text, "findings": found}, indent=2))
        return 0
    for one in made.findings:
        click.echo(one, err=True)
    if made.text == text:
        click.echo(f"{name}: nothing to change", err=True)
    click.echo(made.text, nl=False) if out is None else click.echo(f"wrote {out}", err=True)
    return 0


def _check_out(out: Path, force: bool) -> None:
    """Refuse to write over a file, or where there is no folder (E722)."""
    from mergec.errors import UsageError

    if out.is_dir():
        raise UsageError("E722", f"{out} is a folder", f"name a file in it, such as {out / 'recipe.yml'}")
    if out.exists() and not force:
        raise UsageError("E722", f"{out} is there already", "choose another name, or --force to replace it")
    if not out.parent.is_dir():
        raise UsageError("E722", f"no folder {out.parent} to write {out.name} in", "make it, or mind the name")
