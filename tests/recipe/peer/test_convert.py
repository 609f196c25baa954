"""Importing: the text that comes out, every finding with its place, and what must not change."""

# ruff: noqa: E501 - a message is one line

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from recipes_fixtures import mergec, write_family
from yaml_texts import recipe_texts

from mergec.errors import RecipeError
from mergec.recipe.document import parse
from mergec.recipe.layout import comments
from mergec.recipe.load import read_recipe
from mergec.recipe.peer.convert import import_text
from mergec.recipe.schema import Recipe

ROOT = Path(__file__).parents[3]
TIES = "merge_method: ties\nbase_model: base\nmodels:\n  - model: a\n  - model: b\nparameters:\n  weight: 0.5\n"
BEFORE = """\
# What it is for.

models:
  - model: base     # the base
    parameters:
      weight: 1     # nonsense
  - model: {model: {path: a, revision: v1}, lora: x}
    parameters: {weight: 0.5, densty: 0.3}
  - model: b
    paramters:
      weight: 3
    parameters:
      weight: [0.5, 0.2]   # why
      normalize: no
      # inner
      density:
        - {filter: mlp, value: 0.4, foo: 1}
        - value: 0.5
merge_method: ties
base_model: base
parameters:
  int8_mask: true
  normalize: yes   # yes
dtype: float16
dtype: bfloat16
foo:
  - bar   # bye
  # tail
# end
"""
AFTER = """\
# What it is for.

compat: mergekit          # that tool's arithmetic; left out: float32, rounded once
merge_method: ties
base_model: base
models:
  - model: base           # the base
    # parameters:  # mergekit ignores it
    #   weight: 1     # nonsense
  - model: {model: {path: a, revision: v1}, lora: x}
    # densty: 0.3  # mergekit ignores it
    parameters: {weight: 0.5}
  - model: b
    # paramters:  # mergekit ignores it
    #   weight: 3
    parameters:
      weight: [0.5, 0.2]  # why
      # normalize: no  # mergekit ignores it
      # inner
      density:
        # foo: 1  # mergekit ignores it
        - {filter: mlp, value: 0.4}
        - value: 0.5
parameters:
  # int8_mask: true  # mergekit ignores it
  normalize: true         # yes

dtype: bfloat16
# tail
# foo:  # mergekit ignores it
#   - bar   # bye
# end
"""
FOUND = """\
6:7: warning[W720]: mergekit ignores 'weight': this is the base model, which deltas are taken from; commented out
7:12: warning[W722]: mergekit writes 'a@v1+x' out in its model's dtype before it merges, here it is never written; hint: 'lora_merge_dtype: DTYPE' is --lora-merge-dtype
8:31: warning[W720]: mergekit ignores 'densty': ties has no such parameter; commented out; hint: did you mean 'density'?
10:5: warning[W720]: mergekit ignores 'paramters': it is no key of a model's entry; commented out; hint: did you mean 'parameters'?
14:7: warning[W720]: mergekit ignores 'normalize': ties looks it up for the whole merge; commented out; hint: move it to the top 'parameters:'
17:37: warning[W720]: mergekit ignores 'foo': it is neither 'value' nor 'filter'; commented out
19:15: warning[W722]: 'compat: mergekit' was added, so that ties computes in the dtype of its inputs, as mergekit does; hint: without it: float32, rounded once
19:15: warning[W722]: of entries that are equal at a threshold mergekit keeps any, here those of the lowest index are kept
22:3: warning[W720]: mergekit ignores 'int8_mask': it changes no number of ties; commented out
23:14: warning[W721]: mergekit reads YAML 1.1, in which yes is true: written so
24:1: warning[W720]: mergekit ignores 'dtype': it stands again on line 25, and that counts; removed
26:1: warning[W720]: mergekit ignores 'foo': it is no key of a recipe; commented out
"""


def found(text: str) -> list[str]:
    """The findings about a recipe without the file's name, those about `compat` and thresholds left out."""
    lines = [str(one).removeprefix("r.yml:") for one in import_text(text, "r.yml").findings]
    return [line for line in lines if "'compat: mergekit' was added" not in line and "at a threshold" not in line]


