"""Canonical texts: equal for equal meaning, recipes of the same plan themselves, and in need of no model."""

# ruff: noqa: E501

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_fixtures import write_family

from mergec.compiler.compile import compile_document
from mergec.errors import RecipeError
from mergec.keys import plan_hash
from mergec.recipe.canon import canonical_text
from mergec.recipe.document import parse
from mergec.recipe.format import format_text

ROOT = Path(__file__).parents[2]
LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n"
TIES = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: 0.5, density: 0.7}
  - model: b
    parameters: {weight: 0.25, density: 0.7}
"""

# name -> (one way to write a recipe, another that means the same)
PAIRS: dict[str, tuple[str, str]] = {
    "order of keys": (LINEAR, "parameters: {weight: 0.5}\nmodels: [{model: a}, {model: b}]\nmerge_method: linear\n"),
    "order of keys in a model": (TIES, TIES.replace("model: a\n    parameters: {weight: 0.5, density: 0.7}", "parameters: {density: 0.7, weight: 0.5}\n    model: a")),
    "comments": (LINEAR, "# why\n" + LINEAR.replace("\n", "  # because\n")),
    "empty lines": (LINEAR, LINEAR.replace("\n", "\n\n\n")),
    "a document's start": (LINEAR, "%YAML 1.2\n---\n" + LINEAR + "...\n"),
    "line ends": (TIES, TIES.replace("\n", "\r\n")),
    "indentation": (TIES, TIES.replace("\n  ", "\n        ")),
    "block style": (LINEAR, "merge_method: linear\nmodels:\n- model: a\n- model: b\nparameters:\n  weight: 0.5\n"),
    "flow style": (TIES, '{"merge_method": "ties", "base_model": "base", "models": [{"model": "a", "parameters": {"weight": 0.5, "density": 0.7}}, {"model": "b", "parameters": {"weight": 0.25, "density": 0.7}}]}'),
    "number .5": (LINEAR, LINEAR.replace("0.5", ".5")),
    "number 5e-1": (LINEAR, LINEAR.replace("0.5", "5e-1")),
    "number 0.50": (LINEAR, LINEAR.replace("0.5", "0.500")),
    "number +0.5": (LINEAR, LINEAR.replace("0.5", "+0.5")),
    "a whole number for 1.0": (LINEAR.replace("0.5", "1"), LINEAR.replace("0.5", "1.0")),
    "an underscore in a number": (LINEAR.replace("0.5", "1000"), LINEAR.replace("0.5", "1_000")),
    "a number in quotes": (LINEAR, LINEAR.replace("0.5", "'0.5'")),
    "quotes": (LINEAR, LINEAR.replace("linear", '"linear"').replace("model: a", "'model': 'a'")),
    "a hexadecimal seed": ("seed: 255\n" + TIES.replace("ties", "dare_ties"), "seed: 0xFF\n" + TIES.replace("ties", "dare_ties")),
    "a seed without chance": (TIES, "seed: 7\n" + TIES),
    "the default seed": (TIES.replace("ties", "dare_ties"), "seed: 0\n" + TIES.replace("ties", "dare_ties")),
    "a default of the method": (TIES, TIES + "parameters: {lambda: 1.0, elect: sum}\n"),
    "a default of a model": (TIES.replace(", density: 0.7", ""), TIES.replace("0.7", "1")),
    "a default of a pass": (TIES + "post: [svc]\n", TIES + "post:\n- svc: {as_matrix: yes, alpha: .1}\n"),
    "an empty parameters": (LINEAR, LINEAR.replace("model: a", "model: a, parameters: {}")),
    "a blank parameters": (TIES, TIES + "parameters:\n"),
    "a setting for all and for each": (LINEAR, "merge_method: linear\nmodels: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]\n"),
    "a setting that every model replaces": (TIES, TIES + "parameters: {density: 0.1}\n"),
    "one model's own beside one for all": (TIES, TIES.replace("0.25, density: 0.7", "0.25") + "parameters: {density: 0.7}\n"),
    "an anchor and its alias": (TIES, TIES.replace("{weight: 0.5, density: 0.7}", "{weight: 0.5, density: &d 0.7}").replace("0.25, density: 0.7", "0.25, density: *d")),
    "a merge key": (TIES, TIES.replace("{weight: 0.5, density: 0.7}", "&p {weight: 0.5, density: 0.7}").replace("{weight: 0.25, density: 0.7}", "{<<: *p, weight: 0.25}")),
    "a list of one knot": (LINEAR, LINEAR.replace("0.5", "[0.5]")),
    "a gradient that is level": (LINEAR, LINEAR.replace("0.5", "[0.5, 0.5, 0.5]")),
    "a value in a mapping": (LINEAR, LINEAR.replace("0.5", "{value: 0.5}")),
    "a list of one value": (LINEAR, LINEAR.replace("0.5", "[{value: 0.5}]")),
    "the filter *": (LINEAR, LINEAR.replace("0.5", "[{filter: '*', value: 0.5}]")),
    "a choice behind the last": (LINEAR, LINEAR.replace("0.5", "[{value: 0.5}, {filter: mlp, value: 0.1}]")),
    "a choice that another hides": (LINEAR.replace("0.5", "[{filter: mlp, value: 0.1}, {value: 0.5}]"), LINEAR.replace("0.5", "[{filter: mlp, value: 0.1}, {filter: mlp.down, value: 9}, {value: 0.5}]")),
    "a filter that changes nothing": (LINEAR, LINEAR.replace("0.5", "[{filter: mlp, value: 0.5}, {value: 0.5}]")),
    "a filter before the default": (TIES.replace("0.7", "[{filter: mlp, value: 0.7}]"), TIES.replace("0.7", "[{filter: mlp, value: 0.7}, {value: 1}]")),
    "the order of models and their weights": (TIES, "merge_method: ties\nbase_model: base\nmodels:\n  - {model: b, parameters: {weight: 0.25, density: 0.7}}\n  - {model: a, parameters: {weight: 0.5, density: 0.7}}\n"),
    "the base among the models": (TIES, TIES + "  - model: base\n"),
    "an id that is the reference": (LINEAR, LINEAR.replace("model: a", "model: a, id: a")),
    "dtype as torch calls it": (TIES + "dtype: bfloat16\n", TIES + "dtype: torch.bfloat16\n"),
    "out_dtype as dtype": (TIES + "dtype: float16\n", TIES + "dtype: float16\nout_dtype: float16\n"),
    "the tokenizer of the base": (TIES + "tokenizer_source: base\n", TIES + "tokenizer: {source: base}\n"),
    "a token's source in full": (LINEAR + "tokenizer: {source: a, tokens: {b: {source: a}}}\n", LINEAR + "tokenizer: {tokens: {b: {source: {kind: model_token, model: a}, force: false}}, source: a}\n"),
    "tokens without rules": (LINEAR + "tokenizer_source: union\n", LINEAR + "tokenizer: {tokens: }\n"),
    "a step in full": ("merge_method: pipeline\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, density: 0.5}\nsteps: [diff, trim: largest, fuse: sum]\n", "merge_method: pipeline\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, density: 0.5}\nsteps:\n- diff:\n- trim: {keep: largest}\n- fuse: {how: sum}\n"),
    "a pass in full": (TIES + "post: [svc]\n", TIES + "post:\n- svc: {alpha: 0.1, as_matrix: true}\n"),
    "settings of a pass": (TIES + "post: [svc: {as_matrix: [{filter: mlp, value: false}], alpha: 0.5}]\n", TIES + "post: [svc: {alpha: 5e-1, as_matrix: [{filter: mlp, value: no}, {value: true}]}]\n"),
    "slices in other words": ("merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}, {sources: [{model: b, layer_range: [1, 2]}]}]\n", "slices:\n- sources:\n  - layer_range:\n    - 0\n    - 1\n    model: a\n- sources:\n  - {layer_range: [0x1, 2], model: b}\nmerge_method: passthrough\n"),
    "a setting of a slice and of all": ("merge_method: linear\nparameters: {weight: 0.5}\nslices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]}]\n", "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}], parameters: {weight: 0.5}}]\n"),
    "the order of stages": ("name: s\n" + LINEAR + "---\nname: t\n" + TIES + "---\nmerge_method: linear\nmodels: [{model: s}, {model: t}]\nparameters: {weight: 1}\n", "merge_method: linear\nmodels: [{model: s}, {model: t}]\nparameters: {weight: 1}\n---\nname: t\n" + TIES + "---\nname: s\n" + LINEAR),
}  # fmt: skip

# as the pairs above, but for texts that stay apart: what makes them one is in the models, or in how methods are made
APART: dict[str, tuple[str, str]] = {
    "a name": (LINEAR, "name: other\n" + LINEAR),
    "the tokenizer of the first model, where all have it": (LINEAR, LINEAR + "tokenizer_source: a\n"),
    "metadata": (LINEAR, LINEAR + "metadata: {by: me}\n"),
    "a filter that no tensor has": (LINEAR, LINEAR.replace("0.5", "[{filter: nowhere, value: 3}, {value: 0.5}]")),
    "a method as its steps": (TIES, TIES.replace("ties", "pipeline") + "steps: [diff, trim: largest, rescale: false, elect: sum, fuse: {how: agreeing, normalize: true}]\n"),
    "compute_dtype as it would be": (LINEAR, LINEAR + "compute_dtype: float32\n"),
    "the path to a model with an id": (LINEAR.replace("model: a", "model: a, id: a"), LINEAR.replace("model: a", "model: ./a, id: a")),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models to compile recipes with."""
    return write_family(tmp_path_factory.mktemp("models"))


