"""Recipes bound to their methods: roles of models, scopes of parameters, and what `compat: mergekit` forgives."""

from __future__ import annotations

import pytest

from mergec.errors import Problem
from mergec.ops.registry import methods
from mergec.recipe.bind import bind
from mergec.recipe.bound import Bound
from mergec.recipe.document import parse
from mergec.recipe.load import read_recipe


def read(text: str) -> tuple[Bound | None, list[Problem]]:
    recipe, problems = read_recipe(parse(text, "r.yml"))
    assert problems == []
    assert recipe is not None
    made, problems = bind(recipe)
    return (made[0] if made else None), problems


def bound(text: str) -> Bound:
    made, problems = read(text)
    assert problems == []
    assert made is not None
    return made


def codes(text: str) -> list[str]:
    made, problems = read(text)
    return [problem.code for problem in (*problems, *(made.warnings if made else ()))]


def roles(made: Bound) -> list[tuple[str, str, bool]]:
    return [(one.reference, one.label, one.is_base) for one in made.inputs]


# -------------------------------------------------------------------------------------------- models


def test_the_base_comes_first_wherever_it_is_listed() -> None:
    models = "models: [{model: a}, {model: base}, {model: b}]\n"
    listed = f"merge_method: ties\nbase_model: base\n{models}parameters: {{weight: 1}}\n"
    unlisted = listed.replace(", {model: base}", "")
    assert roles(bound(listed)) == [("base", "base_model", True), ("a", "models[0]", False), ("b", "models[2]", False)]
    assert roles(bound(unlisted)) == [
        ("base", "base_model", True),
        ("a", "models[0]", False),
        ("b", "models[1]", False),
    ]


def test_a_listed_base_is_an_input_of_a_method_without_one() -> None:
    made = bound("merge_method: linear\nbase_model: b\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n")
    assert roles(made) == [("a", "models[0]", False), ("b", "models[1]", False)]
    assert made.warnings == ()


def test_an_unlisted_base_is_one_more_input_as_in_the_peer_and_said() -> None:
    made = bound("merge_method: linear\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1}\n")
    assert roles(made) == [("a", "models[0]", False), ("base", "base_model", False)]
    assert [warning.code for warning in made.warnings] == ["W210"]


def test_an_unlisted_base_is_one_too_many_for_passthrough() -> None:
    assert codes("merge_method: passthrough\nbase_model: base\nmodels: [{model: a}]\n") == ["E211", "W210"]


def test_settings_of_the_base_are_said_to_do_nothing() -> None:
    made = bound(
        "merge_method: ties\nbase_model: base\nmodels:\n- {model: base, parameters: {weight: 1}}\n- model: a\n"
        "parameters: {weight: 1}\n"
    )
    (warning,) = made.warnings
    assert (warning.code, str(warning.place)) == ("W211", "r.yml:4:29")


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_says_how_many_models_it_takes(name: str) -> None:
    method = methods()[name]
    low, high = method.models
    head = f"merge_method: {name}\nparameters: {{weight: 1, t: 0.5}}\ncompat: mergekit\n"
    base = "base_model: base\n" if method.base == "origin" else ""
    for number in range(5):
        models = "".join(f"- model: m{n}\n" for n in range(number)) or "- model: base\n"
        fits = low <= number and (high is None or number <= high)
        if number or base:
            assert ("E211" not in codes(f"{head}{base}models:\n{models}")) is fits


@pytest.mark.parametrize("name", sorted(name for name, method in methods().items() if method.base == "origin"))
def test_methods_of_deltas_need_a_base(name: str) -> None:
    head = f"merge_method: {name}\nmodels: [{{model: a}}, {{model: b}}]\n"
    assert "E210" in codes(f"{head}compat: mergekit\nparameters: {{weight: 1, t: 1}}\n")


# ---------------------------------------------------------------------------------------- parameters

TYPO = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: 1, densty: 0.5, normalize: false}
parameters: {weight: 1, gamma: 0.01}
"""


def test_unknown_and_misplaced_parameters_are_errors() -> None:
    assert codes(TYPO) == ["E202", "E203", "E202"]


def test_the_peers_habits_turn_them_into_warnings() -> None:
    made = bound(TYPO + "compat: mergekit\n")
    assert made.is_mergekit
    assert [(warning.code, str(warning.place)) for warning in made.warnings] == [
        ("W202", "r.yml:5:29"),
        ("W203", "r.yml:5:42"),
        ("W202", "r.yml:6:25"),
    ]
    assert all(": warning[W" in str(warning) for warning in made.warnings)
    assert set(made.settings) == {"weight"}
    assert set(made.inputs[1].settings) == {"weight"}


def test_the_peers_habits_do_not_excuse_wrong_values_or_keys() -> None:
    assert codes(TYPO.replace("gamma: 0.01", "density: 2") + "compat: mergekit\n")[0] == "E205"
    _, problems = read_recipe(parse(TYPO + "compat: mergekit\nsede: 1\n", "r.yml"))
    assert [problem.code for problem in problems] == ["E101"]


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_parameter_can_be_set_at_the_top_and_per_model_ones_at_a_model(name: str) -> None:
    method = methods()[name]
    base = "base_model: base\n" if method.base == "origin" else ""
    models = ["a", "b"][: method.models[1] or 2]
    for parameter in method.parameters.values():
        value = parameter.default if parameter.default is not None else {"aggregate": "max"}.get(parameter.name, 0.5)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        own = "".join(f"- {{model: {m}, parameters: {{{parameter.name}: {text}}}}}\n" for m in models)
        plain = "".join(f"- model: {m}\n" for m in models)
        assert codes(f"merge_method: {name}\n{base}models:\n{plain}parameters: {{{parameter.name}: {text}}}\n") == []
        expected = [] if parameter.per_model else ["E203"] * len(models)
        assert codes(f"merge_method: {name}\n{base}models:\n{own}") == expected