def test_everything_is_said_and_commented_out_where_it_stood() -> None:
    made = import_text(BEFORE, "r.yml")
    assert made.text == AFTER
    assert [str(one) for one in made.findings] == [f"r.yml:{line}" for line in FOUND.splitlines()]


def test_importing_twice_is_importing_once() -> None:
    again = import_text(AFTER, "r.yml")
    assert (again.text, again.findings) == (AFTER, ())


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*.yml")), ids=lambda path: path.stem)
def test_recipes_of_mergec_stay_as_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert import_text(text, path.name) == import_text(import_text(text, path.name).text, path.name)
    assert import_text(text, path.name).text == text
    assert [one.code for one in import_text(text, path.name).findings] == ["W723"] * (path.stem == "moe")


@pytest.mark.parametrize(
    "line", ["seed: 1", "compat: mergekit", "lora_merge_dtype: float32", "metadata: {a: 1}", "post: [svc]"]
)
def test_a_word_of_mergec_makes_it_a_recipe_of_mergec(line: str) -> None:
    text = f"{TIES}  densty: 1\n{line}\n"
    assert (import_text(text, "r.yml").text, import_text(text, "r.yml").findings) == (text, ())


@settings(max_examples=60)
@given(recipe_texts())
def test_meaning_stays_and_no_comment_is_lost(text: str) -> None:
    made = import_text(text, "r.yml").text
    assert import_text(made, "r.yml").text == made
    before, after = dict(parse(text, "r.yml").value), dict(parse(made, "r.yml").value)
    before.setdefault("compat", "mergekit")
    after.setdefault("compat", "mergekit")
    assert {name: after.get(name) for name in ("merge_method", "base_model", "dtype")} == {
        name: before.get(name) for name in ("merge_method", "base_model", "dtype")
    }
    assert all(one in made for one in comments(text.replace("\r\n", "\n")))
    assert not read_recipe(parse(made, "r.yml"))[1]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n",
            [
                "2:18: warning[W722]: without a base_model mergekit takes config and tokenizer of any of the models, "
                "here of 'a'; hint: 'tokenizer_source: MODEL' chooses the tokenizer"
            ],
        ),
        (
            "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, density: 0.5}\n",
            [
                "1:15: warning[W722]: mergekit draws what dare_ties drops from one stream for all tensors "
                "(--random-seed), here it depends on seed, tensor and model alone: as many entries are dropped, and "
                "others; hint: 'random_order: mergekit' with 'seed: N' drops what --random-seed N drops there"
            ],
        ),
        (
            "merge_method: linear\nbase_model: a\nslices:\n"
            "  - sources: [{model: a, layer_range: [0, 1]}]\n    residual_weight: 0.5\n"
            "  - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]\nmodels: []\n"
            "parameters: {weight: 1}\n",
            [
                "5:5: warning[W720]: mergekit ignores 'residual_weight': it is read and never used; commented out",
                "6:14: warning[W722]: the last norm and the head are merged from all 2 sources of the last slice; "
                "mergekit takes the first 1, as many as the first slice has",
                "7:1: warning[W720]: mergekit ignores 'models': it is empty; commented out",
            ],
        ),
        (
            "merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: a}]\n",
            [
                "1:15: warning[W722]: above 10^6 entries mergekit finds the quartiles in a random sample, here in the "
                "whole tensor",
                "1:15: warning[W722]: mergekit stores the result of arcee_fusion as float32 whatever the inputs are, "
                "here 'dtype' or theirs holds; hint: 'out_dtype: float32' for the other",
            ],
        ),
        (
            "merge_method: karcher\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {tol: []}\nlambda: 1\n",
            [
                "1:15: warning[W722]: norms of tensors of many millions of entries are float32 sums in mergekit, up to "
                "2e-3 off; here float64",
                "4:14: warning[W720]: mergekit ignores 'tol': an empty list sets nothing; commented out",
                "5:1: warning[W720]: mergekit ignores 'lambda': it is no key of a recipe; commented out; hint: a "
                "parameter stands under 'parameters:'",
            ],
        ),
        (
            "merge_method: linear\nbase_model: a.pt\nmodels: [{model: a.pt}, {model: b.pt}]\n"
            "parameters: {weight: [0.1, 1]}\n",
            [
                "4:22: warning[W722]: mergekit-pytorch takes the first value of a gradient for all tensors, here it "
                "runs over the layers"
            ],
        ),
        (
            "name: one\nmerge_method: passthrough\nmodels: [{model: a}]\n---\n"
            "merge_method: passthrough\nmodels: [{model: one}]\nfoo: 1\n",
            [
                "1:7: warning[W722]: mergekit-multi writes the result of every recipe into a folder of its own, here "
                "the last one's alone; hint: a recipe in a file of its own is written",
                "7:1: warning[W720]: mergekit ignores 'foo': it is no key of a recipe; commented out",
            ],
        ),
        (
            "merge_method: linear\nbase_model: {model: a}\nmodels:\n  - model: a\n  - model: {model: {path: b, rev: x}}\n"
            "parameters: {weight: 0.5}\ntokenizer:\n  sauce: union\n  tokens:\n    x: {forse: true}\n"
            "    y: {source: {kind: zero, why: x}}\n",
            [
                "5:30: warning[W720]: mergekit ignores 'rev': it is no key of a model's reference; commented out",
                "8:3: warning[W720]: mergekit ignores 'sauce': it is no key of the tokenizer; commented out; hint: did you mean 'source'?",
                "8:3: warning[W722]: mergekit numbers the tokens that models add in any order of the models, here in that of the recipe",
                "10:9: warning[W720]: mergekit ignores 'forse': it is no key of a token's entry; commented out; hint: did you mean 'force'?",
                "11:30: warning[W720]: mergekit ignores 'why': it is no key of a token's source; commented out",
            ],
        ),
        (
            "merge_method: ties\nbase_model: base\nmodels:\n  - {model: a, parameters: {density: 2}}\n"
            "  - {model: b, parameters: {density: [{filter: mlp, value: 1.5}, {value: [0.5, 1]}]}}\n"
            "parameters: {weight: 1}\n",
            [
                "4:38: warning[W721]: mergekit takes 2 as all there is: written as 1.0",
                "5:60: warning[W721]: mergekit takes 1.5 as all there is: written as 1.0",
            ],
        ),
        (
            "merge_method: passthrough\nmodules:\n  default:\n    models: [{model: a, layer: 1}]\n    foo: 1\n",
            [
                "4:25: warning[W720]: mergekit ignores 'layer': it is no key of a model's entry; commented out",
                "5:5: warning[W720]: mergekit ignores 'foo': it is no key of a module; commented out",
            ],
        ),
        (
            "merge_method: passthrough\nslices:\n  - sources:\n      - model: a\n        layer_range: [00, 0o2]\n"
            "  - sources: [{model: a, layer_range: [1, 010]}]\n",
            ["6:43: warning[W721]: mergekit reads YAML 1.1, in which 010 is 8: written so"],
        ),
        (
            "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a}]\n"
            "parameters: {weight: 1, density: 0.5, rescale: true}\n",
            [
                "4:25: warning[W720]: mergekit ignores 'density': it changes no number of task_arithmetic; commented out",
                "4:39: warning[W720]: mergekit ignores 'rescale': it changes no number of task_arithmetic; commented out",
            ],
        ),
        (
            "merge_method: passthrough\nmodels:\n"
            "  - model: {model: a, override_architecture: LlamaForCausalLM}\n    parameters: {scale: {value: 1.0}}\n",
            [
                "3:23: warning[W721]: 'override_architecture' has no meaning here: tensors are known by their names, so "
                "that no architecture is looked up; commented out"
            ],
        ),
    ],
)  # fmt: skip
def test_each_finding_has_its_place(text: str, lines: list[str]) -> None:
    assert found(text) == lines
    made = import_text(text, "r.yml").text
    recipe, problems = read_recipe(parse(made, "r.yml"))
    assert recipe
    assert problems == []
    assert import_text(made, "r.yml").text == made