def hash_of(text: str, folder: Path) -> str:
    return plan_hash(compile_document(parse(text, str(folder / "recipe.yml"))))


@pytest.mark.parametrize("name", PAIRS)
def test_equal_meaning_is_equal_text_and_equal_plan(name: str, folder: Path) -> None:
    one, other = PAIRS[name]
    assert one != other
    assert canonical_text(one, "one.yml") == canonical_text(other, "other.yml")
    assert hash_of(one, folder) == hash_of(other, folder) == hash_of(canonical_text(one, "one.yml"), folder)


@pytest.mark.parametrize("name", APART)
def test_equal_plans_of_other_texts(name: str, folder: Path) -> None:
    one, other = APART[name]
    assert canonical_text(one, "one.yml") != canonical_text(other, "other.yml")
    assert hash_of(one, folder) == hash_of(other, folder)


@pytest.mark.parametrize(
    "path",
    sorted(
        [*(ROOT / "recipes").glob("*.yml"), *(ROOT / "examples" / "quickstart").glob("[!b]*.yml")]
    ),  # but for broken.yml
    ids=lambda path: path.stem,
)
def test_a_canonical_text_is_its_own_and_formatted(path: Path) -> None:
    canonical = canonical_text(path.read_text(encoding="utf-8"), path.name)
    assert "#" not in canonical
    assert canonical_text(canonical, "r.yml") == canonical
    assert format_text(canonical, "r.yml") == canonical


