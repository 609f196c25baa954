"""Prompts: the texts that experts are asked for, as the token numbers that the base's tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from mergec.compiler.models import Model
from mergec.errors import InputError, Problem
from mergec.io.vocabulary import open_tokenizer, read_vocabulary
from mergec.recipe.schema import Recipe

Tokens: TypeAlias = tuple[int, ...]


class Prompts(NamedTuple):
    """What is routed to an expert, and what to others: each prompt as its tokens."""

    positive: tuple[Tokens, ...]
    negative: tuple[Tokens, ...]


def read_prompts(recipe: Recipe, base: Model, rows: int) -> tuple[dict[str, tuple[Prompts, ...]], list[Problem]]:
    """The prompts of `experts` and `shared_experts`, in their order, and those that are none.

    Each begins with the tokenizer's first token, `bos_token`, if it has one. `rows` is how many tokens the base knows.
    """
    try:
        tokenizer, first = _tokenizer(base)
    except InputError as error:
        return {}, [error.at(base.place)]
    found: dict[str, list[Prompts]] = {}
    problems = []
    for path, entry in recipe.all_experts:
        texts = entry.positive_prompts, entry.negative_prompts
        tokens = [
            tuple(tuple(tokenizer.encode(first + text, add_special_tokens=False).ids) for text in some)
            for some in texts
        ]
        found.setdefault(str(path[0]), []).append(Prompts(*tokens))
        for key, some in zip(("positive_prompts", "negative_prompts"), tokens, strict=True):
            for number, prompt in enumerate(some):
                if why := _wrong(prompt, rows):
                    place = recipe.document.place((*path, key, number))
                    problems.append(Problem(place, "E366", f"the tokenizer of '{base.reference}' makes {why}"))
    return {key: tuple(some) for key, some in found.items()}, problems


def _tokenizer(base: Model) -> tuple[Any, str]:
    """The base's tokenizer, and its first token."""
    found = read_vocabulary(base.reference, base.checkpoint.side_files)
    if found is None or found.document is None:
        what = f"the prompts need the tokenizer.json of '{base.reference}', and there is none"
        raise InputError("E366", what, "load the tokenizer with transformers and save it again: that writes the file")
    return open_tokenizer(found.file), found.special.get("bos_token", "")


def _wrong(prompt: Sequence[int], rows: int) -> str:
    """What is wrong with a prompt's tokens; "" if nothing is."""
    if not prompt:
        return "no tokens of it"
    return f"token {max(prompt):,} of it, and the model has {rows:,}" if max(prompt) >= rows else ""
