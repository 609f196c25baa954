"""Commands about recipes and methods: new, check, methods, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergec.cli.options import compile_options, plan_options, plugin_option, with_seed

if TYPE_CHECKING:
    from mergec.errors import Problem


@click.command()
@click.argument("method")
@plugin_option
def new(method: str) -> None:
    """Print a commented recipe for METHOD, ready to be edited."""
    from mergec.recipe.new import recipe_text

    click.echo(recipe_text(method), nl=False)


@click.command()
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(
    recipes: tuple[Path, ...], overrides: tuple[tuple[str, str], ...], seed: int | None, as_json: bool, **values: Any
) -> int:
    """Say everything that is wrong with each RECIPE and its inputs. Reads headers, never weights."""
    from mergec.compiler.analyse import analyse
    from mergec.compiler.compile import compile_with_remarks
    from mergec.compiler.lint import lint
    from mergec.errors import RecipeError, count
    from mergec.recipe.load import read_document

    all_overrides = with_seed(overrides, seed)
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for recipe in recipes:
        try:
            analysis = analyse(read_document(recipe, all_overrides))
            plan, remarks = compile_with_remarks(analysis, all_overrides, compile_options(values))
        except RecipeError as error:  # the others are checked all the same
            problems += error.problems
            continue
        lints = lint(analysis)
        warnings += [*analysis.warnings, *remarks, *lints]
        if not as_json:
            for warning in (*plan.warnings, *lints):
                click.echo(warning, err=True)
            made = f"{count(len(plan.outputs), 'tensor')} from {count(len(plan.models), 'model')}"
            click.echo(f"{recipe}: ok, {made}; no weights were read")
    wrong = RecipeError(problems)
    if as_json:
        click.echo(json.dumps([finding(problem) for problem in (*wrong.problems, *warnings)], indent=2))
    elif problems:
        raise wrong
    return wrong.exit_code if problems else 0


def finding(problem: Any) -> dict[str, Any]:
    """A problem for JSON."""
    place = problem.place
    return {
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "severity": "error" if problem.is_error else "warning",
        "code": problem.code,
        "what": problem.what,
        "hint": problem.hint,
    }


@click.command()
@click.argument("name", required=False)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write a page per method into FOLDER.",
)
@plugin_option
def methods(name: str | None, markdown: Path | None) -> None:
    """List the merge methods, or explain the one called NAME."""
    if markdown is not None:
        _write_pages(markdown, name)
        return
    from mergec.ops.registry import find_method
    from mergec.ops.registry import methods as known
    from mergec.ops.step import Step, steps
    from mergec.recipe.experts import MOE, moe
    from mergec.recipe.new import experts_text, method_text, pass_text, vocabulary_text
    from mergec.recipe.steps import PIPELINE, SUMMARY

    passes = steps()["post"]
    if name in (PIPELINE, MOE):
        click.echo(vocabulary_text() if name == PIPELINE else experts_text())
        return
    if name:
        found = passes[name] if name in passes else find_method(name, also=[PIPELINE, MOE, *passes])
        click.echo(pass_text(found) if isinstance(found, Step) else method_text(found))
        return
    table = {method.name: method.summary for method in known().values()} | {PIPELINE: SUMMARY, MOE: moe().summary}
    table |= {f"post: {name}": one.doc.partition("\n")[0] for name, one in passes.items()}
    width = max(map(len, table))
    for label, summary in table.items():
        click.echo(f"{label:<{width}}  {summary}")


def _write_pages(folder: Path, name: str | None) -> None:
    from mergec.compiler.pages import pages
    from mergec.errors import UsageError, count, path_text

    if name:
        raise click.UsageError("--markdown writes the pages of all methods, so it takes no NAME")
    made = pages()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in made.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError("E503", f"cannot write into {folder}: {error.strerror or error}", "") from None
    click.echo(f"{path_text(str(folder))}: {count(len(made), 'page')}")


@click.command()
@plugin_option
def schema() -> None:
    """Print the JSON Schema of the recipe language, for editors."""
    from mergec.recipe.jsonschema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
