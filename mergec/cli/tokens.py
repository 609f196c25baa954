"""The command that gives a model another model's tokenizer: tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mergec.cli.options import compile_options, layout_options, run_flags, run_options

_APPROXIMATIONS = ["omp", "common_interpolation", "subword", "mean", "zero", "randn"]
_SCHEMES = ["distance_proportional", "barycentric", "least_squares"]
_SUBWORDS = ["mean", "sum", "weighted_mean", "first_last"]


@click.command()
@click.argument("model")
@click.argument("donor")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    *("-a", "--approximation-method", "approximation"),
    type=click.Choice(_APPROXIMATIONS),
    default="omp",
    show_default=True,
    help="How rows of new tokens are made.",
)
@click.option("-k", type=click.IntRange(min=1), default=64, show_default=True, help="Shared tokens that make up one.")
@click.option(
    *("-w", "--weight-scheme"),
    type=click.Choice(_SCHEMES),
    default=_SCHEMES[0],
    show_default=True,
    help="common_interpolation: how they are weighed.",
)
@click.option("-c", "--cosine-similarity", is_flag=True, help="common_interpolation: the nearest by cosine.")
@click.option(
    *("-s", "--subword-method"),
    type=click.Choice(_SUBWORDS),
    default=_SUBWORDS[0],
    show_default=True,
    help="subword: how pieces make a token.",
)
@click.option(
    *("-pm", "--prefix-match"),
    type=click.Choice(["no", "yes", "embed", "lm_head"]),
    default="no",
    show_default=True,
    help="Copy the row of a new token's longest known prefix.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="What randn draws from.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be done, and do nothing.")
@layout_options
@run_options
def tokens(model: str, donor: str, out: Path, plan_only: bool, **values: Any) -> int:
    """Write into OUT the MODEL with the tokenizer of DONOR: a row for each of its tokens, all else as it was.

    Tokens of both keep the model's rows; a new one's is made as --approximation-method says.
    """
    from mergec.cli.runs import execute
    from mergec.compiler.text import plan_text
    from mergec.compiler.transplant import Wanted, compile_transplant

    flags = run_flags(values)
    wanted = Wanted(**{name: values.pop(name) for name in Wanted.__dataclass_fields__})
    plan = compile_transplant(model, donor, wanted, compile_options(values))
    if plan_only:
        click.echo(plan_text(plan))
        return 0
    code = execute(plan, out, [], flags)
    if code == 0 and not flags.quiet:
        click.echo(json.dumps({"event": "tokens", "notes": plan.notes}) if flags.as_json else "\n".join(plan.notes))
    return code