def test_copies_need_no_compat_and_adapters_do() -> None:
    copies = "merge_method: passthrough\nmodels: [{model: a}]  # as it is\n"
    assert import_text(copies, "r.yml").text == copies
    assert "compat: mergekit" in import_text(copies.replace("a}", "a+b}"), "r.yml").text
    scaled = "merge_method: passthrough\nmodels: [{model: a, parameters: {scale: 2}}]\n"
    assert "compat: mergekit" in import_text(scaled, "r.yml").text


def test_what_an_alias_needs_stays() -> None:
    text = (
        "merge_method: linear\nmodels:\n  - model: a\n    parameters: &all {weight: 1, normalize: false}\n"
        "  - model: b\n    parameters: {weight: 1}\nparameters: *all\n"
    )
    made = import_text(text, "r.yml")
    assert "parameters: &all {weight: 1, normalize: false}" in made.text
    assert "kept, since an alias of it counts elsewhere" in str(
        next(one for one in made.findings if one.code == "W720")
    )
    text = "merge_method: linear\nmodels: [{model: a}]\nfoo: &w 0.5\nparameters: {weight: *w}\n"
    with pytest.raises(RecipeError, match=r"r.yml:3:1: error\[E101\]: unknown key 'foo'"):
        import_text(text, "r.yml")


