"""Commands that show what would be done: plan, explain, inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mergec.cli.options import RECIPE, compile_options, plan_options, with_seed


@click.command()
@RECIPE
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan as JSON; `mergec run` takes such a file.")
@click.option("--dot", metavar="TENSOR", help="Print one tensor's graph for Graphviz.")
@click.option("--mermaid", metavar="TENSOR", help="Print one tensor's graph for Mermaid.")
def plan(
    recipe: Path,
    overrides: tuple[tuple[str, str], ...],
    seed: int | None,
    as_json: bool,
    dot: str | None,
    mermaid: str | None,
    **values: Any,
) -> None:
    """Show what running RECIPE would do. Reads headers, never weights."""
    if sum(map(bool, (as_json, dot, mermaid))) > 1:
        raise click.UsageError("--json, --dot and --mermaid exclude each other")
    from mergec.compiler import draw, text
    from mergec.compiler.compile import compile_recipe

    made = compile_recipe(recipe, with_seed(overrides, seed), compile_options(values))
    for warning in made.warnings:
        click.echo(warning, err=True)
    if as_json:
        click.echo(made.to_json())
    elif dot or mermaid:
        root = made.root(made.kinds[text.find_output(made, dot or mermaid or "").kind])
        click.echo(draw.dot(root) if dot else draw.mermaid(root))
    else:
        click.echo(text.plan_text(made))


@click.command()
@RECIPE
@click.argument("tensor")
@plan_options
def explain(recipe: Path, tensor: str, overrides: tuple[tuple[str, str], ...], seed: int | None, **values: Any) -> None:
    """Show how TENSOR of RECIPE is made: formula, inputs, every setting with its line, graph."""
    from mergec.compiler import text
    from mergec.compiler.compile import analyse, compile_analysis
    from mergec.recipe.load import read_document

    all_overrides = with_seed(overrides, seed)
    analysis = analyse(read_document(recipe, all_overrides))
    click.echo(text.explain_text(analysis, compile_analysis(analysis, all_overrides, compile_options(values)), tensor))


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def inspect(model: str, as_json: bool) -> None:
    """Show what the headers of MODEL say: a folder, a .safetensors file or a Hugging Face id."""
    from mergec.compiler.facts import inspect_facts, inspect_text
    from mergec.compiler.inventory import open_model

    found = open_model(model, Path())
    click.echo(json.dumps(inspect_facts(found), indent=2) if as_json else inspect_text(found))
