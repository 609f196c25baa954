"""Formatting: one layout for all texts of a recipe, which changes no value, loses no comment, and stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from yaml_texts import recipe_texts

from mergec.errors import RecipeError
from mergec.ops.registry import methods
from mergec.recipe.document import parse
from mergec.recipe.format import format_text
from mergec.recipe.layout import comments
from mergec.recipe.load import read_recipe
from mergec.recipe.new import recipe_text

ROOT = Path(__file__).parents[2]


@settings(max_examples=80)
@given(recipe_texts())
def test_meaning_and_comments_stay_and_twice_is_once(text: str) -> None:
    made = format_text(text, "r.yml")
    assert format_text(made, "r.yml") == made
    before, after = parse(text, "r.yml"), parse(made, "r.yml")
    assert after.value == before.value
    assert read_recipe(after)[0] == read_recipe(before)[0]
    assert sorted(comments(made)) == sorted(comments(text.replace("\r\n", "\n")))
    assert "\n" not in made.replace("\r\n", "") or "\r" not in made


BEFORE = """\
---
# What it is for.

dtype:   float16      # at the end
models:

  # the first one
- model:    a   # A
  parameters: { weight:   [0.1,0.9] , density: 0.5 }
-   # second
  parameters:
        weight:
        - {value: 1e-1,filter: mlp}   # mlp
        - value: .5
  model: "b"
- {
    model: c, # inside
    parameters: {weight: 0.3}
  }
# - model: d
  # tail of the list
name: >
    long folded
    text

    here


# the method
merge_method: ties
base_model: x"""

AFTER = """\
---
# What it is for.

name: >
  long folded
  text

  here

# the method
merge_method: ties
base_model: x
models:
  # the first one
  - model: a                          # A
    parameters: {weight: [0.1, 0.9], density: 0.5}
  # second
  - model: "b"
    parameters:
      weight:
        - {value: 1e-1, filter: mlp}  # mlp
        - value: .5
  - model: c                          # inside
    parameters: {weight: 0.3}
  # - model: d
  # tail of the list
dtype: float16                        # at the end
"""


def test_the_layout() -> None:
    assert format_text(BEFORE, "r.yml") == AFTER


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: {}\nb: [ ]", "a: {}\nb: []\n"),
        ("{a: 1, b: [1,2]}", "a: 1\nb: [1, 2]\n"),
        ("a: {x: , y: 2}", "a: {x: null, y: 2}\n"),
        ("a:\n- - 1\n  - 2\n- [3,4]", "a:\n  - - 1\n    - 2\n  - [3, 4]\n"),
        ("a:\n  # why\n  1", "# why\na: 1\n"),
        ("a: 1\n\n\n\nb: 2\n\n", "a: 1\n\nb: 2\n"),
        ("a: 'x\n\n   y'  # c", "a: 'x\n\n  y'  # c\n"),
        ("a: |\n      x\n        y\n", "a: |\n  x\n    y\n"),
        ("a: |2-\n    x\n", "a: |2-\n    x\n"),
        ("a: |+  # kept\n x\n\n", "a: |+  # kept\n  x\n\n"),
        ("a: |\n x", "a: |-\n  x\n"),
        ("a: &x 1\nb: *x", "a: &x 1\nb: *x\n"),
        ("a: &x {b: 1}\nc:\n   <<: *x\n   d: 2", "a: &x {b: 1}\nc:\n  <<: *x\n  d: 2\n"),
        ("%YAML 1.2\n# c\n---\na: 1\n...\n# d", "%YAML 1.2\n# c\n---\na: 1\n# d\n"),
        ("a: !!str 5", "a: !!str 5\n"),
        ("a:\n    -\n      - 1  # one\n    -\n", "a:\n  - - 1  # one\n  -\n"),
        ("? a\n: 1", "a: 1\n"),
        (f"a: [{'x' * 60}, {'y' * 60}]", f"a:\n  - {'x' * 60}\n  - {'y' * 60}\n"),
    ],
)
def test_every_style_has_one_form(before: str, after: str) -> None:
    assert format_text(before, "r.yml") == after
    assert format_text(after, "r.yml") == after


def test_every_recipe_of_a_file_is_laid_out() -> None:
    before = (
        "# top\nname: a\nmodels:\n- model: x # c\nmerge_method: linear\n# end of a\n---\n\n"
        "# second\nmodels: [{model: a}]\nmerge_method: linear\n...\n---\n# nothing\n"
    )
    after = (
        "# top\nname: a\nmerge_method: linear\nmodels:\n  - model: x  # c\n# end of a\n---\n"
        "# second\nmerge_method: linear\nmodels: [{model: a}]\n---\n# nothing\n"
    )
    assert format_text(before, "r.yml") == after
    assert format_text(after, "r.yml") == after


def test_an_alias_never_comes_before_its_anchor() -> None:
    """Sorting would put `models` first; then keys stay as they are."""
    text = "parameters: {weight: &w 0.5}\nmerge_method: linear\nmodels:\n  - model: a\n    parameters: {weight: *w}\n"
    assert format_text(text, "r.yml") == text
    sortable = (
        "models:\n  - model: a\n    parameters: {weight: &w 0.5}\nparameters: {weight: *w}\nmerge_method: linear\n"
    )
    assert format_text(sortable, "r.yml").startswith("merge_method: linear\nmodels:\n")


def test_comments_of_a_paragraph_stand_in_one_column_and_a_long_line_moves_none() -> None:
    long = "x" * 80
    assert format_text(f"a: 1 # a\nbb: 22 # b\nc: {long} # c\n\ndddd: 4 # d", "r.yml") == (
        f"a: 1    # a\nbb: 22  # b\nc: {long}  # c\n\ndddd: 4  # d\n"
    )


def test_the_kind_of_line_ends_is_that_of_the_first_line() -> None:
    assert format_text("a:  1\r\nb:  |\r\n  x\r\n", "r.yml") == "a: 1\r\nb: |\r\n  x\r\n"
    assert format_text("a:  1\nb:  2\r\n", "r.yml") == "a: 1\nb: 2\n"


def test_what_would_change_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergec.recipe.format._written", lambda text, is_sorted: "a: 1\n")
    for text in ("a: true", "a: 1.0", "a: 1  # a comment", "b: 1", "name: b\n---\na: 1\n"):
        with pytest.raises(RecipeError, match=r"r\.yml:1:1: error\[E680\]: laying this recipe out anew would change"):
            format_text(text, "r.yml")


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for folder in ("recipes", "examples")
        for end in ("yml", "yaml")
        for path in (ROOT / folder).rglob(f"*.{end}")
        if "merge_method" in path.read_text(encoding="utf-8")
    ),
    ids=lambda path: path.stem,
)
def test_the_recipes_of_this_repository_are_formatted(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_text(text, path.name) == text, f"mergec fmt {path.relative_to(ROOT)}"


@pytest.mark.parametrize("name", [*methods(), "pipeline"])
def test_new_recipes_are_formatted(name: str) -> None:
    assert format_text(recipe_text(name), name) == recipe_text(name)