def settings_of(low: float, high: float) -> st.SearchStrategy[Any]:
    """A setting in every form: a value, knots, filters."""
    value = st.sampled_from([low, (low + high) / 2, high, 1])
    knots = value | st.lists(value, min_size=1, max_size=3)
    choice = st.builds(
        lambda f, v: {"filter": f, "value": v}, st.sampled_from(["mlp", "mlp.down", "layers.0", "layers.1", "*"]), knots
    )
    return knots | st.lists(choice, min_size=1, max_size=3).map(lambda choices: [*choices, {"value": 1}]) | choice


PARAMETERS = {"weight": settings_of(0.25, 2), "density": settings_of(0.3, 1.0)}
SHARED = {"normalize": st.booleans(), "lambda": st.sampled_from([1, 1.0, 0.5])}


@st.composite
def recipes(draw: Any) -> dict[str, Any]:
    """A recipe that compiles, settings strewn over all places where they may stand."""
    method = draw(st.sampled_from(["ties", "dare_ties", "task_arithmetic", "breadcrumbs"]))
    own = {key: value for key, value in PARAMETERS.items() if key == "weight" or method != "task_arithmetic"}

    def parameters(options: dict[str, Any]) -> dict[str, Any]:
        found = draw(st.fixed_dictionaries({}, optional=options))
        return {"parameters": found} if found else {}

    def entries(ranges: list[list[int]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for name in draw(st.permutations(["a", "b", "c", "base"] if ranges else ["a", "b"])):
            layers = {"layer_range": draw(st.sampled_from(ranges))} if ranges else {}
            found.append({"model": name, **layers, **({} if name == "base" else parameters(own))})
        return found

    recipe: dict[str, Any] = {"merge_method": method, "base_model": "base", **parameters(SHARED | own)}
    recipe.setdefault("parameters", {}).setdefault("weight", draw(settings_of(0.25, 2)))
    if isinstance(recipe["parameters"]["weight"], dict):
        recipe["parameters"]["weight"] = [recipe["parameters"]["weight"], {"value": 0.75}]
    if draw(st.booleans()):
        recipe["models"] = entries([])
    else:  # sources of equal length, though not the same layers, so that their tensors have other names
        stacks = draw(st.lists(st.sampled_from([[[0, 2]], [[0, 1], [1, 2]]]), min_size=1, max_size=2))
        recipe["slices"] = [{"sources": entries(ranges), **parameters(SHARED | own)} for ranges in stacks]
    recipe |= draw(st.fixed_dictionaries({}, optional={"seed": st.integers(0, 1), "out_dtype": st.just("float32")}))
    return recipe


@settings(max_examples=40)
@given(recipes())
def test_a_canonical_text_gives_the_same_plan(folder: Path, recipe: dict[str, Any]) -> None:
    text = json.dumps(recipe)
    canonical = canonical_text(text, "r.yml")
    assert hash_of(canonical, folder) == hash_of(text, folder)
    assert canonical_text(canonical, "r.yml") == canonical
    assert canonical_text(format_text(text, "r.yml"), "r.yml") == canonical


def test_a_step_that_says_the_default_says_it_where_the_recipe_says_another(folder: Path) -> None:
    steps = "steps: [diff, {trim: {keep: largest, density: 1}}, {trim: random}, {fuse: sum}]\n"
    text = TIES.replace("ties", "pipeline") + steps
    canonical = canonical_text(text, "r.yml")
    assert "  - trim: {keep: largest, density: 1.0}\n" in canonical
    assert hash_of(canonical, folder) == hash_of(text, folder)


def test_without_a_base_the_first_model_stays_first(folder: Path) -> None:
    """It gives config and tokenizer; the others are in order."""
    text = "merge_method: linear\nmodels: [{model: c}, {model: b}, {model: a}]\nparameters: {weight: 0.5}\n"
    assert [model["model"] for model in parse(canonical_text(text, "r.yml"), "r.yml").value["models"]] == [
        "c",
        "a",
        "b",
    ]
    assert hash_of(canonical_text(text, "r.yml"), folder) == hash_of(text, folder)


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "on",
        "1.5",
        "0x10",
        "~",
        "-",
        "a: b",
        "#x",
        "x #y",
        "\t\n",
        "é雪",
        "\x85\u2028",
        "😀",
        '"',
        "\\",
        "*a",
        "&a",
        "!x",
        "%",
        "@x",
        "`",
        "",
        " ",
    ],
)
def test_strings_come_back_as_they_were(value: str) -> None:
    text = LINEAR + json.dumps({"metadata": value})[1:-1]
    found = parse(canonical_text(text, "r.yml"), "r.yml").value["metadata"]
    assert found == parse(text, "r.yml").value["metadata"]


def test_files_beside_the_recipe_are_not_asked_for() -> None:
    text = (
        "merge_method: emr\nbase_model: base\nmodels: [{model: a}, {model: b}]\nrouter: {file: absent.json, top_k: 1}\n"
    )
    assert canonical_text(text, "/nowhere/r.yml").endswith("router:\n  file: absent.json\n")


def test_a_wrong_recipe_has_no_canonical_text() -> None:
    with pytest.raises(RecipeError, match=r"r\.yml:3:14: error\[E202\]"):
        canonical_text(LINEAR.replace("weight", "wieght"), "r.yml")
