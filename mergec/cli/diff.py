"""The command that compares results: diff."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mergec.cli.options import plugin_option


@click.command()
@click.argument("old", metavar="A", type=click.Path(path_type=Path))
@click.argument("new", metavar="B", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
@plugin_option
def diff(old: Path, new: Path, as_json: bool) -> int:
    """Say what recipe B changes in the result of recipe A: the settings that differ, then the tensors that do.

    Reads headers, never weights. Exit code 0 if both give the same result, 1 if not.
    """
    from mergec.compiler import difftext
    from mergec.compiler.compile import Options, analyse, compile_analysis
    from mergec.compiler.diff import Side
    from mergec.compiler.diff import diff as compare
    from mergec.recipe.load import read_document

    sides = []
    for path in (old, new):
        analysis = analyse(read_document(path))
        sides.append(Side(str(path), compile_analysis(analysis, (), Options()), analysis))
    found = compare(*sides)
    click.echo(json.dumps(difftext.diff_json(found), indent=2) if as_json else difftext.diff_text(found))
    return 0 if found.is_same else 1
