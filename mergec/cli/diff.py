"""The command that compares results: diff."""

from __future__ import annotations

import json

import click

from mergec.cli.options import plugin_option


@click.command()
@click.argument("operands", metavar="[A [B]]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown for a comment on a pull request.")
@click.option("--stat", is_flag=True, help="Print a line of counts for each recipe.")
@click.option("--tensors", metavar="GLOB", help="List tensors like GLOB one by one.")
@click.option("--params", is_flag=True, help="Show every value that a setting has for the tensors that change.")
@click.option("--text", "wording", is_flag=True, help="Also show what is written otherwise and says the same.")
@plugin_option
def diff(
    operands: tuple[str, ...],
    as_json: bool,
    as_markdown: bool,
    stat: bool,
    tensors: str | None,
    params: bool,
    wording: bool,
) -> int:
    """Say what B changes in the result of A: the settings that differ, then the tensors that do.

    A and B are recipes, REV:path of git, mergec.lock files, outputs of a merge, or plans (`mergec plan --json`). Of one
    recipe alone, HEAD is compared with the working tree; of none, every recipe that is tracked; revisions in place of A
    and B compare every recipe of theirs.

    Reads headers, never weights; where models are absent, the headers that a lock has kept. Exit code 0: the same
    result, 1: another, 2: one of them cannot be compiled.
    """
    from mergec.compiler.diff import Difference, Lone
    from mergec.compiler.diff import diff as compare
    from mergec.compiler.diffjson import diff_json
    from mergec.compiler.difftext import Show, diff_markdown, diff_text
    from mergec.compiler.operands import is_of_trees, pairs
    from mergec.errors import Problem, RecipeError

    if len(operands) > 2:
        raise click.UsageError(f"diff compares two, found {len(operands)}: {' '.join(operands)}")
    show = Show(stat, tensors, params, wording)
    if sum((as_json, as_markdown, show != Show())) > 1 or (stat and (tensors or params or wording)):
        raise click.UsageError("--json, --markdown, --stat, and --tensors with --params and --text exclude each other")
    wanted = pairs(operands)
    found: list[Difference | Lone] = []
    problems: list[Problem] = []
    for pair in wanted:
        try:
            found.append(compare(*pair.sides()) if pair.old and pair.new else Lone(pair.name, pair.old is None))
        except RecipeError as error:
            if len(wanted) == 1:
                raise
            problems += error.problems
    if as_json:
        documents = [diff_json(one) for one in found]
        click.echo(json.dumps(documents if is_of_trees(operands) or len(wanted) > 1 else documents[0], indent=2))
    else:
        between = "\n" if stat or as_markdown else "\n\n"
        texts = [diff_markdown(one) if as_markdown else diff_text(one, show) for one in found]
        click.echo(between.join(texts).rstrip("\n") or "no recipe differs")
    if problems:
        raise RecipeError(problems)
    return 0 if all(one.is_same for one in found) else 1
