"""Documents to recipes: what is filled in, what is refused, and how much of a broken recipe is still checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergec.errors import Place, Problem, RecipeError
from mergec.recipe.document import parse
from mergec.recipe.load import read_document, read_recipe
from mergec.recipe.schema import Recipe

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"


def read(text: str) -> tuple[Recipe | None, list[Problem]]:
    return read_recipe(parse(text, "r.yml"))


def sound(text: str) -> Recipe:
    recipe, problems = read(text)
    assert problems == []
    assert recipe is not None
    return recipe


def test_what_is_left_out_has_a_value() -> None:
    recipe = sound(LINEAR)
    assert (recipe.merge_method, recipe.seed, recipe.base_model, recipe.compat) == ("linear", 0, None, None)
    assert (recipe.dtype, recipe.out_dtype, recipe.compute_dtype, recipe.tokenizer_source) == (None,) * 4
    assert [entry.model for entry in recipe.models] == ["a", "b"]
    assert [entry.parameters for entry in recipe.models] == [{}, {}]
    assert recipe.parameters == {"weight": 1}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("dtype: torch.bfloat16", "dtype", "bfloat16"),
        ("out_dtype: float64", "out_dtype", "float64"),
        ("compute_dtype: float64", "compute_dtype", "float64"),
        ("seed: 18446744073709551615", "seed", 2**64 - 1),
        ("base_model: ' a '", "base_model", "a"),
        ("compat: mergekit", "compat", "mergekit"),
        ("name: no", "name", "no"),
        ("metadata: {a: [1, 2]}", "metadata", {"a": [1, 2]}),
        ("dtype:", "dtype", None),
        ("base_model: ~", "base_model", None),
    ],
)
def test_values_that_are_accepted(line: str, key: str, value: object) -> None:
    assert getattr(sound(LINEAR + line + "\n"), key) == value


def test_parameters_with_nothing_under_them_are_none() -> None:
    recipe = sound("merge_method: passthrough\nmodels:\n  - model: a\n    parameters:\nparameters:\n")
    assert recipe.parameters == {}
    assert recipe.models[0].parameters == {}


def test_references_are_listed_once_the_base_first() -> None:
    recipe = sound("merge_method: ties\nmodels: [{model: b}, {model: a}, {model: base}]\nbase_model: base\n")
    assert recipe.references == ("base", "b", "a")


def test_a_recipe_is_frozen() -> None:
    recipe = sound(LINEAR)
    with pytest.raises(Exception, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_the_rest_is_checked_when_a_key_is_wrong() -> None:
    recipe, problems = read(LINEAR + "sede: 1\ndtype: bf16\nseed: -1\n")
    assert sorted(problem.code for problem in problems) == ["E101", "E103", "E104"]
    assert recipe is not None
    assert (recipe.merge_method, recipe.dtype, recipe.seed) == ("linear", None, 0)


@pytest.mark.parametrize(
    "text",
    [
        "merge_method: 3\nmodels: [{model: a}]\n",
        "merge_method: linear\n",
        "merge_method: linear\nmodels: [{model: 3}]\n",
    ],
)
def test_nothing_is_checked_where_nothing_can_be(text: str) -> None:
    recipe, problems = read(text)
    assert recipe is None
    assert len(problems) == 1


def test_overrides_are_applied_in_order_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_text(LINEAR)
    document = read_document(path, [("parameters.weight", "[1, 2]"), ("name", "x"), ("name", "no")])
    recipe = read_recipe(document)[0]
    assert recipe is not None
    assert (recipe.parameters, recipe.name) == ({"weight": [1, 2]}, "no")
    assert document.text == LINEAR


def test_a_byte_order_mark_moves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_bytes(b"\xef\xbb\xbf" + LINEAR.encode())
    assert read_document(path).place(("merge_method",)) == Place(str(path), 1, 15)


def test_line_ends_of_windows_move_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_bytes((LINEAR + "sede: 1\n").replace("\n", "\r\n").encode())
    _, problems = read_recipe(read_document(path))
    assert [problem.place for problem in problems] == [Place(str(path), 4, 1)]


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as stream:
        stream.truncate(10**9)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read"))
    with pytest.raises(RecipeError, match="larger than 256 KiB"):
        read_document(path)