def test_merge_keys_are_followed() -> None:
    text = (
        "merge_method: linear\nmodels:\n  - model: a\n    parameters: &all\n      weight: 1\n      densty: 2\n"
        "  - model: b\n    parameters: {<<: *all}\n"
    )
    made = import_text(text, "r.yml")
    assert parse(made.text, "r.yml").value["models"][1] == {"model": "b", "parameters": {"weight": 1}}
    assert [str(one.place) for one in made.findings if one.code == "W720"] == ["r.yml:6:7"]


def test_line_ends_stay() -> None:
    made = import_text(TIES.replace("\n", "\r\n") + "foo: 1\r\n", "r.yml").text
    assert made.count("\r\n") == made.count("\n")
    assert made.startswith("compat: mergekit")


BAKLLAMA = """\
# two of them
layer_slices:
  - model: a  # first
    start: 0  # from
    end: 2
  - {model: b, start: 1, end: 2, scale: 0.5, strat: 3}
embedding_source: a
"""


def test_slices_of_bakllama_become_a_passthrough() -> None:
    made = import_text(BAKLLAMA, "r.yml")
    assert parse(made.text, "r.yml").value == {
        "compat": "mergekit",
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {
                "sources": [
                    {
                        "model": "b",
                        "layer_range": [1, 2],
                        "parameters": {"scale": {"filter": "down_proj", "value": 0.5}},
                    }
                ]
            },
        ],
    }
    assert all(one in made.text for one in ("# two of them", "# first", "# from", "# embedding_source: a"))
    assert [str(one).partition(";")[0] for one in made.findings if one.code != "W722"] == [
        "r.yml:2:1: warning[W723]: slices of bakllama as a passthrough",
        "r.yml:6:46: warning[W720]: mergekit ignores 'strat': it is no key of a slice",
        "r.yml:7:1: warning[W720]: mergekit ignores 'embedding_source': bakllama reads nothing of it",
    ]


