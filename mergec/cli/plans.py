"""Commands that show what would be done: plan, explain, inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergec.cli.options import RECIPE, compile_options, plan_options, with_seed
from mergec.keys import plan_hash
from mergec.planfile import plan_json

if TYPE_CHECKING:
    from mergec.plan import Plan


@click.command()
@RECIPE
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan as JSON; `mergec run` takes such a file.")
@click.option("--dot", metavar="TENSOR", help="Print one tensor's graph for Graphviz.")
@click.option("--mermaid", metavar="TENSOR", help="Print one tensor's graph for Mermaid.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the plan as a page to look at; - prints it.")
@click.option("--force", is_flag=True, help="Let --html replace a file that is no page of mergec's.")
def plan(
    recipe: Path,
    overrides: tuple[tuple[str, str], ...],
    seed: int | None,
    as_json: bool,
    dot: str | None,
    mermaid: str | None,
    html: Path | None,
    force: bool,
    **values: Any,
) -> None:
    """Show what running RECIPE would do. Reads headers, never weights."""
    if sum(map(bool, (as_json, dot, mermaid, html))) > 1:
        raise click.UsageError("--json, --dot, --mermaid and --html exclude each other")
    if force and not html:
        raise click.UsageError("--force goes with --html")
    from mergec.compiler import draw, text
    from mergec.compiler.analyse import analyse
    from mergec.compiler.compile import compile_analysis
    from mergec.compiler.lint import lint
    from mergec.recipe.load import read_document

    all_overrides = with_seed(overrides, seed)
    analysis = analyse(read_document(recipe, all_overrides))
    made = compile_analysis(analysis, all_overrides, compile_options(values))
    warnings = [*made.warnings, *map(str, lint(analysis))]
    for warning in warnings:
        click.echo(warning, err=True)
    if html:
        from mergec.compiler.page import page_html

        _show_page(html, page_html(analysis, made, warnings), made, force)
    elif as_json:
        click.echo(plan_json(made))
    elif dot or mermaid:
        root = made.root(made.kinds[text.find_output(made, dot or mermaid or "").kind])
        click.echo(draw.dot(root) if dot else draw.mermaid(root))
    else:
        click.echo(text.plan_text(made))


def _show_page(out: Path, page: str, made: Plan, force: bool) -> None:
    from mergec.errors import size_text
    from mergec.io.page import write_page

    if str(out) == "-":
        click.echo(page, nl=False)
        return
    write_page(out, page, force=force, inputs=[made.recipe_path, *(file.path for file in made.files)])
    click.echo(f"{out}: plan {plan_hash(made)[:12]} as a page of {size_text(len(page.encode()))}")


@click.command()
@RECIPE
@click.argument("tensor", required=False)
@plan_options
@click.option("--table", "pattern", metavar="GLOB", help="Show settings of all tensors like GLOB, one a row.")
@click.option("--param", "parameters", metavar="NAME", multiple=True, help="A parameter to show; all that are set.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def explain(
    recipe: Path,
    tensor: str | None,
    overrides: tuple[tuple[str, str], ...],
    seed: int | None,
    pattern: str | None,
    parameters: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Show how TENSOR of RECIPE is made: formula, inputs, every setting with its line, graph.

    With --table, show the settings of many tensors instead.
    """
    if (tensor is None) == (pattern is None):
        raise click.UsageError("give the name of a tensor, or --table and a pattern such as '*.mlp.*'")
    if (as_csv and as_json) or (pattern is None and (parameters or as_csv or as_json)):
        raise click.UsageError("--param, and one of --csv and --json, go with --table")
    from mergec.compiler import tabulate, text
    from mergec.compiler.analyse import analyse
    from mergec.compiler.compile import compile_analysis
    from mergec.recipe.load import read_document

    all_overrides = with_seed(overrides, seed)
    analysis = analyse(read_document(recipe, all_overrides))
    plan = compile_analysis(analysis, all_overrides, compile_options(values))
    if pattern is None:
        click.echo(text.explain_text(analysis, plan, tensor or ""))
        return
    show = tabulate.table_csv if as_csv else tabulate.table_json if as_json else tabulate.table_text
    click.echo(show(tabulate.tabulate(analysis, pattern, parameters)))


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def inspect(model: str, as_json: bool) -> None:
    """Show what the headers of MODEL say: a folder, a .safetensors file or a Hugging Face id."""
    from mergec.compiler.facts import inspect_facts, inspect_text
    from mergec.compiler.models import open_model

    found = open_model(model, Path(), as_stored=True)
    click.echo(json.dumps(inspect_facts(found), indent=2) if as_json else inspect_text(found))
