"""Settings: precedence, filters and gradients, from the text of a recipe to a value per tensor."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipes_fixtures import CONFIG, SHAPES, mergec, write_model

from mergec.compiler.analyse import analyse
from mergec.compiler.resolved import resolve_all
from mergec.errors import Place
from mergec.ops.registry import methods
from mergec.recipe.document import parse
from mergec.recipe.settings import Choice, FractionError, Resolved, read_setting

Resolve = Callable[..., dict[str, dict[str, Any]]]
UP, NORM, EMBED, HEAD = "mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"


def layer(number: int, part: str = UP) -> str:
    return f"model.layers.{number}.{part}"


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    """Every parameter of every tensor, as a recipe sets it over models of some layers."""

    def run(recipe: str, layers: int = 5) -> dict[str, dict[str, Any]]:
        parts = [name.split(".", 3)[3] for name in SHAPES if ".0." in name]
        shapes = {name: shape for name, shape in SHAPES.items() if ".layers." not in name}
        shapes |= {layer(n, part): SHAPES[layer(0, part)] for n in range(layers) for part in parts}
        for model in ("base", "a", "b"):
            write_model(tmp_path / model, shapes=shapes, config={**CONFIG, "num_hidden_layers": layers})
        analysis = analyse(parse(textwrap.dedent(recipe), str(tmp_path / "r.yml")))
        return {name: values.plain() for name, values in resolve_all(analysis).items()}

    return run


TIES = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {OWN}
  - model: b
parameters: {SHARED}
"""


def ties(shared: str, own: str = "") -> str:
    return TIES.replace("SHARED", shared).replace("OWN", own)


# ---------------------------------------------------------------------------------------- precedence


def test_a_models_own_setting_wins_over_the_top_levels_and_that_over_the_default(resolve: Resolve) -> None:
    found = resolve(ties("weight: 0.2, density: 0.4", own="weight: 0.9"))[NORM]
    assert found["weight"] == (0.9, 0.2)
    assert found["density"] == (0.4, 0.4)
    assert found["lambda"] == 1.0
    assert found["normalize"] is True


def test_a_filter_that_matches_nothing_falls_through_to_the_next_level(resolve: Resolve) -> None:
    own = "weight: [{filter: mlp, value: 0.9}], density: {filter: norm, value: 0.1}"
    found = resolve(ties("weight: [{filter: self_attn, value: 0.5}, {value: 0.2}]", own=own))
    assert found[layer(2)]["weight"] == (0.9, 0.2)
    assert found[layer(2, "self_attn.q_proj.weight")]["weight"] == (0.5, 0.5)
    assert found[EMBED]["weight"] == (0.2, 0.2)
    assert found[NORM]["density"] == (0.1, 1.0)  # the method's own default at the end
    assert found[EMBED]["density"] == (1.0, 1.0)


def test_the_first_entry_that_matches_wins(resolve: Resolve) -> None:
    found = resolve(
        ties("weight: [{filter: layers.1, value: 1}, {filter: mlp, value: 2}, {filter: '*', value: 3}, {value: 4}]")
    )
    assert found[layer(1)]["weight"] == (1, 1)
    assert found[layer(2)]["weight"] == (2, 2)
    assert found[NORM]["weight"] == (3, 3)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("mlp", True),
        ("layers.1.mlp", True),
        ("down_proj.weight", True),
        ("*", True),
        ("MLP", False),  # a plain part of the name: case counts,
        ("mlp.*", False),  # and it is neither a glob
        ("layers..", False),  # nor a regular expression
        ("layers.1$", False),
    ],
)
def test_filters_are_parts_of_names(pattern: str, matches: bool) -> None:
    stored = None if pattern == "*" else pattern
    assert Choice((1,), stored, Place("", 1, 1), False).matches(layer(1)) is matches


def test_an_empty_filter_matches_everything(resolve: Resolve) -> None:
    assert resolve(ties("weight: [{filter: '', value: 2}]"))[NORM]["weight"] == (2, 2)


def test_settings_of_one_model_do_not_leak_to_another(resolve: Resolve) -> None:
    found = resolve(ties("weight: 1", own="density: [0, 1]"))
    assert [found[layer(n)]["density"] for n in (0, 2, 4)] == [(0, 1), (0.5, 1), (1, 1)]


# ----------------------------------------------------------------------------------------- gradients


def peer_gradient(values: list[float], t: Fraction) -> Fraction:
    """The peer's arithmetic, exactly: s = t (n - 1), (1 - f) v[i] + f v[min(i + 1, n - 1)]."""
    s = t * (len(values) - 1)
    i = s.numerator // s.denominator
    f = s - i
    return (1 - f) * Fraction(values[i]) + f * Fraction(values[min(i + 1, len(values) - 1)])


numbers = st.floats(-100, 100)


@given(st.lists(numbers, min_size=1, max_size=12), st.integers(1, 100), st.data())
def test_gradients_interpolate_like_the_peer(values: list[float], layers: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, layers - 1))
    t = Fraction(index, layers - 1) if layers > 1 else Fraction(1)
    found = Choice(tuple(values), None, Place("", 1, 1), True).at(float(t))
    assert found == pytest.approx(float(peer_gradient(values, t)), rel=1e-9, abs=1e-9)


