"""Diff: what changes in the result, by which settings, and why others change nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes_fixtures import SHAPES, TOKENIZER, mergec, write_family

BODY = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: 0.5, density: 0.5}
  - model: b
    parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0}], density: 0.5}
parameters: {normalize: false}
"""
MLP = [name for name in SHAPES if "mlp" in name]
Compare = Callable[..., dict[str, Any]]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`compare(("weight: 0.5", "weight: 0.6"), ...)`: the JSON of the diff by replacements in a recipe."""
    write_family(tmp_path)
    monkeypatch.chdir(tmp_path)

    def of(*edits: tuple[str, str], body: str = BODY) -> dict[str, Any]:
        Path("old.yml").write_text(body)
        for old, new in edits:
            assert old in body
            body = body.replace(old, new, 1)
        Path("new.yml").write_text(body)
        called = mergec("diff", "--json", "old.yml", "new.yml")
        found: dict[str, Any] = json.loads(called.out)
        assert called.code == (0 if found["same"] else 1)
        return found

    return of


def test_a_recipe_is_the_same_as_itself(compare: Compare) -> None:
    found = compare()
    assert (found["same"], found["changed"], found["causes"]) == (True, [], [])


def test_a_cause_has_both_places_and_the_tensors_that_change_by_it(compare: Compare) -> None:
    found = compare(("{filter: mlp, value: 0.3}", "{filter: mlp, value: 0.4}"))
    (cause,) = found["causes"]
    assert found["changed"] == cause["changed"] == MLP
    assert (cause["old"], cause["new"]) == (0.3, 0.4)
    assert cause["new_place"] == {"file": "new.yml", "line": 7, "column": 48}


def test_a_density_is_unused_where_the_weight_is_0(compare: Compare) -> None:
    found = compare(("{value: 0}], density: 0.5", "{value: 0}], density: 0.25"))
    (cause,) = found["causes"]
    assert found["changed"] == MLP
    (idle,) = cause["no_effect"]
    assert idle["why"] == "its weight is 0 there, so its density is unused"
    assert set(idle["tensors"]) == SHAPES.keys() - set(MLP)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (("weight: 0.5", "weight: [{filter: mpl, value: 1}, {value: 0.5}]"), "the filter 'mpl' matches no tensor"),
        (("normalize: false", "normalize: false}\nseed: 3\nmetadata: {by: me"), "no tensor draws random numbers"),
        (
            ("merge_method: ties", "merge_method: ties\nname: other"),
            "it is the result's name, and no part of its bytes",
        ),
    ],
)
def test_a_value_without_effect_is_said_to_have_none(compare: Compare, edit: tuple[str, str], why: str) -> None:
    found = compare(edit)
    assert found["same"]
    assert why in [idle["why"] for cause in found["causes"] for idle in cause["no_effect"]]


@pytest.mark.parametrize(
    "edit",
    [
        ("density: 0.5", "density: .5"),
        ("density: 0.5", "density: [0.5, 0.5]"),
        ("density: 0.5", "density: '0.5'"),
        ("{normalize: false}", "{normalize: false, lambda: 1.0}"),
        ("  - model: a\n    parameters: {weight: 0.5, density: 0.5}\n", ""),
    ],
)
def test_wording_is_no_change(compare: Compare, edit: tuple[str, str]) -> None:
    """The last edit takes the first model out, to list it again behind the others."""
    moved = [] if edit[1] else [("parameters: {normalize", f"{edit[0]}parameters: {{normalize")]
    found = compare(edit, *moved)
    assert found["same"]
    assert all(idle["wording"] for cause in found["causes"] for idle in cause["no_effect"])


def test_the_order_of_filters_counts(compare: Compare) -> None:
    found = compare(("[{filter: mlp, value: 0.3}, {value: 0}]", "[{value: 0}, {filter: mlp, value: 0.3}]"))
    assert found["changed"] == MLP


def test_a_seed_and_a_density_are_told_apart(compare: Compare) -> None:
    found = compare(
        ("{value: 0}], density: 0.5", "{value: 0}], density: 0.25"), ("parameters: {norm", "seed: 1\nparameters: {norm")
    )
    assert {cause["path"]: cause["changed"] for cause in found["causes"]} == {"models[1].density": MLP, "seed": []}


def test_a_rebuild_computes_what_changes_and_reads_its_inputs(compare: Compare) -> None:
    rebuild = compare(("value: 0.3", "value: 0.4"))["rebuild"]
    size = sum(4 * 24 for _ in MLP)
    assert rebuild["computed"] == {"tensors": 2, "bytes": size}
    assert rebuild["reused"]["tensors"] == len(SHAPES) - 2
    assert rebuild["read_bytes"] == 3 * size


def test_a_recipe_that_is_wrong_cannot_be_compared(compare: Compare, tmp_path: Path) -> None:
    compare()
    Path("new.yml").write_text(BODY.replace("density", "densty"))
    called = mergec("diff", "old.yml", "new.yml")
    assert called.code == 2
    assert "new.yml:5:31: error[E202]" in called.err


def text(*arguments: str) -> str:
    return mergec("diff", *arguments, "old.yml", "new.yml").out


def test_a_gradient_shows_its_values_in_each_layer(compare: Compare) -> None:
    found = compare(("density: 0.5", "density: [0.5, 0.25]"))
    (cause,) = found["causes"]
    values = {value["new"]: (value["old"], value["model"]) for value in cause["values"]}
    assert values == {0.25: (0.5, "a")}  # the first layer, and what lies outside of the layers, keep 0.5
    assert found["changed"] == [name for name in found["changed"] if "layers.1" in name]
    compare(("weight: 0.5", "weight: [0.25, 0.75]"))
    assert """
