"""Assemble: slices and modules of models, down to the bytes, and what is said of tensors that are left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes_fixtures import CONFIG, SHAPES, mergec, tensors_of, write_model

from mergec.compiler.analyse import analyse
from mergec.compiler.compile import compile_recipe
from mergec.compiler.text import explain_text
from mergec.keys import plan_keys
from mergec.recipe.load import read_document

T5 = {"shared.weight": (8, 4), "lm_head.weight": (8, 4)} | {
    f"{tower}.block.{n}.layer.{part}.w": (4, 4)
    for tower in ("encoder", "decoder")
    for n in range(3)
    for part in range(3)
}
T5_CONFIG = {"num_layers": 3, "num_decoder_layers": 3, "tie_word_embeddings": False}
STACK = """\
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 2]}]
"""
MODULES = """\
merge_method: linear
parameters: {weight: 1}
modules:
  encoder:
    slices:
      - sources: [{model: a, layer_range: [1, 3]}, {model: b, layer_range: [0, 2]}]
        parameters: {weight: 3}
  decoder: {models: [{model: b}]}
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a", "b"):
        write_model(tmp_path / name, seed=name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merge(recipe: str) -> dict[str, bytes]:
    Path("r.yml").write_text(recipe)
    called = mergec("run", "r.yml", "out")
    assert called.code == 0, called.err
    return tensors_of(Path("out/model.safetensors"))


def test_layers_are_stacked_and_what_stands_around_them_comes_from_the_ends(family: Path) -> None:
    made, a, b = merge(STACK), tensors_of(family / "a/model.safetensors"), tensors_of(family / "b/model.safetensors")
    rest = [name.split(".", 3)[3] for name in SHAPES if "layers.0" in name]
    expected = {name: tensor for name, tensor in a.items() if "layers" in name or "embed" in name}
    expected |= {f"model.layers.2.{part}": b[f"model.layers.1.{part}"] for part in rest}
    expected |= {name: b[name] for name in ("model.norm.weight", "lm_head.weight")}
    assert made == expected
    config = json.loads((family / "out/config.json").read_text())
    assert config == {**CONFIG, "num_hidden_layers": 3}


def test_what_is_in_no_slice_is_said(family: Path) -> None:
    (family / "r.yml").write_text(STACK)
    notes = compile_recipe("r.yml").notes
    assert "a: in no slice, so not used: lm_head.weight, model.norm.weight" in notes
    assert any(
        note.startswith("b: in no slice, so not used: model.embed_tokens.weight, model.layers.0.") for note in notes
    )
    assert "config: num_hidden_layers as for 3 layers in model.layers" in notes


def test_a_tensor_of_a_slice_is_explained_by_its_own_source(family: Path) -> None:
    (family / "r.yml").write_text(STACK)
    name = "model.layers.2.mlp.down_proj.weight"
    text = explain_text(analyse(read_document(Path("r.yml"))), compile_recipe("r.yml"), name)
    assert "layer 2 of 3 in model.layers, t = 1" in text
    assert "slices[1].sources[0]  b  float32 [4, 6]  model.layers.1.mlp.down_proj.weight in b/model.safetensors" in text


def test_layers_of_one_model_can_be_merged_with_one_another(family: Path) -> None:
    """Which the peer refuses."""
    made = merge(
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 1]}, {model: a, layer_range: [1, 2]}]\n"
    )
    same = merge("merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n")
    assert made["model.norm.weight"] == tensors_of(family / "a/model.safetensors")["model.norm.weight"]
    assert [name for name in made if "layers" in name] == [name for name in same if "layers.0" in name]


def test_equal_slices_are_as_good_as_whole_models(family: Path) -> None:
    whole = merge("merge_method: linear\nparameters: {weight: [0.2, 0.6]}\nmodels: [{model: a}, {model: b}]\n")
    assert whole == merge(
        "merge_method: linear\nparameters: {weight: [0.2, 0.6]}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]\n"
    )


def test_modules_are_merged_each_in_its_own_way(family: Path) -> None:
    for name in ("a", "b"):
        write_model(family / name, seed=name, shapes=T5, config=T5_CONFIG)
    made, b = merge(MODULES), tensors_of(family / "b/model.safetensors")
    assert {name for name in made if "encoder" in name} == {
        f"encoder.block.{n}.layer.{part}.w" for n in range(2) for part in range(3)
    }
    copied = [name for name in T5 if "decoder" in name or "block" not in name]
    assert {name: made[name] for name in copied} == {name: b[name] for name in copied}
    config = json.loads((family / "out/config.json").read_text())
    assert (config["num_layers"], config["num_decoder_layers"]) == (2, 3)


def test_a_setting_of_a_module_wins_over_the_recipes_and_loses_to_a_slices(family: Path) -> None:
    for name in ("a", "b"):
        write_model(family / name, seed=name, shapes=T5, config=T5_CONFIG)
    (family / "r.yml").write_text(
        MODULES.replace("  encoder:\n", "  encoder:\n    parameters: {weight: 2, normalize: false}\n")
    )
    text = explain_text(analyse(read_document(Path("r.yml"))), compile_recipe("r.yml"), "encoder.block.0.layer.0.w")
    assert "weight     a  3      r.yml:8:30" in text
    assert "normalize     false  r.yml:5:40" in text


def test_a_slice_that_takes_another_model_changes_no_other(family: Path) -> None:
    """Slots are numbered by name, not by which slice comes first."""
    write_model(family / "c", seed="c")
    sources = "[{{model: {}, layer_range: [{n}, {m}]}}, {{model: {}, layer_range: [{n}, {m}]}}]"
    head, tail = "merge_method: linear\nparameters: {weight: 1}\nslices:\n", sources.format("b", "c", n=1, m=2)
    keys = []
    for pair in (("a", "b"), ("c", "b")):
        Path("r.yml").write_text(f"{head}- sources: {sources.format(*pair, n=0, m=1)}\n- sources: {tail}\n")
        keys.append(plan_keys(compile_recipe("r.yml")))
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert changed == {name for name in keys[0] if "layers.0" in name or "embed" in name}