@given(st.lists(numbers, min_size=1, max_size=12), st.floats(0, 1))
def test_a_gradient_stays_between_its_knots_and_meets_its_ends(values: list[float], t: float) -> None:
    choice = Choice(tuple(values), None, Place("", 1, 1), True)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= choice.at(t) <= max(values) + slack
    assert (choice.at(0.0), choice.at(1.0)) == (values[0], values[-1])


@given(st.lists(st.booleans() | st.sampled_from(["sum", "count"]), min_size=1, max_size=8), st.floats(0, 1))
def test_other_values_step(values: list[bool | str], t: float) -> None:
    assert Choice(tuple(values), None, Place("", 1, 1), True).at(t) == values[int(t * (len(values) - 1))]


def test_layers_run_from_the_first_knot_to_the_last_and_the_rest_takes_the_first(resolve: Resolve) -> None:
    found = resolve(ties("weight: [1, 0.5, 0]"), layers=5)
    assert [found[layer(n)]["weight"][0] for n in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [found[name]["weight"][0] for name in (EMBED, NORM, HEAD)] == [1, 1, 1]


def test_a_stack_of_one_layer_takes_the_last_knot(resolve: Resolve) -> None:
    found = resolve(ties("weight: [1, 0.5, 0.25]"), layers=1)
    assert found[layer(0)]["weight"][0] == 0.25
    assert found[EMBED]["weight"][0] == 1


def test_a_list_may_be_longer_than_the_stack(resolve: Resolve) -> None:
    found = resolve(ties("weight: [0, 1, 2, 3, 4, 5, 6]"), layers=3)
    assert [found[layer(n)]["weight"][0] for n in range(3)] == [0, 3, 6]


def test_a_list_of_one_is_a_value(resolve: Resolve) -> None:
    assert {values["weight"] for values in resolve(ties("weight: [0.3]")).values()} == {(0.3, 0.3)}


def test_booleans_and_words_step_at_their_knots(resolve: Resolve) -> None:
    found = resolve(ties("weight: 1, normalize: [true, false, true], elect: [sum, count]"), layers=5)
    assert [found[layer(n)]["normalize"] for n in range(5)] == [True, True, False, False, True]
    assert [found[layer(n)]["elect"] for n in range(5)] == ["sum"] * 4 + ["count"]


def test_booleans_become_numbers_where_numbers_are_expected(resolve: Resolve) -> None:
    found = resolve(ties("weight: [true, false]"), layers=3)
    assert [found[layer(n)]["weight"][0] for n in range(3)] == [1.0, 0.5, 0.0]


def test_gradients_may_stand_in_filters(resolve: Resolve) -> None:
    found = resolve(ties("weight: [{filter: mlp, value: [0, 1]}, {value: 5}]"), layers=3)
    assert [found[layer(n)]["weight"][0] for n in range(3)] == [0, 0.5, 1]
    assert found[layer(1, "self_attn.q_proj.weight")]["weight"][0] == 5


# -------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 0.001), ('"0.5"', 0.5), ("1", 1.0), ("true", 1.0), ("-0.0", -0.0)],
)
def test_numbers_are_read_as_generously_as_the_peer_reads_them(written: str, value: float, resolve: Resolve) -> None:
    assert resolve(ties(f"weight: {written}"))[NORM]["weight"] == (value, value)


@pytest.mark.parametrize(
    ("written", "value"), [("no", False), ("off", False), ("False", False), ("yes", True), ("1", True), ("0", False)]
)
def test_truth_is_read_in_the_words_of_yaml_1_1_too(written: str, value: bool, resolve: Resolve) -> None:
    assert resolve(ties(f"weight: 1, normalize: {written}"))[NORM]["normalize"] is value


def test_where_a_value_comes_from_is_kept(tmp_path: Path) -> None:
    for model in ("base", "a", "b"):
        write_model(tmp_path / model)
    analysis = analyse(parse(ties("weight: [1, 2]", own="weight: {filter: mlp, value: 3}"), str(tmp_path / "r.yml")))
    values = resolve_all(analysis)[layer(0)].resolved
    weights, factor = values["weight"], values["lambda"]
    assert isinstance(weights, tuple)
    assert isinstance(factor, Resolved)
    assert [(w.value, w.choice.place.line, w.choice.filter) for w in weights] == [(3, 5, "mlp"), (1, 7, None)]
    assert factor.choice is None


def test_a_gradient_of_whole_numbers_gives_whole_numbers() -> None:
    document = parse("max_iter: [1, 4]", "r.yml")
    setting = read_setting(methods()["karcher"].parameters["max_iter"], [1, 4], document, ("max_iter",))
    assert not isinstance(setting, list)
    assert [setting[0].at(t) for t in (0, 1 / 3, 2 / 3, 1)] == [1, 2, 3, 4]
    with pytest.raises(FractionError, match=r"r.yml:1:11: error\[E205\]: the gradient is 2.5 at t = 0.5, expected a"):
        setting[0].at(0.5)


def test_a_fraction_between_layers_is_said_with_the_tensors_it_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        shapes = {f"model.layers.{layer}.w{part}": (2, 2) for layer in range(3) for part in range(3)}
        write_model(tmp_path / name, shapes=shapes, config=CONFIG | {"num_hidden_layers": 3})
    monkeypatch.chdir(tmp_path)
    Path("r.yml").write_text(
        "merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {max_iter: [1, 4]}\n"
    )
    called = mergec("check", "r.yml")
    assert called.err.startswith(
        "r.yml:3:24: error[E205]: the gradient is 2.5 at t = 0.5, expected a whole number (for "
    )
    assert called.code == 2