values
  weight of a
    layer  0     1
    was    0.5   0.5
    is     0.25  0.75
""" in text()


def test_a_knot_has_its_own_place(compare: Compare) -> None:
    body = BODY.replace("density: 0.5}", "density: [0.5, 0.5, 0.25]}", 1)
    (cause,) = compare(("0.25", "0.3"), body=body)["causes"]
    assert cause["new_place"]["column"] == BODY.splitlines()[4].index("density: ") + 9 + len("[0.5, 0.5, ") + 1
    assert "knot 3 of 3: 0.25 -> 0.3" in text()


def test_folded_names_are_exact_and_counts_are_said(compare: Compare) -> None:
    compare(("value: 0.3", "value: 0.4"))
    assert "effect: 2 of 9 tensors change, 192 B of " in text()
    assert "\n  model.layers.{0-1}.mlp.down_proj.weight\n" in text()
    assert text("--stat").startswith("old.yml -> new.yml  2 of 9 tensors change, 192 B of ")
    assert text("--stat").count("\n") == 1


def test_tensors_are_listed_one_by_one_with_what_changes_them(compare: Compare) -> None:
    compare(("value: 0.3", "value: 0.4"))
    listed = [
        line.split("  ") for line in text("--tensors", "*layers.1*").splitlines() if line.startswith("  model.layers")
    ]
    states = {row[1]: [cell.strip() for cell in row[2:] if cell.strip()] for row in listed}
    assert states["model.layers.1.mlp.down_proj.weight"] == ["float32 [4, 6]", "changes", "weight of b 0.3 -> 0.4"]
    assert states["model.layers.1.input_layernorm.weight"][1] == "as it was"
    assert mergec("diff", "--tensors", "none", "old.yml", "new.yml").code == 2


def test_every_value_is_shown_on_demand(compare: Compare) -> None:
    compare(("value: 0.3", "value: 0.4"))
    assert "weight of b: 0.3 -> 0.4" not in text()
    assert "  weight of b: 0.3 -> 0.4\n    model.layers.{0-1}.mlp.down_proj.weight\n" in text("--params")


def test_wording_is_shown_on_demand(compare: Compare) -> None:
    compare(
        ("density: 0.5}", "density: .5} # half"),
        ("merge_method: ties\nbase_model: base\n", "base_model: base\nmerge_method: ties\n"),
    )
    assert "text only" not in text()
    shown = text("--text")
    assert re.search(r"comment added: # half +new.yml:5:44", shown)
    assert re.search(r"written \.5, was 0\.5 +new.yml:5:40", shown)
    assert "order of keys: base_model, merge_method" in shown


def test_markdown_holds_the_cause_the_effect_and_the_rebuild(compare: Compare) -> None:
    compare(("value: 0.3", "value: 0.4"))
    shown = text("--markdown")
    assert shown.startswith("### `new.yml`: 2 of 9 tensors change, ")
    assert "| `models[1].weight (filter 'mlp')` | `b` | `0.3 -> 0.4` | `new.yml:7:48` |" in shown
    assert "```text\n  model.layers.{0-1}.mlp.down_proj.weight\n```" in shown
    assert "rebuild: 2 tensors of 192 B computed" in shown


def test_the_other_way_round_is_the_mirror_image(compare: Compare) -> None:
    found = compare(("value: 0.3", "value: 0.4"), ("density: 0.5", "density: 0.7"))
    back = json.loads(mergec("diff", "--json", "new.yml", "old.yml").out)
    assert set(back["changed"]) == set(found["changed"])
    assert [(one["old"], one["new"]) for one in back["causes"]] == [(one["new"], one["old"]) for one in found["causes"]]


def test_the_documented_keys_are_those_of_the_json(compare: Compare) -> None:
    found = compare(("value: 0.3", "value: 0.4"))
    page = (Path(__file__).parents[2] / "docs" / "diff.md").read_text()
    documented = re.findall(
        r"`(\.?\w+)`", " ".join(re.findall(r"^\| (.*?) \|", page.partition("## JSON")[2], re.MULTILINE))
    )
    assert {name for name in documented if name[0] != "."} == found.keys()
    assert {name[1:] for name in documented if name[0] == "."} <= found["causes"][0].keys()


def test_a_setting_of_a_stage_is_a_cause(compare: Compare) -> None:
    body = (
        "merge_method: linear\nname: ab\nparameters: {normalize: false}\nmodels: [{model: a, parameters: {weight: 1}}, "
        "{model: b, parameters: {weight: [{filter: mlp, value: 0.5}, {value: 0.2}]}}]\n---\n"
        "merge_method: ties\nbase_model: base\nmodels: [{model: ab}, {model: c}]\nparameters: {weight: 0.5}\n"
    )
    found = compare(("value: 0.5", "value: 0.6"), body=body)
    (cause,) = found["causes"]
    assert cause["path"] == "ab: models[1].weight (filter 'mlp')"
    assert (cause["new_place"]["line"], cause["changed"]) == (4, MLP)
    assert found["changed"] == MLP


def test_another_tokenizer_is_an_effect_on_files(compare: Compare) -> None:
    Path("a/tokenizer.json").write_text(json.dumps({**TOKENIZER, "version": "1.0"}))
    found = compare(("merge_method: ties", "merge_method: ties\ntokenizer_source: a"))
    assert (found["changed"], found["files"], found["same"]) == ([], ["tokenizer.json"], False)
    assert found["causes"][0]["no_effect"] == []


def test_a_rule_for_a_token_changes_tensors_with_its_row(compare: Compare) -> None:
    body = BODY + "seed: 3\ntokenizer: {source: base, tokens: {c: {source: a}}}\n"
    found = compare(("{source: a}", "{source: a, force: true}"), ("seed: 3", "seed: 4"), body=body)
    causes = {one["path"]: one["changed"] for one in found["causes"]}
    rows = ["lm_head.weight", "model.embed_tokens.weight"]
    assert causes == {"seed": [], "tokenizer.tokens.c": rows}
    assert sorted(found["changed"]) == rows
    found = compare(("tokenizer: {source: base, tokens: {c: {source: a}}}", "tokenizer_source: base"), body=body)
    assert [(one["path"], one["no_effect"][0]["why"]) for one in found["causes"]] == [
        ("tokenizer.tokens.c", "the result does not depend on it here")
    ]


def test_models_that_are_absent_have_the_tokens_of_others_with_as_many_rows(compare: Compare, tmp_path: Path) -> None:
    Path("r.yml").write_text(BODY + "tokenizer_source: base\n")
    assert mergec("lock", "r.yml").code == 0
    (tmp_path / "a").rename(tmp_path / "gone")
    Path("r.yml").write_text(BODY.replace("0.5", "0.6", 1) + "tokenizer_source: base\n")
    found = json.loads(mergec("diff", "--json", "mergec.lock", "r.yml").out)
    assert found["changed"]
    assert found["causes"]


def test_a_weight_that_normalize_divides_out_changes_nothing(compare: Compare) -> None:
    body = (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0}}]\n"
    )
    found = compare(("weight: 0.5", "weight: 0.7"), body=body)
    (cause,) = found["causes"]
    assert (found["changed"], cause["no_effect"][0]["why"]) == ([], "normalize divides by the sum of the weights")


def test_passes_are_compared_by_name(compare: Compare) -> None:
    with_pass = BODY + "post:\n  - svc: {alpha: 0.1}\n"
    compare(("alpha: 0.1", "alpha: 0.2"), body=with_pass)
    assert "post[0] svc alpha  0.1 -> 0.2" in text()
