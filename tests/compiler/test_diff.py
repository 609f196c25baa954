"""Diff: what changes in the result, by which settings, and why others change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes_fixtures import SHAPES, mergec, write_family

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
