"""Rules: tensors merged by another method, copied, kept or dropped by name; each equal to what that method makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import merged, write_recipe
from models import tensors_of
from recipes_fixtures import mergec, write_family
from safetensors.torch import load_file, save_file

import mergec as package
from mergec.keys import plan_hash
from mergec.planfile import plan_json, read_plan
from mergec.recipe.canon import canonical_text

LINEAR = {"parameters": {"weight": 0.5}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models base, a and b in the current folder."""
    write_family(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(here: Path, method: str, rules: list[dict[str, Any]] | None = None, **rest: Any) -> dict[str, torch.Tensor]:
    rest = {"parameters": {"weight": 0.5}, "base_model": "base", **rest}
    if rules is not None:
        rest["rules"] = rules
    merged(write_recipe(here, method, ["a", "b"], **rest), here / "out")
    return tensors_of(here / "out")


def test_each_tensor_is_what_the_method_of_its_rule_makes(here: Path) -> None:
    rules = [
        {"match": "*.mlp.*", "method": "ties", "parameters": {"density": 0.5}},
        {"match": "*layers.1*", "copy": "b"},
        {"match": "lm_head.weight", "keep": True},
        {"match": "model.norm.weight", "drop": True},
    ]
    found = made(here, "task_arithmetic", rules)
    plain = made(here, "task_arithmetic")
    ties = made(here, "ties", parameters={"weight": 0.5, "density": 0.5})
    base, b = tensors_of(here / "base"), tensors_of(here / "b")
    assert plain.keys() - found.keys() == {"model.norm.weight"}
    for name, tensor in found.items():
        if ".mlp." in name:
            assert torch.equal(tensor, ties[name])
        elif "layers.1" in name:
            assert torch.equal(tensor, b[name])
        elif name == "lm_head.weight":
            assert torch.equal(tensor, base[name])
        else:
            assert torch.equal(tensor, plain[name])


def test_what_only_a_copied_model_has_is_in_the_result_where_a_rule_takes_it(here: Path) -> None:
    more = {"visual.weight": torch.ones(2, 3), "visual.bias": torch.ones(2), "other": torch.ones(1)}
    (here / "d").mkdir()
    save_file({**load_file(here / "a" / "model.safetensors"), **more}, here / "d" / "model.safetensors")
    found = made(here, "task_arithmetic", [{"match": "visual.*", "copy": "d"}])
    assert {"visual.weight", "visual.bias"} <= found.keys()
    assert "other" not in found
    notes = package.compile(here / "recipe.yml").notes
    assert "d: only copied from, so not used: other" in notes
    assert "rule 'visual.*': copied from d, 2 tensors: visual.bias, visual.weight" in notes


def test_settings_of_a_rule_win_and_those_of_models_hold_where_it_has_none(here: Path) -> None:
    models = [{"model": "a", "parameters": {"weight": 0.25}}, {"model": "b", "parameters": {"weight": 0.75}}]
    rules = [{"match": "*mlp*", "method": "task_arithmetic"}]
    rules += [{"match": "*norm*", "method": "task_arithmetic", "parameters": {"weight": 2, "lambda": 0.5}}]
    path = write_recipe(here, "linear", models, base_model="base", rules=rules)
    merged(path, here / "out")
    found = tensors_of(here / "out")
    base, a, b = (tensors_of(here / name) for name in ("base", "a", "b"))
    for name in found:
        weights = (1.0, 1.0) if "norm" in name else (0.25, 0.75)
        wanted = base[name] + weights[0] * (a[name] - base[name]) + weights[1] * (b[name] - base[name])
        if "norm" not in name and "mlp" not in name:
            wanted = 0.25 * a[name] + 0.75 * b[name]
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_layers_are_counted_over_all_tensors(here: Path) -> None:
    """A gradient of the recipe's method runs over all layers, also where a rule takes those of one."""
    rules = [{"match": "*layers.0*", "keep": True}]
    gradient = {"weight": [0.0, 1.0]}
    path = write_recipe(here, "task_arithmetic", ["a", "b"], base_model="base", parameters=gradient, rules=rules)
    out = mergec("explain", path, "model.layers.1.mlp.down_proj.weight").out
    assert "layer 1 of 2 in model.layers, t = 1" in out


def test_the_plan_is_kept_and_its_hash_tells_rules_apart(here: Path) -> None:
    def plan(*rules: dict[str, Any]) -> Any:
        path = write_recipe(here, "linear", ["a", "b"], **LINEAR, rules=list(rules))
        return package.compile(path)

    one, other = plan({"match": "*mlp*", "copy": "a"}), plan({"match": "*mlp*", "copy": "b"})
    assert plan_hash(one) != plan_hash(other)
    assert plan_hash(one) == plan_hash(plan({"match": "*mlp*", "copy": "a"}, {"match": "*norm*", "method": "linear"}))
    assert read_plan(plan_json(one)) == one


def test_the_canonical_text_is_a_recipe_of_the_same_plan(here: Path) -> None:
    rules = [{"match": "*mlp*", "method": "ties", "parameters": {"density": 0.5}}, {"match": "*norm*", "copy": "a"}]
    path = write_recipe(here, "task_arithmetic", ["a", "b"], base_model="base", **LINEAR, rules=rules)
    (here / "canonical.yml").write_text(canonical_text(path.read_text(), str(path)))
    assert plan_hash(package.compile("canonical.yml")) == plan_hash(package.compile(path))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{match: 'x*', drop: true}", "5:4: error[E123]: the rule 'x*' takes no tensor; hint: `mergec inspect MODEL`"),
        (
            "{match: lm_haed.weight, keep: true}",
            "5:4: error[E123]: the rule 'lm_haed.weight' takes no tensor; hint: did you mean 'lm_head.weight'?",
        ),
        (
            "{match: '*', keep: true, drop: true}",
            "5:4: error[E122]: a rule says one of method, copy, keep and drop, found 'keep' and 'drop'; hint: as in",
        ),
        ("{match: '*'}", "5:4: error[E122]: a rule says one of method, copy, keep and drop, found none of them"),
        ("{match: '*', method: tise}", "5:25: error[E200]: unknown merge method 'tise'; hint: did you mean 'ties'?"),
        ("{match: '*', method: twin}", "5:25: error[E122]: twin makes an artifact, and a rule makes tensors of a"),
        ("{match: '*', method: ties}", "5:25: error[E210]: ties takes deltas from a base, and the recipe has no"),
        ("{match: '*', method: passthrough}", "5:25: error[E211]: passthrough merges exactly 1 model, found 2 models"),
        (
            "{match: '*', method: linear, parameters: {wieght: 1}}",
            "5:46: error[E202]: linear has no parameter 'wieght'; hint: did you mean 'weight'?",
        ),
        (
            "{match: '*', copy: a, parameters: {weight: 1}}",
            "5:26: error[E122]: 'parameters' belong to a method, and this rule says 'copy'; hint: remove them",
        ),
        ("{mach: '*', copy: a}", "5:4: error[E102]: the key 'match' is missing"),
        ("{mach: '*', copy: a}", "5:5: error[E101]: unknown key 'mach' in a rule; hint: did you mean 'match'?"),
        ("{match: '*', copy: nowhere}", "5:23: error[E300]: no model 'nowhere' in the current folder"),
        ("{match: '*', keep: false}", "5:23: error[E104]: found False for 'keep', expected True"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said_with_its_place(rule: str, said: str, here: Path) -> None:
    text = f"merge_method: linear\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{weight: 1}}\nrules:\n - {rule}\n"
    Path("r.yml").write_text(text)
    called = mergec("check", "r.yml")
    assert called.code == 2
    assert any(line.startswith(f"r.yml:{said}") for line in called.err.splitlines()), called.err


@pytest.mark.parametrize(
    "way", ["copy: {model: {pth: a}}", "keep: false", "method: 5", "method: 5, parameters: {t: 1}"]
)
def test_what_is_wrong_in_a_rule_is_no_missing_way(way: str, here: Path) -> None:
    Path("r.yml").write_text(
        f"merge_method: linear\nmodels: [{{model: a}}]\nparameters: {{weight: 1}}\nrules:\n - {{match: '*', {way}}}\n"
    )
    called = mergec("check", "r.yml")
    assert called.code == 2
    assert "E122" not in called.err


def test_rules_and_slices_are_not_mixed(here: Path) -> None:
    slices = [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]
    Path("r.yml").write_text(
        f"merge_method: passthrough\nslices: {slices}\nrules:\n - {{match: '*', keep: true}}\n".replace("'", '"')
    )
    assert "r.yml:3:1: error[E122]: found 'rules' beside 'slices'" in mergec("check", "r.yml").err


def test_a_change_of_a_rule_is_named(here: Path) -> None:
    for name, density in (("old", 0.5), ("new", 0.25)):
        rules = [{"match": "*mlp*", "method": "ties", "parameters": {"density": density}}]
        path = write_recipe(here, "task_arithmetic", ["a", "b"], base_model="base", **LINEAR, rules=rules)
        path.rename(f"{name}.yml")
    out = mergec("diff", "old.yml", "new.yml").out
    assert "rule '*mlp*'.density  0.5 -> 0.25" in out
    assert "effect: 2 of 9 tensors change" in out


def test_what_a_copied_model_lacks_is_refused(here: Path) -> None:
    tensors = load_file(here / "a" / "model.safetensors")
    (here / "d").mkdir()
    save_file({name: one for name, one in tensors.items() if "mlp" not in name}, here / "d" / "model.safetensors")
    path = write_recipe(here, "linear", ["a", "b"], **LINEAR, rules=[{"match": "*layers*", "copy": "d"}])
    said = "error[E124]: 'd' has no model.layers.{0-1}.mlp.down_proj.weight, which the rule '*layers*' takes from it"
    assert said in mergec("check", path).err
