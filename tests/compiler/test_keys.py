"""Keys: equal where the bytes of a tensor are equal, other where anything they depend on is another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recipes_fixtures import SHAPES, tensors_of, write_family, write_model
from recipes_fixtures import mergec as call

import mergec
from mergec.io.tensors import TensorRef
from mergec.keys import plan_hash, plan_keys

EVERY = set(SHAPES)
NAMES = ("base", "a", "b", "c")
BODY = "base_model: base\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {weight: 0.3, density: 0.5}\n"


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The plan keys of a recipe beside small models: `keys("ties", body)`."""
    write_family(tmp_path, NAMES)

    def compiled(method: str, body: str = BODY) -> dict[str, str]:
        return plan_keys(plan_of(tmp_path, method, body))

    return compiled


def plan_of(folder: Path, method: str, body: str = BODY) -> mergec.Plan:
    (folder / "recipe.yml").write_text(f"merge_method: {method}\n{body}")
    return mergec.compile(folder / "recipe.yml", workers=1)


def changed(old: dict[str, str], new: dict[str, str]) -> set[str]:
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def test_there_is_a_key_for_every_tensor(keys: Callable[..., dict[str, str]]) -> None:
    found = keys("ties")
    assert set(found) == EVERY
    assert len(set(found.values())) == len(found)  # they are made of different tensors


def test_a_setting_changes_the_keys_of_the_tensors_it_holds_for(keys: Callable[..., dict[str, str]]) -> None:
    filtered = BODY.replace("weight: 0.3", "weight: [{filter: q_proj, value: 0.4}, {value: 0.3}]")
    assert changed(keys("ties"), keys("ties", filtered)) == {
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)
    }


def test_a_rule_changes_the_keys_of_the_tensors_it_takes(keys: Callable[..., dict[str, str]]) -> None:
    rule = "rules: [{match: lm_head.weight, copy: b}]\n"
    assert changed(keys("ties"), keys("ties", BODY + rule)) == {"lm_head.weight"}


def test_a_tensor_that_one_model_adds_changes_no_other_key(keys: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    before = keys("ties")
    write_model(tmp_path / "a", seed="a", shapes=SHAPES | {"model.extra": (4,)})
    assert changed(before, keys("ties", BODY + "tensors: union\n")) == {"model.extra"}


def test_a_seed_changes_the_keys_of_random_methods_only(keys: Callable[..., dict[str, str]]) -> None:
    assert changed(keys("ties"), keys("ties", BODY + "seed: 1\n")) == set()
    assert changed(keys("dare_ties"), keys("dare_ties", BODY + "seed: 1\n")) == EVERY


def test_a_new_model_of_weight_0_reshuffles_no_mask(keys: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    write_model(tmp_path / "aa", seed="aa")
    added = BODY.replace("{model: b}", "{model: aa, parameters: {weight: 0}}, {model: b}")
    assert changed(keys("dare_ties"), keys("dare_ties", added)) == set()


def test_a_version_is_part_of_every_key_but_those_of_copies(
    keys: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from mergec.ops import registry

    body = BODY.replace("weight: 0.3", "weight: [{filter: q_proj, value: 0}, {value: 0.3}]")
    before = keys("ties", body)
    later = dataclasses.replace(registry.find_method("ties"), version=99)
    monkeypatch.setitem(registry._METHODS, "ties", later)
    copies = {name for name in EVERY if "q_proj" in name}
    assert changed(before, keys("ties", body)) == EVERY - copies


def test_action_keys_are_of_contents_and_not_of_names(tmp_path: Path) -> None:
    write_family(tmp_path, NAMES)
    plan = plan_of(tmp_path, "ties")
    renamed = plan_of(tmp_path, "ties", BODY.replace("{model: a}", "{model: a, id: other}"))
    assert changed(plan_keys(plan), plan_keys(renamed)) == EVERY

    def content(slot: str, ref: TensorRef) -> str:
        return repr(tensors_of(Path(ref.file))[ref.name])

    def order_of(plan: mergec.Plan) -> list[str]:
        return [Path(ref.file).parent.name for ref in plan.outputs[0].sources]

    assert order_of(plan) == ["base", "a", "b", "c"]
    assert order_of(renamed) == ["base", "b", "c", "a"]  # slot ids give the order, so the action differs as well
    again = plan_of(tmp_path, "ties", BODY.replace("{model: a}", "{model: a, id: '0'}"))
    assert order_of(again) == order_of(plan)
    assert changed(plan_keys(plan, content), plan_keys(again, content)) == set()


def test_equal_keys_are_equal_bytes_in_any_order_of_the_models(tmp_path: Path) -> None:
    """Float sums depend on the order of their terms: slot ids fix it."""
    write_family(tmp_path, NAMES)
    merged = []
    for order in ("abc", "cab", "bca"):
        for method in ("ties", "dare_linear"):
            listed = ", ".join(f"{{model: {name}}}" for name in order)
            plan = plan_of(tmp_path, method, BODY.replace("{model: a}, {model: b}, {model: c}", listed))
            plan.run(tmp_path / "out", device="cpu")
            merged.append((method, plan_hash(plan), tensors_of(tmp_path / "out" / "model.safetensors")))
    assert merged[0:2] == merged[2:4] == merged[4:6]


def test_mergekit_adds_up_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    write_family(tmp_path, NAMES)
    body = BODY + "compat: mergekit\n"
    other = body.replace("{model: a}, {model: b}", "{model: b}, {model: a}")
    assert plan_hash(plan_of(tmp_path, "ties", body)) != plan_hash(plan_of(tmp_path, "ties", other))


def test_an_id_stands_for_one_model(tmp_path: Path) -> None:
    write_family(tmp_path, NAMES)
    (tmp_path / "recipe.yml").write_text("merge_method: ties\n" + BODY.replace("{model: b}", "{model: b, id: a}"))
    found = call("check", tmp_path / "recipe.yml")
    assert found.code == 2
    assert "recipe.yml:3:37: error[E610]: 'a' is the id of two models, 'a' and 'b'" in found.err


def test_a_file_copied_beside_the_weights_is_part_of_the_hash(tmp_path: Path) -> None:
    write_family(tmp_path, NAMES)
    before = plan_of(tmp_path, "ties")
    (tmp_path / "base" / "tokenizer.json").write_text('{"version": "1.0"}')
    after = plan_of(tmp_path, "ties")
    assert plan_keys(before) == plan_keys(after)
    assert plan_hash(before) != plan_hash(after)