def test_a_mixture_of_experts_is_passed_on_where_it_is_read() -> None:
    text = "base_model: a\nexperts:\n  - source_model: b\n    positive_prompts: [x]\n"
    if "experts" in Recipe.model_fields:
        made = import_text(text, "r.yml")
        assert made.text == text
        assert [str(one) for one in made.findings] == [
            "r.yml:2:1: warning[W723]: this is a recipe of mergekit-moe, which mergec reads as it is: passed on "
            "unchanged; hint: `mergec check` says what it does not take"
        ]
    else:
        with pytest.raises(RecipeError, match=r"r.yml:2:1: error\[E720\]: this is a recipe of mergekit-moe, and"):
            import_text(text, "r.yml")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["r.yml:1:1: error[E002]: found nothing, expected a mapping such as 'merge_method: ties'; hint: `mergec new ties` prints a recipe to start from"]),
        ("a: [", ["r.yml:1:5: error[E001]: not YAML: expected the node content, but found '<stream end>' while parsing a flow node that begins here; hint: check indentation, quotes and colons here"]),
        ("genome: {models: [a]}\ntasks: [x]\n", ["r.yml:1:1: error[E720]: this is a genome for mergekit-evolve, which looks for recipes; mergec merges those that it finds; hint: import the best_config.yaml that it writes"]),
        ("layer_slices: 1\n", ["r.yml:1:15: error[E720]: found no list of slices; hint: write {model: MODEL, start: FIRST, end: END}"]),
        ("layer_slices:\n  - {model: a}\n  - {model: a, start: 0, end: x}\n", ["r.yml:2:5: error[E720]: a slice has no model, start or end; hint: write {model: MODEL, start: FIRST, end: END}", "r.yml:3:5: error[E720]: a slice's model is no text, or its start or end no number; hint: write {model: MODEL, start: FIRST, end: END}"]),
        (TIES + "  density: -2\n", ["r.yml:8:12: error[E205]: found -2 for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"]),
        (TIES.replace("ties", "tise"), ["r.yml:1:15: error[E200]: unknown merge method 'tise'; hint: did you mean 'ties'?"]),
    ],
)  # fmt: skip
def test_what_cannot_be_imported(text: str, lines: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        import_text(text, "r.yml")
    assert [str(one) for one in caught.value.problems if one.is_error] == lines


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_family(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old recipe.yml").write_text(TIES + "  int8_mask: true\n")
    return tmp_path


def test_the_command_prints_the_recipe_and_reports_beside_it(here: Path) -> None:
    called = mergec("import", "old recipe.yml")
    assert called.code == 0
    assert called.out.startswith("compat: mergekit     # that tool's")
    assert called.err.splitlines()[-1].startswith("old recipe.yml:8:3: warning[W720]: mergekit ignores 'int8_mask'")
    (here / "new.yml").write_text(called.out)
    assert mergec("check", "new.yml").code == 0
    again = mergec("import", "new.yml")
    assert (again.out, again.err) == (called.out, "new.yml: nothing to change\n")


def test_the_command_writes_a_file_and_replaces_none(here: Path) -> None:
    called = mergec("import", "old recipe.yml", "-o", "new.yml")
    assert (called.code, called.out, called.err.splitlines()[-1]) == (0, "", "wrote new.yml")
    assert mergec("import", "old recipe.yml").out == (here / "new.yml").read_text()
    (here / "new.yml").write_text("mine")
    refused = "mergec: error[E722]: new.yml is there already; hint: choose another name, or --force to replace it\n"
    assert mergec("import", "old recipe.yml", "-o", "new.yml").err == refused
    assert (here / "new.yml").read_text() == "mine"
    assert mergec("import", "old recipe.yml", "-o", "new.yml", "--force").code == 0
    assert (here / "new.yml").read_text().startswith("compat")
    into = mergec("import", "old recipe.yml", "-o", "a")
    assert into.err == "mergec: error[E722]: a is a folder; hint: name a file in it, such as a/recipe.yml\n"
    none = mergec("import", "old recipe.yml", "-o", "no/new.yml")
    assert none.err == "mergec: error[E722]: no folder no to write new.yml in; hint: make it, or mind the name\n"


def test_json_has_recipe_and_findings(here: Path) -> None:
    called = mergec("import", "old recipe.yml", "--json")
    made = json.loads(called.out)
    assert (called.code, called.err, made["is_changed"]) == (0, "", True)
    assert made["recipe"] == mergec("import", "old recipe.yml").out
    assert {"code": "W720", "line": 8, "column": 3}.items() <= made["findings"][-1].items()
    (here / "bad.yml").write_text("genome: 1\n")
    called = mergec("import", "bad.yml", "--json")
    assert (called.code, json.loads(called.out)["findings"][0]["code"]) == (2, "E720")


def test_a_path_that_means_another_folder_is_said(here: Path) -> None:
    write_family(here / "sub", ["a"])
    called = mergec("import", "old recipe.yml", "-o", "sub/new.yml")
    assert (
        "old recipe.yml:4:12: warning[W722]: mergekit reads 'a' in the current folder, here the one beside the recipe "
        "comes first; hint: write an absolute path\n"
    ) in called.err


def test_a_recipe_that_is_not_there(here: Path) -> None:
    called = mergec("import", "old_recipe.yml")
    assert called.err.startswith("old_recipe.yml:1:1: error[E008]: no such file; hint: did you mean 'old recipe.yml'?")
    assert called.code == 2
