"""Tables of settings: a row per tensor, a column per model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes_fixtures import mergec, write_family

RECIPE = """\
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: [0.2, 0.7]}}
  - {model: b, parameters: {weight: [{filter: mlp, value: 0.4}, {value: 1}]}}
parameters: {density: 0.5, normalize: false}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yml").write_text(RECIPE)
    return write_family(tmp_path)


def test_a_table_on_a_terminal(here: Path) -> None:
    called = mergec("explain", "r.yml", "--table", "*down_proj*", "--param", "weight", "--param", "normalize")
    assert called.out.splitlines() == [
        "tensor                               layer  t  weight a  weight b  normalize",
        "model.layers.0.mlp.down_proj.weight  0      0  0.2       0.4       false",
        "model.layers.1.mlp.down_proj.weight  1      1  0.7       0.4       false",
    ]


def test_a_table_as_csv_and_json(here: Path) -> None:
    arguments = ("explain", "r.yml", "--table", "model.norm*", "--param", "weight")
    assert mergec(*arguments, "--csv").out == ("tensor,layer,t,weight a,weight b\nmodel.norm.weight,,0.0,0.2,1.0\n")
    assert json.loads(mergec(*arguments, "--json").out) == [
        {"tensor": "model.norm.weight", "layer": None, "t": 0.0, "weight a": 0.2, "weight b": 1.0}
    ]


def test_without_a_name_all_that_the_recipe_sets_is_shown(here: Path) -> None:
    head = mergec("explain", "r.yml", "--table", "*").out.splitlines()[0]
    assert head.split()[3:] == ["weight", "a", "weight", "b", "density", "a", "density", "b", "normalize"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--table", "*", "--param", "densty"],
            "error[E202]: ties has no parameter 'densty'; hint: did you mean 'density'?",
        ),
        (["--table", "lm_haed.weight"], "did you mean 'lm_head.weight'?"),
        ([], "give the name of a tensor, or --table"),
        (["lm_head.weight", "--csv"], "go with --table"),
        (["--table", "*", "--csv", "--json"], "one of --csv and --json"),
    ],
)
def test_what_cannot_be_tabulated(arguments: list[str], line: str, here: Path) -> None:
    called = mergec("explain", "r.yml", *arguments)
    assert (called.code, line in called.err) == (2, True)
