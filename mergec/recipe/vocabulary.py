"""What a recipe says of the result's vocabulary: which models it names, and what is wrong before any is opened."""

from __future__ import annotations

from collections.abc import Iterator

from mergec.errors import Problem, did_you_mean
from mergec.recipe.schema import Recipe, TokenSource

UNION, BASE, TRUNCATE, AUTO = "union", "base", "truncate", "auto"
TEMPLATES = ("alpaca", "chatml", "exaone", "llama3", "mistral")
_SHORTEST = 20  # characters of a template, as in mergekit


def vocabulary_source(recipe: Recipe) -> str | None:
    """`union`, `truncate`, or the model whose tokens the result has; None where the recipe says nothing."""
    entry = recipe.vocabulary
    if entry is None or entry.source in recipe.references:
        return entry.source if entry else None
    return recipe.base_model if entry.source == BASE else entry.source


def vocabulary_problems(recipe: Recipe) -> Iterator[Problem]:
    """Every way in which `tokenizer_source` or `tokenizer` cannot be meant."""
    entry, document = recipe.vocabulary, recipe.document
    yield from _of_template(recipe)
    if recipe.tokenizer_source and recipe.tokenizer:
        first, second = sorted(("tokenizer", "tokenizer_source"), key=lambda key: document.key_place((key,)))
        what = f"found '{second}' beside '{first}', expected one of them"
        yield Problem(document.key_place((second,)), "E352", what, "remove one of the two")
        return
    if entry is None:
        return
    yield from _of_source(recipe, entry.source)
    for token, one in entry.tokens.items():
        path = ("tokenizer", "tokens", token)
        if entry.source == TRUNCATE and TRUNCATE not in recipe.references:
            what = "'tokens' has no meaning beside source: truncate, which counts rows and knows no tokens"
            yield Problem(document.key_place(path), "E352", what, "take another source")
        elif one.source is not None:
            wrong = _of_token(recipe, one.source)
            if wrong:
                yield Problem(document.place((*path, "source")), "E353", f"{wrong[0]} for {token!r}", wrong[1])


def _of_source(recipe: Recipe, source: str) -> Iterator[Problem]:
    place = recipe.document.place(recipe.vocabulary_path)
    if source in (*recipe.references, UNION, TRUNCATE):
        return
    if source == BASE:
        if recipe.base_model is None:
            what = "the tokenizer's source is 'base', and the recipe has no 'base_model'"
            yield Problem(place, "E213", what, "add base_model: MODEL, or name one of the models")
        return
    what = f"found '{source}' as the tokenizer's source, expected union, base, truncate or a model of this recipe"
    yield Problem(place, "E213", what, did_you_mean(source, [UNION, BASE, TRUNCATE, *recipe.references]))


def _of_template(recipe: Recipe) -> Iterator[Problem]:
    """A chat template is a name that is known, or Jinja."""
    asked = recipe.chat_template
    if asked is None or asked in (AUTO, *TEMPLATES) or (len(asked) >= _SHORTEST and "{" in asked):
        return
    near = did_you_mean(asked, [AUTO, *TEMPLATES])
    what = f"found '{asked[:60]}' for 'chat_template', expected auto, the name of a template or a Jinja template"
    yield Problem(recipe.document.place(("chat_template",)), "E358", what, near)


def _of_token(recipe: Recipe, source: TokenSource) -> tuple[str, str] | None:
    """What is wrong with a token's source, and a hint."""
    if source.kind == "zero":
        more = [name for name in ("model", "token", "token_id") if getattr(source, name) is not None]
        return (f"found '{more[0]}' beside kind: zero", "remove it") if more else None
    if source.model is None:
        return "kind: model_token needs a 'model'", "add model: MODEL"
    if source.token is not None and source.token_id is not None:
        return "found both 'token' and 'token_id', expected one of them", "remove one of the two"
    if source.model not in recipe.references:
        what = f"found '{source.model}' as the source, expected a model of this recipe"
        return what, did_you_mean(source.model, recipe.references)
    return None
