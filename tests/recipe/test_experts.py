"""What a recipe says of experts: every mistake at its place, and one canonical text."""

# ruff: noqa: E501 - a message is one line

from __future__ import annotations

import pytest

from mergec.errors import RecipeError
from mergec.recipe.canon import canonical_text

A, B = "  - source_model: a", "  - source_model: b"


def prompted(line: str, *texts: str) -> str:
    return f"{line}\n    positive_prompts: [{', '.join(texts)}]"


def recipe(*lines: str) -> str:
    return "\n".join(["base_model: base", "experts:", *lines, ""])


DRAWN = recipe(A, B, "gate_mode: random")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DRAWN + "experts_per_token: 3\n", ["6:20: error[E701]: experts_per_token is 3, and the recipe has 2 experts; hint: expected 1 to 2"]),
        (DRAWN + "experts_per_token: 0\n", ["6:20: error[E103]: found 0 for 'experts_per_token', expected a number greater than or equal to 1; hint: how many experts of a mixture a token is sent to"]),
        (recipe(A, "gate_mode: random"), ["2:1: error[E701]: experts_per_token is 2, the default, and the recipe has 1 expert; hint: write experts_per_token: 1"]),
        (
            recipe(prompted(A, "x"), B),
            ["5:5: error[E702]: 'b' has no positive_prompts, and gate_mode hidden routes by them; hint: add texts that should be routed to it, or take gate_mode: random"],
        ),
        (
            recipe(prompted(A, "x"), prompted(B, "x")),
            ["6:23: error[E703]: all experts have the same prompts, so that no router can tell them apart; hint: give each expert texts that should be routed to it"],
        ),
        (
            recipe(prompted(A, "x"), prompted(A, "y")),
            ["5:19: error[E704]: all experts are 'a', so the mixture answers as that model does, only slower; hint: name other models; to train it afterwards, give the experts a noise_scale or take gate_mode: random"],
        ),
        (DRAWN.replace("random", "hiden"), ["5:12: error[E104]: found 'hiden' for 'gate_mode', expected 'hidden', 'hidden_avg', 'hidden_last', 'cheap_embed', 'random' or 'uniform_random'; hint: did you mean 'hidden'?"]),
        (recipe(A, "    noise_scale: -1", B, "gate_mode: random"), ["4:18: error[E103]: found -1 for 'noise_scale', expected a number greater than or equal to 0; hint: how much gaussian noise is added to its MLPs"]),
        (recipe(A, "    residual_scale: .inf", B, "gate_mode: random"), ["4:21: error[E103]: found inf for 'residual_scale', expected a finite number; hint: what the last matrix of its MLPs is multiplied by"]),
        (recipe(A, "    prompts: [x]", B, "gate_mode: random"), ["4:5: error[E101]: unknown key 'prompts' in an expert; hint: did you mean 'positive_prompts'?"]),
        (recipe("  - a", B, "gate_mode: random"), ["3:5: error[E103]: found 'a' in 'experts', expected a mapping; hint: write `- source_model: a`"]),
        (DRAWN.replace("base_model: base\n", ""), ["1:1: error[E210]: a mixture has all but its experts from a base, and the recipe has no 'base_model'; hint: add base_model: MODEL"]),
        ("merge_method: ties\n" + DRAWN, ["1:15: error[E700]: found merge_method: ties beside 'experts', which are not merged; hint: remove one of the two; an expert may be the result of another recipe of this file"]),
        (DRAWN + "models: [{model: c}]\n", ["6:1: error[E700]: 'models' has no meaning beside 'experts'; hint: remove it"]),
        (DRAWN + "compat: mergekit\nrandom_order: mergekit\n", ["7:1: error[E700]: 'random_order' has no meaning beside 'experts'; hint: remove it"]),
        (DRAWN + "parameters: {weight: 1}\n", ["6:1: error[E700]: 'parameters' has no meaning beside 'experts'; hint: remove it"]),
        ("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\ngate_mode: random\n", ["4:1: error[E700]: 'gate_mode' belongs to a mixture of experts, and the recipe has no 'experts'; hint: remove it, or list 'experts:'"]),
        ("merge_method: moe\nbase_model: base\n", ["1:1: error[E102]: the key 'experts' is missing; hint: in place of models: what becomes the experts of a mixture, each a dense model"]),
        ("base_model: base\nexperts: []\n", ["2:10: error[E103]: found an empty list for 'experts', expected at least one entry; hint: in place of models: what becomes the experts of a mixture, each a dense model"]),
        (recipe(A + "\n    id: one", B + "\n    id: one", "gate_mode: random"), ["6:9: error[E610]: 'one' is the id of two models, 'a' and 'b'; hint: give each model an id of its own"]),
        (
            recipe(prompted(A, "x"), prompted(B, "y"), "shared_experts:", "  - source_model: a\n    negative_prompts: [z]"),
            ["8:5: error[E702]: 'a' has no positive_prompts, and gate_mode hidden routes by them; hint: add texts that should be routed to it, or take gate_mode: random"],
        ),
    ],
)  # fmt: skip
def test_mistakes_are_found_at_their_place(text: str, expected: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        canonical_text(text, "moe.yml")
    assert [str(problem) for problem in caught.value.problems] == [f"moe.yml:{line}" for line in expected]


def test_the_same_model_twice_is_allowed_where_something_tells_the_experts_apart() -> None:
    noisy = recipe(prompted(A, "x"), "    noise_scale: 0.1", prompted(A, "y"))
    assert "noise_scale: 0.1" in canonical_text(noisy, "moe.yml")
    assert canonical_text(recipe(A, A, "gate_mode: random"), "moe.yml").count("source_model: a") == 2


def test_the_canonical_text_is_a_recipe_that_says_the_same() -> None:
    written = """
seed: 4
experts_per_token: 2
experts:
  - {residual_scale: 1, noise_scale: 0, id: a, source_model: a, positive_prompts: [x]}   # a comment
  - {noise_scale: 0.5, source_model: b}
gate_mode: random
base_model: base
"""
    expected = """merge_method: moe
base_model: base
experts:
  - source_model: a
  - source_model: b
    noise_scale: 0.5
gate_mode: random
seed: 4
"""
    assert canonical_text(written, "moe.yml") == expected
    assert canonical_text(expected, "moe.yml") == expected
