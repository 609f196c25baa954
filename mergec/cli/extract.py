"""The command that makes an adapter of a fine-tuned model: extract-lora."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergec.cli.options import compile_options, layout_options, run_flags, run_options

if TYPE_CHECKING:
    from mergec.execute.roundtrip import Distance


def _patterns(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> tuple[str, ...]:
    for text in texts:
        try:
            re.compile(text)
        except re.error as error:
            raise click.BadParameter(f"{text!r} is no regular expression: {error}") from None
    return tuple(texts)


@click.command("extract-lora")
@click.argument("base")
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--rank", "--max-rank", type=click.IntRange(min=1), default=32, show_default=True, help="Largest rank.")
@click.option("--include-regex", "-i", multiple=True, callback=_patterns, help="Modules to take.  [default: all]")
@click.option("--exclude-regex", "-e", multiple=True, callback=_patterns, help="Modules to leave out.")
@click.option("--save-embeddings", is_flag=True, help="Store embeddings whole; else they are left as in BASE.")
@click.option("--embed-lora", "embed", is_flag=True, help="Make factors of embeddings too.")
@click.option("--save-module", "save", multiple=True, metavar="NAME", help="Store modules whole that end in NAME.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@layout_options
@run_options
def extract_lora(
    base: str,
    model: str,
    out: Path,
    rank: int,
    include_regex: tuple[str, ...],
    exclude_regex: tuple[str, ...],
    save_embeddings: bool,
    embed: bool,
    save: tuple[str, ...],
    dtype: str,
    **values: Any,
) -> int:
    """Write into OUT the LoRA adapter that takes BASE closest to MODEL, and say how close that is.

    MODEL may be a recipe: then the adapter is that of the merge, which is not written itself.
    """
    from mergec.cli.runs import execute
    from mergec.compiler.extract import Wanted, compile_extraction
    from mergec.execute.roundtrip import round_trip

    wanted = Wanted(rank, include_regex, exclude_regex, dtype, save_embeddings, embed, save)
    flags = run_flags(values)
    made = compile_extraction(base, model, wanted, compile_options(values))
    steps = [("add it to its base", f"model: {base}+{out}")]
    code = execute(made.plan, out, steps, flags, is_model=False)
    if code == 0 and not flags.quiet:
        found = round_trip(made.stored, made.sizes, out, made.merge)
        click.echo(_json(found) if flags.as_json else _text(found, made.plan.notes))
    return code


def _text(found: Mapping[str, Distance], notes: Sequence[str]) -> str:
    from mergec.compiler.text import table
    from mergec.execute.roundtrip import Distance

    rows = [(kind, f"{one.error:.2%}") for kind, one in found.items()]
    rows.append(("all", f"{sum(found.values(), Distance()).error:.2%}"))
    return "\n".join(["what the adapter misses of the change, |X - (W + B A)| / |X - W|", *table(rows), *notes])


def _json(found: Mapping[str, Distance]) -> str:
    import json

    from mergec.execute.roundtrip import Distance

    errors = {kind: one.error for kind, one in found.items()}
    return json.dumps({"event": "round_trip", "errors": errors, "all": sum(found.values(), Distance()).error})
