"""Text to values: where each stands, what YAML makes of it, and what `--set` puts in its place."""

from __future__ import annotations

from typing import Any

import pytest

from mergec.errors import Place, RecipeError
from mergec.recipe.document import Document, parse, parse_value

TEXT = """\
# a comment
merge_method: ties
models:
  - model: a
    parameters:
      weight: [0.1, 0.9]
      density:
        - filter: mlp
          value: 0.5
  - {model: "b c", parameters: {weight: 1}}
metadata:
  深: 雪
"""


def where(document: Document, *path: str | int) -> str:
    place = document.place(path)
    return f"{place.line}:{place.column}"


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("merge_method",), "2:15", "2:1"),
        (("models",), "4:3", "3:1"),
        (("models", 0), "4:5", "4:5"),
        (("models", 0, "model"), "4:12", "4:5"),
        (("models", 0, "parameters"), "6:7", "5:5"),
        (("models", 0, "parameters", "weight"), "6:15", "6:7"),
        (("models", 0, "parameters", "weight", 1), "6:21", "6:21"),
        (("models", 0, "parameters", "density", 0, "value"), "9:18", "9:11"),
        (("models", 1, "model"), "10:13", "10:6"),
        (("models", 1, "parameters", "weight"), "10:41", "10:33"),
        (("metadata", "深"), "12:6", "12:3"),
        (("models", 1, "nothing", "here"), "10:5", "10:5"),
        (("nothing",), "2:1", "2:1"),
    ],
)
def test_every_value_and_key_keeps_its_place(path: tuple[str | int, ...], value: str, key: str) -> None:
    document = parse(TEXT, "r.yml")
    place = document.key_place(path)
    assert where(document, *path) == value
    assert (place.file, f"{place.line}:{place.column}") == ("r.yml", key)


def test_values_are_plain() -> None:
    document = parse(TEXT, "r.yml")
    assert document.value == {
        "merge_method": "ties",
        "models": [
            {"model": "a", "parameters": {"weight": [0.1, 0.9], "density": [{"filter": "mlp", "value": 0.5}]}},
            {"model": "b c", "parameters": {"weight": 1}},
        ],
        "metadata": {"深": "雪"},
    }
    assert type(document.value["models"]) is list
    assert document.text == TEXT


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("yes", "yes"),  # words, as in YAML 1.2: a model may be called `no`
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("null", None),
        ("~", None),
        ("", None),
        ("3", 3),
        ("-3", -3),
        ("0x10", 16),
        ("1_000", 1000),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e-5", 1e-5),  # text in YAML 1.1, where the exponent needs a dot
        ("1.0e-5", 1e-5),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("2024-01-31", "2024-01-31"),
        ("12:30", "12:30"),
        ("'1'", "1"),
        ('"a\\tb"', "a\tb"),
        ("a b", "a b"),
        ("=", "="),
        ("[1, a]", [1, "a"]),
        ("{a: 1}", {"a": 1}),
        ("!!str 5", "5"),
    ],
)
def test_what_yaml_makes_of_a_value(text: str, value: object) -> None:
    found = parse(f"key: {text}\n", "r.yml").value["key"]
    assert found == value
    assert type(found) is type(value)
    assert parse_value(text, "--set") == value


def test_anchors_and_merge_keys() -> None:
    document = parse(
        """\
metadata:
  shared: &shared {weight: 0.3, density: 0.5}
  other: &other {density: 0.7, gamma: 0.1}
models:
  - model: a
    parameters: *shared
  - model: b
    parameters:
      <<: *shared
      weight: 0.9
  - model: c
    parameters: {<<: [*shared, *other]}
""",
        "r.yml",
    )
    first, second, third = document.value["models"]
    assert first["parameters"] == {"weight": 0.3, "density": 0.5}
    assert second["parameters"] == {"weight": 0.9, "density": 0.5}  # what is written wins
    assert third["parameters"] == {"weight": 0.3, "density": 0.5, "gamma": 0.1}  # the first of several wins
    assert where(document, "models", 0, "parameters", "weight") == "2:28"
    assert where(document, "models", 1, "parameters", "weight") == "10:15"
    assert where(document, "models", 1, "parameters", "density") == "2:42"
    assert where(document, "models", 2, "parameters", "gamma") == "3:39"


