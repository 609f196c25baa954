"""The command that gives a model another model's tokenizer: tokens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mergec.cli.options import compile_options, layout_options, run_flags, run_options
from mergec.errors import near

_APPROXIMATIONS = ["omp", "common_interpolation", "landmark_pca", "subword", "mean", "zero", "randn", "john_hewitt"]
_NOT_HERE = {
    "stb": "a dense basis of tokens; it fails in mergekit 0.1.5 whatever it is given",
    "mp_rope": "rows of embeddings have no positions that could be rotated",
}
_SCHEMES = ["distance_proportional", "barycentric", "least_squares"]
_SUBWORDS = ["mean", "sum", "weighted_mean", "first_last"]
_WHERE = click.Choice(["no", "yes", "embed", "lm_head"])


class _Approximation(click.Choice):  # type: ignore[type-arg]
    """A choice that says why a word of mergekit's is none, and which one may be meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.choices:
            return value
        known = ", ".join(self.choices)
        if value in _NOT_HERE:
            self.fail(f"'{value}' is not here: {_NOT_HERE[value]}; there are {known}", param, ctx)
        self.fail(f"no approximation '{value}'; {near(value, self.choices) or f'there are {known}'}", param, ctx)


@click.command()
@click.argument("model")
@click.argument("donor")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    *("-a", "--approximation-method", "approximation"),
    type=_Approximation(_APPROXIMATIONS),
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
    type=_WHERE,
    default="no",
    show_default=True,
    help="Copy the row of a new token's longest known prefix.",
)
@click.option(
    *("-bm", "--byte-match"),
    type=_WHERE,
    default="no",
    show_default=True,
    help="Let the token of a byte, <0x41>, and its letter stand for one another.",
)
@click.option(
    *("-nvn", "--new-vocab-noise"),
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Normal noise on rows that are made.",
)
@click.option(
    *("-nvs", "--new-vocab-scale"), type=float, default=1.0, show_default=True, help="What they are multiplied by."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="What randn, john_hewitt and noise draw from.",
)
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
    made = compile_transplant(model, donor, wanted, compile_options(values))
    if plan_only:
        click.echo(plan_text(made.plan))
        return 0
    code = execute(made.plan, out, [], flags)
    if code == 0 and not flags.quiet:
        event = {"event": "tokens", "tensors": [asdict(one) for one in made.tensors]}
        click.echo(json.dumps(event) if flags.as_json else "\n".join(map(str, made.tensors)))
    return code
