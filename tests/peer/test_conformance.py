"""The cases of recipes that users of mergekit have, most relied-on first: by both tools, as far as numbers go.

Equal is as in `differential.py`. Cases of random methods draw other numbers, so what holds of any draw is compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from adapters import furthest, write_adapter
from differential import Recipe, run_ours, tied_at_a_cut
from models import Family, auto_class, tensors_of
from peer_recipes import Run, assert_equal, merge, model, save_model, source, stack
from torch import Tensor

import mergec

pytest.importorskip("mergekit")


HALF = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_case_01_slerp_with_gradients_by_filter(
    dtype: torch.dtype, family: Callable[..., Family], run: Run, tmp_path: Path
) -> None:
    made = family("llama", dtype)
    knots = {"self_attn": [0, 0.5, 0.3, 0.7, 1], "mlp": [1, 0.5, 0.7, 0.3, 0]}
    t = [*({"filter": name, "value": values} for name, values in knots.items()), {"value": 0.5}]
    recipe = stack("slerp", [source(made.base, 0, 3), source(made.a, 0, 3)], base=made.base, parameters={"t": t})
    sliced = run(recipe)
    sliced.same(recipe)
    run_ours(merge("slerp", model(made.a), base=made.base, parameters={"t": t}), tmp_path / "models")
    whole = tensors_of(tmp_path / "models")
    assert all(torch.equal(whole[name], tensor) for name, tensor in sliced.ours.items())
    run_ours(merge("slerp", model(made.a), base=made.base, parameters={"t": 0.5}), tmp_path / "half")
    half = tensors_of(tmp_path / "half")
    assert all(torch.equal(half[n], whole[n]) for n in whole if "self_attn" not in n and "mlp" not in n)


def test_case_02_ties_with_gradients_of_densities_and_weights(llama: Family, run: Run) -> None:
    listed = [{"filter": "mlp", "value": 0.5}, {"value": 0}]
    recipe = merge(
        "ties",
        model(llama.a, density=[1, 0.7, 0.1], weight=1.0),
        model(llama.b, density=0.5, weight=[0, 0.3, 0.7, 1]),
        model(llama.c, density=0.33, weight=listed),
        base=llama.base,
        parameters={"normalize": True, "int8_mask": True},
    )
    run(recipe).same(recipe)


@pytest.mark.parametrize("cast", ["float32", "float16", "bfloat16"])
def test_case_03_linear_bit_for_bit(cast: str, llama: Family, run: Run) -> None:
    recipe = merge("linear", model(llama.a, weight=1.0), model(llama.b, weight=0.3), model(llama.c, weight=0.5))
    found = run({**recipe, "dtype": cast})
    assert {name for name, tensor in found.ours.items() if not torch.equal(tensor, found.peer[name])} == set()


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_case_04_dare_drops_for_a_seed_what_the_peer_drops(method: str, llama: Family, run: Run) -> None:
    models = [model(llama.a, density=0.5, weight=0.3), model(llama.b, density=0.6, weight=0.4)]
    recipe = merge(method, *models, base=llama.base, parameters={"int8_mask": True}, seed=42)
    run({**recipe, "random_order": "mergekit"}).same(recipe)


def delta_sums(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float((tensor - base[name]).abs().sum()) for name, tensor in tensors.items()}


def kept(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> float:
    changed = sum(int((tensor != base[name]).sum()) for name, tensor in tensors.items())
    return changed / sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_case_04_dare_keeps_the_share_and_the_sum_that_the_peer_keeps(method: str, llama: Family, run: Run) -> None:
    recipe = merge(method, model(llama.a, density=0.6, weight=1.0), base=llama.base, parameters={"int8_mask": True})
    found, base = run({**recipe, "seed": 42}), tensors_of(llama.base)
    assert kept(found.ours, base) == pytest.approx(kept(found.peer, base), abs=0.02)
    sums = [delta_sums(one, base) for one in (found.ours, found.peer, tensors_of(llama.a))]
    for name in base:
        assert sums[0][name] == pytest.approx(sums[2][name], rel=1e-3), name
        assert sums[1][name] == pytest.approx(sums[2][name], rel=1e-3), name


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_case_05_layers_are_stacked_whatever_the_config_lists(
    architecture: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    made = family(architecture, torch.float32)
    run_ours(stack("passthrough", [source(made.a, 0, 2)], [source(made.b, 1, 2)]), tmp_path / "ours")
    ours, a, b = (tensors_of(one) for one in (tmp_path / "ours", made.a, made.b))
    assert torch.equal(ours["model.layers.2.mlp.up_proj.weight"], b["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(ours["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(ours["model.norm.weight"], b["model.norm.weight"])
    loaded, info = auto_class(architecture).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert (loaded.config.num_hidden_layers, info["missing_keys"], info["unexpected_keys"]) == (3, set(), set())
    assert len(getattr(loaded.config, "layer_types", None) or [0] * 3) == 3


@pytest.mark.parametrize("listed", [True, False])
def test_case_06_task_arithmetic_with_the_base_in_the_list_or_not(listed: bool, llama: Family, run: Run) -> None:
    models = [model(llama.a, weight=0.7), model(llama.b, weight=-0.2)]
    recipe = merge("task_arithmetic", *models, base=llama.base, parameters={"lambda": 0.5})
    recipe["models"] += [{"model": str(llama.base)}] * listed
    run(recipe).same(recipe)


def test_case_07_ties_in_float16(llama: Family, run: Run) -> None:
    models = [model(one, density=0.5, weight=0.5) for one in (llama.a, llama.b)]
    recipe = merge("ties", *models, base=llama.base, parameters={"normalize": False}, dtype="float16")
    cut = tied_at_a_cut({**recipe, "parameters": {"density": 0.5}}, llama, torch.float16)
    run(recipe).same(recipe, cut)


@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("tunes", [2, 3])
def test_case_08_model_stock(tunes: int, filter_wise: bool, llama: Family, run: Run) -> None:
    models = [model(one) for one in llama.tunes[:tunes]]
    recipe = merge("model_stock", *models, base=llama.base, parameters={"filter_wise": filter_wise})
    run(recipe).same(recipe)


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_case_11_della_drops_for_a_seed_what_the_peer_drops(method: str, llama: Family, run: Run) -> None:
    models = [model(one, density=0.5, weight=0.6, epsilon=0.1) for one in (llama.a, llama.b)]
    recipe = merge(method, *models, base=llama.base, parameters={"lambda": 0.8}, seed=42)
    run({**recipe, "random_order": "mergekit"}).same(recipe)
    recipe["models"][0]["parameters"]["epsilon"] = 0.6
    with pytest.raises(mergec.RecipeError, match=r"error\[E20\d\].*epsilon"):
        run(recipe)


@pytest.mark.parametrize("rescale", [True, False])
def test_case_12_dare_linear_at_the_ends_of_density(rescale: bool, llama: Family, run: Run, tmp_path: Path) -> None:
    def dare(density: float) -> Recipe:
        parameters = {"density": density, "rescale": rescale, "weight": 0.4}
        return merge("dare_linear", model(llama.a), model(llama.b), base=llama.base, parameters=parameters)

    everything = run(dare(1.0))
    everything.same(dare(1.0))
    arithmetic = merge("task_arithmetic", model(llama.a), model(llama.b), base=llama.base, parameters={"weight": 0.4})
    run_ours(arithmetic, tmp_path / "arithmetic")
    assert_equal(everything.ours, tensors_of(tmp_path / "arithmetic"))
    run_ours(dare(0.0), tmp_path / "nothing")
    assert_equal(tensors_of(tmp_path / "nothing"), tensors_of(llama.base))


def test_case_13_adapters_are_the_models_that_they_make(llama: Family, tmp_path: Path) -> None:
    exact = write_adapter(llama.a, tmp_path / "lora", r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    adapted = f"{llama.a}+{tmp_path}/lora"
    run_ours({"merge_method": "passthrough", "models": [{"model": adapted}]}, tmp_path / "ours")
    assert furthest(tensors_of(tmp_path / "ours"), exact) < 1e-6
    save_model(llama.a, exact, tmp_path / "merged")
    for name, one in (("adapter", adapted), ("whole", str(tmp_path / "merged"))):
        models = [{"model": one}, {"model": str(llama.b)}]
        made = merge("ties", base=llama.base, parameters={"weight": 0.5, "density": 1.0})
        run_ours({**made, "models": models}, tmp_path / name)
    assert furthest(tensors_of(tmp_path / "adapter"), tensors_of(tmp_path / "whole")) < 1e-6


def test_case_14_arcee_fusion_obeys_dtype(llama: Family, run: Run) -> None:
    recipe = merge("arcee_fusion", model(llama.a), base=llama.base, dtype="float64", out_dtype="float32")
    run(recipe).same(recipe)


def test_case_14_the_peer_stores_float32_whatever_dtype_says(llama: Family, run: Run) -> None:
    found = run(merge("arcee_fusion", model(llama.a), base=llama.base, dtype="bfloat16"))
    assert {tensor.dtype for tensor in found.ours.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in found.peer.values()} == {torch.float32}


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize(("density", "gamma"), [(0.9, 0.01), (0.7, 0.5)])
def test_case_15_breadcrumbs(method: str, density: float, gamma: float, llama: Family, run: Run) -> None:
    parameters = {"weight": 0.5, "density": density, "gamma": gamma}
    recipe = merge(method, *map(model, llama.tunes), base=llama.base, parameters=parameters)
    run(recipe).same(recipe)


@pytest.mark.parametrize("on_base", [False, True])
@pytest.mark.parametrize("weights", [(0.3, 0.7), (-0.5, 0.5)])
@pytest.mark.parametrize("flatten", [True, False])
def test_case_16_nuslerp(on_base: bool, weights: tuple[float, float], flatten: bool, llama: Family, run: Run) -> None:
    models = [model(one, weight=weight) for one, weight in zip(llama.tunes, weights, strict=False)]
    base = llama.base if on_base else None
    recipe = merge("nuslerp", *models, base=base, parameters={"nuslerp_flatten": flatten})
    run(recipe).same(recipe)


def test_case_17_layers_that_add_nothing(llama: Family, run: Run) -> None:
    silent = [{"filter": "o_proj", "value": 0}, {"filter": "down_proj", "value": 0}, {"value": 1}]
    recipe = stack("passthrough", [source(llama.a, 0, 2)], [source(llama.a, 1, 3, scale=silent)])
    found = run(recipe)
    found.same(recipe)
    assert not found.ours["model.layers.3.self_attn.o_proj.weight"].any()


def test_case_18_the_nearest_setting_wins_and_filters_fall_through(llama: Family, run: Run) -> None:
    only_mlp = [{"filter": "mlp", "value": 0.5}]
    first = {"sources": [source(llama.a, 0, 1, scale=only_mlp)], "parameters": {"scale": 0.25}}
    second = {"sources": [source(llama.a, 1, 2, scale=only_mlp)]}
    module = {"slices": [first, second], "parameters": {"scale": [{"filter": "norm", "value": 2.0}]}}
    recipe = {"merge_method": "passthrough", "modules": {"default": module}, "parameters": {"scale": 3.0}}
    found, a = run(recipe), tensors_of(llama.a)
    found.same(recipe)
    for name, factor in {
        "model.layers.0.mlp.up_proj.weight": 0.5,
        "model.layers.0.self_attn.q_proj.weight": 0.25,
        "model.layers.1.input_layernorm.weight": 2.0,
        "model.layers.1.self_attn.q_proj.weight": 3.0,
    }.items():
        assert torch.equal(found.ours[name], a[name] * factor), name


def test_case_19_where_gradients_begin_and_end(llama: Family, run: Run) -> None:
    one = [source(llama.a, 0, 1, scale=[0.25, 0.5])]
    two = [source(llama.a, 1, 3, scale=[1.0, 2.0, 3.0, 5.0])]
    recipe = stack("passthrough", one, two)
    found, a = run(recipe), tensors_of(llama.a)
    found.same(recipe)
    name = "model.layers.{}.mlp.up_proj.weight".format
    for layer, factor in enumerate((0.5, 1.0, 5.0)):
        assert torch.equal(found.ours[name(layer)], a[name(layer)] * factor)
    assert torch.equal(found.ours["lm_head.weight"], a["lm_head.weight"])  # the first knot of the last slice: 1


@pytest.mark.parametrize("out", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("cast", [None, "bfloat16", "float32"])
def test_case_20_dtypes_of_inputs_and_of_the_result(
    cast: str | None, out: str | None, family: Callable[..., Family], run: Run
) -> None:
    mixed = [model(family("llama", dtype).a, weight=0.5) for dtype in HALF]
    recipe = merge("linear", *mixed, **{k: v for k, v in (("dtype", cast), ("out_dtype", out)) if v})
    found = run(recipe)
    found.same(recipe)
    wanted = out or cast or "float32"
    assert {str(tensor.dtype) for tensor in found.ours.values()} == {f"torch.{wanted}"}
    config = json.loads((found.folder / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == wanted
