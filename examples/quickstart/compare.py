"""Merge the quick-start specialists with every recipe of recipes/, score each merge, and print one table.

A recipe is taken as it is, with its models replaced: `base`, and as many of the specialists as the method takes, each
with the settings of the recipe's first model. Nothing is tuned. A method that makes an artifact is scored task by task,
each skill by the model that is made for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ruamel.yaml import YAML
from score import HERE, TRAINED, Candidate, exact_match, load
from skills import SKILLS, split_numbers
from transformers.utils import logging

import mergec
from mergec.api import adopt
from mergec.compiler.materialize import compile_task
from mergec.ops.registry import methods

RECIPES = HERE.parents[1] / "recipes"
SPECIALISTS = tuple(SKILLS)


class Row(NamedTuple):
    """One line of the table: the share of right answers by skill, and which models took part."""

    name: str
    models: str
    scores: dict[str, float]

    @property
    def mean(self) -> float:
        return sum(self.scores.values()) / len(self.scores)


def fitted(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of recipes/ for the quick-start models."""
    known = methods().get(recipe["merge_method"])
    high = known.models[1] if known else None
    needs_base = known is None or known.base != "input"
    first = recipe["models"][0].get("parameters", {})
    chosen = SPECIALISTS[: high or len(SPECIALISTS)]
    models = [{"model": str(HERE / name), "parameters": first} for name in chosen]
    based = {"base_model": str(HERE / "base")} if needs_base and "base_model" in recipe else {}
    return {**recipe, **based, "models": models, "dtype": "bfloat16"}


def merged(recipe: dict[str, Any], folder: Path) -> Path:
    """Run a recipe into a folder."""
    path, out = folder / "recipe.yml", folder / "out"
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(recipe, stream)
    mergec.compile(path).run(out)
    return out


def scored(out: Path, name: str, models: str, numbers: list[int]) -> Row:
    """A dense model by all skills, or for each skill the model that an artifact makes of its task."""
    if not (out / "mergec_artifact.json").is_file():
        made = dict.fromkeys(SKILLS, load(out))
    else:
        made = {skill: _task(out, skill) for skill in SKILLS}
    return Row(name, models, {skill: exact_match(made[skill], skill, numbers) for skill in SKILLS})


def _task(out: Path, skill: str) -> Candidate:
    dense = out.parent / skill
    adopt(compile_task(out, skill)).run(dense)
    return load(dense)


def rows(names: Sequence[str], numbers: list[int]) -> Iterator[Row]:
    """The trained models, then a merge for each recipe."""
    for folder in TRAINED:
        candidate = load(folder)
        yield Row(candidate.name, "", {skill: exact_match(candidate, skill, numbers) for skill in SKILLS})
    for name in names:
        recipe = fitted(YAML(typ="safe").load((RECIPES / f"{name}.yml").read_text(encoding="utf-8")))
        with tempfile.TemporaryDirectory() as folder:
            out = merged(recipe, Path(folder))
            count = len(recipe["models"])
            models = "all" if count == len(SPECIALISTS) else ", ".join(SPECIALISTS[:count])
            yield scored(out, name, models, numbers)


def markdown(table: Sequence[Row]) -> str:
    """The page of the documentation: what was done, and the table, the best merges first."""
    trained, merges = table[: len(TRAINED)], sorted(table[len(TRAINED) :], key=lambda row: (-row.mean, row.name))
    head = [f"| model | specialists | {' | '.join(SKILLS)} | mean |", f"|---|---|{'---|' * (len(SKILLS) + 1)}"]
    lines = [
        "<!-- made by `python examples/quickstart/compare.py --write docs/accuracy.md` -->",
        "",
        "# How the methods do",
        "",
        *(__doc__ or "").strip().splitlines(),
        "",
        "The share of 200 held-out numbers that is spelt right to the letter. One answer is worth 0.005, so small",
        "distances mean nothing; and what is best for three tiny models that spell numbers need not be for yours.",
        "",
        *head,
        *(_cells(row) for row in trained),
        *(_cells(row) for row in merges),
        "",
    ]
    return "\n".join(lines)


def _cells(row: Row) -> str:
    has_page = (HERE.parents[1] / "docs" / "methods" / f"{row.name}.md").is_file()
    name = f"[{row.name}](methods/{row.name}.md)" if has_page else row.name
    numbers = " | ".join(f"{value:.3f}" for value in (*row.scores.values(), row.mean))
    return f"| {name} | {row.models} | {numbers} |"


def main() -> int:
    """Print a row as soon as it is known; write the page if asked to."""
    known = sorted(path.stem for path in RECIPES.glob("*.yml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="names of recipes; left out: all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as a page of Markdown")
    parser.add_argument("--numbers", type=int, default=200, metavar="N", help="how many held-out numbers are asked for")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.recipes) - set(known))
    if unknown:
        print(f"compare.py: no recipe {', '.join(unknown)} in {RECIPES}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    table: list[Row] = []
    print(f"{'model':<18}" + "".join(f"{title:>10}" for title in (*SKILLS, "mean")))
    for row in rows(arguments.recipes or known, split_numbers()["heldout"][: arguments.numbers]):
        print(f"{row.name:<18}" + "".join(f"{value:10.3f}" for value in (*row.scores.values(), row.mean)), flush=True)
        table.append(row)
    if arguments.write:
        arguments.write.write_text(markdown(table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