def test_a_merge_key_may_stand_after_what_it_fills() -> None:
    document = parse("a: &a {x: 1}\nb: {x: 2, <<: *a}\n", "r.yml")
    assert document.value["b"] == {"x": 2}
    assert where(document, "b", "x") == "2:8"


def overridden(dotted: str, value: Any) -> Document:
    return parse(TEXT, "r.yml").with_value(dotted, value)


@pytest.mark.parametrize(
    ("dotted", "value", "path"),
    [
        ("merge_method", "linear", ("merge_method",)),
        ("models.0.model", "x", ("models", 0, "model")),
        ("models.1.parameters.weight", [1, 2], ("models", 1, "parameters", "weight")),
        ("models.0.parameters.weight.1", 7, ("models", 0, "parameters", "weight", 1)),
        ("parameters.lambda", 2, ("parameters", "lambda")),
        ("seed", 5, ("seed",)),
    ],
)
def test_an_override_replaces_one_value_and_its_place(dotted: str, value: object, path: tuple[str | int, ...]) -> None:
    before = parse(TEXT, "r.yml")
    after = before.with_value(dotted, value)
    found: Any = after.value
    for part in path:
        found = found[part]
    assert found == value
    assert after.place(path) == Place(f"--set {dotted}", 1, 1)
    assert after.key_place(path) == Place(f"--set {dotted}", 1, 1)
    kept = [known for known in before.values if known[: len(path)] != path and path[: len(known)] != known]
    assert kept
    assert all(after.place(known) == before.place(known) for known in kept)


def test_an_override_leaves_the_original_alone() -> None:
    before = parse(TEXT, "r.yml")
    before.with_value("models.0.parameters.weight", 3)
    assert before.value == parse(TEXT, "r.yml").value


def test_places_inside_a_replaced_value_are_those_of_the_override() -> None:
    document = overridden("models.0.parameters.weight", [5, 6, 7])
    assert document.place(("models", 0, "parameters", "weight", 2)).file == "--set models.0.parameters.weight"
    document = overridden("models.0.parameters", {"density": 1})
    assert "weight" not in document.value["models"][0]["parameters"]
    assert document.place(("models", 0, "parameters", "weight")).file == "--set models.0.parameters"


def test_of_two_overrides_the_last_wins() -> None:
    document = overridden("seed", 1).with_value("seed", 2)
    assert document.value["seed"] == 2


def test_an_empty_mapping_is_made_on_the_way() -> None:
    assert parse("parameters:\n", "r.yml").with_value("parameters.t", 0.5).value == {"parameters": {"t": 0.5}}


@pytest.mark.parametrize("dotted", ["models.2.model", "models.x.model", "merge_method.x", "models.0.model.x"])
def test_an_override_that_leads_nowhere(dotted: str) -> None:
    with pytest.raises(RecipeError) as caught:
        overridden(dotted, 1)
    (problem,) = caught.value.problems
    assert (problem.code, problem.place.file) == ("E501", f"--set {dotted}")


def test_all_that_is_wrong_with_the_text_is_said_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        parse("a: !x 1\na: 2\n3: 4\n[x]: 1\n", "r.yml")
    assert [problem.code for problem in caught.value.problems] == ["E006", "E004", "E005", "E005"]


def test_wide_and_shared_values_are_no_bomb() -> None:
    text = "metadata:\n  - &x [1, 2, 3]\n" + "  - *x\n" * 1000
    assert len(parse(text, "r.yml").value["metadata"]) == 1001
