"""Plans: their text, their JSON, and a hash that is of the result and not of the way to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mergec
from mergec.compiler.draw import dot, mermaid, view
from mergec.compiler.text import find_output, plan_text
from mergec.graph import listing, walk
from mergec.keys import plan_hash
from mergec.ops.registry import methods
from mergec.plan import Plan
from mergec.planfile import plan_json, read_plan

THREE = "models: [{model: a}, {model: b}, {model: c}]\n"
BASED = "base_model: base\n" + THREE
RECIPES = {
    "arcee_fusion": "base_model: base\nmodels: [{model: a}]",
    "breadcrumbs": BASED + "parameters: {weight: 0.5, density: 0.9, gamma: 0.01}",
    "breadcrumbs_ties": BASED + "parameters: {weight: 0.5, density: [0.5, 0.9], gamma: 0.05, elect: count}",
    "dare_linear": BASED + "parameters: {weight: 0.3, density: 0.5}\nseed: 7",
    "dare_ties": BASED + "parameters: {weight: 0.3, density: 0.5, rescale: l1}",
    "della": BASED + "parameters: {weight: 0.3, density: 0.6, epsilon: 0.1, lambda: 1.1}",
    "della_linear": BASED + "parameters: {weight: 0.3, density: 0.6, epsilon: 0.1}",
    "fr": BASED
    + "parameters: {as_matrix: [{filter: embed, value: false}, {value: true}], cutoff: 0.2, consensus: sum}",
    "iso_c": BASED + "parameters: {weight: 0.5, lambda: 1.4}",
    "iso_cts": BASED + "parameters: {common_share: 0.7}",
    "karcher": THREE + "parameters: {max_iter: [5, 21]}",
    "linear": THREE + "parameters: {weight: 1}\nout_dtype: bfloat16",
    "model_stock": BASED + "parameters: {filter_wise: true}",
    "multislerp": BASED + "parameters: {weight: [{filter: mlp, value: [0.2, 0.6]}, {value: 0.4}]}",
    "nearswap": "base_model: base\nmodels: [{model: a}]\nparameters: {t: 0.001}",
    "nuslerp": "models: [{model: a}, {model: b}]\n"
    + "parameters: {weight: 0.5, nuslerp_flatten: [{filter: embed, value: false}, {value: true}]}",
    "passthrough": "models: [{model: a}]\nparameters: {scale: [{filter: o_proj, value: 0.5}, {value: 1}]}",
    "ram": BASED,
    "ramplus_tl": BASED + "parameters: {r: [0.1, 0.3]}",
    "sce": BASED + "parameters: {select_topk: [{filter: norm, value: 1}, {value: 0.1}]}",
    "slerp": """base_model: base
models: [{model: a}]
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 1]}
    - {filter: mlp, value: [1, 0.5, 0]}
    - {value: 0.5}
""",
    "emr": BASED,
    "free": BASED + "parameters: {keep: 0.1, combine: replace}",
    "randes": BASED + "seed: 7",
    "twin": BASED + "parameters: {rank: 2, lambda: 0.3}",
    "tall_mask": BASED + "parameters: {mask_lambda: 0.5}",
    "task_arithmetic": BASED + "parameters: {weight: [{filter: lm_head, value: 0}, {value: 0.4}], normalize: true}",
    "wudi": BASED + "parameters: {iterations: 100}",
    "tsv": BASED + "parameters: {vectors: base}",
    "consensus": BASED + "parameters: {mask_lambda: 0.5, agreement: 2}",
    "opcm": BASED + "parameters: {alpha: 0.3}",
    "magmax": BASED + "parameters: {lambda: 0.5}",
    "pcb": BASED + "parameters: {pcb_ratio: 0.2}",
    "trust_region": BASED + "parameters: {quantile: 0.9, weight: 0.5}",
    "weight_avg": THREE,
    "ties": BASED + "parameters: {weight: 0.5, density: 0.5}",
}


SHAPES = {
    "model.embed_tokens.weight": (96, 32),
    **{
        f"model.layers.{layer}.{tail}.weight": shape
        for layer in range(3)
        for tail, shape in {
            "input_layernorm": (32,),
            "mlp.down_proj": (32, 48),
            "mlp.gate_proj": (48, 32),
            "mlp.up_proj": (48, 32),
            "post_attention_layernorm": (32,),
            "self_attn.k_proj": (16, 32),
            "self_attn.o_proj": (32, 32),
            "self_attn.q_proj": (32, 32),
            "self_attn.v_proj": (16, 32),
        }.items()
    },
    "model.norm.weight": (32,),
    "lm_head.weight": (96, 32),
}
LLAMA = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
CONFIG = {"model_type": "llama", "num_hidden_layers": 3, "tie_word_embeddings": False, "dtype": "float32"}


@pytest.fixture
def compiled(tmp_path: Path, checkpoint: Any) -> Callable[..., mergec.Plan]:
    """Compile a recipe that stands beside four tiny llamas."""
    for model in ("base", "a", "aa", "b", "c"):
        checkpoint(model, LLAMA, config=CONFIG)

    def write_and_compile(method: str, body: str = "", file: str = "recipe.yml", **options: Any) -> mergec.Plan:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"merge_method: {method}\n{body or RECIPES[method]}\n")
        return mergec.compile(path, **{"workers": 1, **options})

    return write_and_compile


def text_of(plan: Plan, folder: Path) -> str:
    return plan_text(plan).replace(str(folder), "FOLDER")


def test_there_is_a_recipe_for_every_method() -> None:
    assert set(RECIPES) == set(methods())


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_text_of_a_plan(method: str, compiled: Any, golden: Any, tmp_path: Path) -> None:
    assert text_of(compiled(method), tmp_path) == golden(method)


@pytest.mark.parametrize("method", ["ties", "slerp", "della"])
def test_graph_of_a_tensor_as_dot_and_mermaid(method: str, compiled: Any, golden: Any) -> None:
    plan = compiled(method)
    output = find_output(plan, "model.layers.1.mlp.up_proj.weight")
    root = plan.root(plan.kinds[output.kind])
    assert dot(root) == golden(f"{method}.dot")
    assert mermaid(root) == golden(f"{method}.mermaid")


def test_a_drawing_has_every_node_and_every_edge(compiled: Any) -> None:
    plan = compiled("ties")
    root = plan.root(plan.kinds[0])
    drawn = view(root)
    assert set(drawn.nodes) == {node.index for node in walk(root)}
    assert set(drawn.edges) == {(source.index, node.index) for node in walk(root) for source in node.inputs}
    assert dot(root).count("label=") == len(listing(root))


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_a_plan_survives_its_json(method: str, compiled: Any) -> None:
    plan = compiled(method, max_memory_bytes=1 << 30)
    again = read_plan(plan_json(plan))
    assert plan_json(again) == plan_json(plan)
    assert again == plan
    assert plan_hash(again) == plan_hash(plan)
    assert (again.kinds, again.outputs, again.shards) == (plan.kinds, plan.outputs, plan.shards)
    for kind in plan.kinds:
        assert listing(again.root(kind)) == listing(plan.root(kind))


def test_another_format_is_not_read_as_a_plan(compiled: Any) -> None:
    document = json.loads(plan_json(compiled("linear")))
    with pytest.raises(ValueError, match="not a plan of format"):
        read_plan(json.dumps({**document, "format": 999}))
    with pytest.raises(ValueError, match="not a plan"):
        read_plan("[]")


# --------------------------------------------------------------------------------------------- the hash

TIES = BASED + "parameters: {weight: 0.5, density: 0.5}"
SAME = {
    "key order": "parameters: {density: 0.5, weight: 0.5}\n" + BASED,
    "number spelling": BASED + "parameters: {weight: 5e-1, density: .50}",
    "numbers as text": BASED + "parameters: {weight: '0.5', density: '5e-1'}",
    "comments": "# a comment\n" + TIES + "  # and one more",
    "settings that are defaults": BASED + "parameters: {weight: 0.5, density: 0.5, normalize: true, lambda: 1}",
    "settings at the models": "base_model: base\nparameters: {density: 0.5}\nmodels:\n"
    + "".join(f"  - {{model: {name}, parameters: {{weight: 0.5}}}}\n" for name in "abc"),
    "a constant gradient": BASED + "parameters: {weight: [0.5, 0.5], density: 0.5}",
    "an unused seed": TIES + "\nseed: 12",
    "the default compute dtype": TIES + "\ncompute_dtype: float32",
    "name and metadata": TIES + "\nname: other\nmetadata: {by: me}",
    "order of the models": "base_model: base\nmodels: [{model: c}, {model: a}, {model: b}]\n"
    + "parameters: {weight: 0.5, density: 0.5}",
    "a constant gradient that is no dyadic fraction": BASED + "parameters: {weight: [.5, .5, .5], density: [0.5, 0.5]}",
    "a filter that never matches": BASED
    + "parameters: {weight: [{filter: nowhere, value: 0.1}, {value: 0.5}], density: 0.5}",
    "a filter that is shadowed": BASED
    + "parameters: {weight: [{value: 0.5}, {filter: mlp, value: 0.1}], density: 0.5}",
    "an anchor": "base_model: base\nmodels:\n"
    + "  - {model: a, parameters: &shared {weight: 0.5, density: 0.5}}\n  - {model: b, parameters: *shared}\n"
    + "  - {model: c, parameters: {<<: *shared}}",
    "another model of weight 0": "base_model: base\nmodels: [{model: a}, {model: aa, parameters: {weight: 0}}, "
    + "{model: b}, {model: c}]\nparameters: {weight: 0.5, density: 0.5}",
    "the base listed too": "base_model: base\nmodels: [{model: a}, {model: base}, {model: b}, {model: c}]\n"
    + "parameters: {weight: 0.5, density: 0.5}",
}
OTHER = {
    "weight": BASED + "parameters: {weight: 0.51, density: 0.5}",
    "density": BASED + "parameters: {weight: 0.5, density: 0.6}",
    "normalize": TIES.replace("}", "}").replace("density: 0.5}", "density: 0.5, normalize: false}"),
    "lambda": TIES.replace("density: 0.5}", "density: 0.5, lambda: 1.0001}"),
    "elect": TIES.replace("density: 0.5}", "density: 0.5, elect: count}"),
    "rescale": TIES.replace("density: 0.5}", "density: 0.5, rescale: true}"),
    "one filter": BASED
    + "parameters: {weight: [{filter: layers.1.mlp.up_proj, value: 0.4}, {value: 0.5}], density: 0.5}",
    "fewer models": "base_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5, density: 0.5}",
    "dtype": TIES + "\ndtype: bfloat16",
    "out_dtype": TIES + "\nout_dtype: float16",
    "compute_dtype": TIES + "\ncompute_dtype: float64",
}


@pytest.mark.parametrize("change", SAME)
def test_hash_is_the_same_for_what_changes_no_tensor(change: str, compiled: Any) -> None:
    assert plan_hash(compiled("ties", SAME[change])) == plan_hash(compiled("ties", TIES))


@pytest.mark.parametrize("change", OTHER)
def test_hash_changes_with_every_setting_that_changes_a_tensor(change: str, compiled: Any) -> None:
    assert plan_hash(compiled("ties", OTHER[change])) != plan_hash(compiled("ties", TIES))


def test_hash_changes_with_method_and_seed(compiled: Any) -> None:
    seeded = [plan_hash(compiled("dare_ties", TIES + f"\nseed: {seed}")) for seed in (0, 1)]
    assert len({*seeded, plan_hash(compiled("dare_linear", TIES)), plan_hash(compiled("ties", TIES))}) == 4


@pytest.mark.parametrize("options", [{"shard_bytes": 2000}, {"workers": 2}, {"max_memory_bytes": 10**9}], ids=str)
def test_hash_does_not_depend_on_layout_or_machine(options: dict[str, int], compiled: Any) -> None:
    assert plan_hash(compiled("ties", **options)) == plan_hash(compiled("ties"))


def test_hash_does_not_depend_on_where_models_and_recipe_lie(compiled: Any, tmp_path: Path) -> None:
    expected = plan_hash(compiled("ties"))
    for model in ("base", "a", "b", "c"):
        shutil.copytree(tmp_path / model, tmp_path / "moved" / model)
    assert plan_hash(compiled("ties", file="moved/other.yml")) == expected


def test_hash_does_not_depend_on_the_path_of_a_model_with_an_id(compiled: Any, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "b", tmp_path / "deep" / "renamed")
    renamed = RECIPES["della"].replace("{model: b}", "{model: deep/renamed, id: b}")
    assert plan_hash(compiled("della", renamed)) == plan_hash(compiled("della"))
    without = RECIPES["della"].replace("{model: b}", "{model: deep/renamed}")
    assert plan_hash(compiled("della", without)) != plan_hash(compiled("della"))


def test_hash_does_not_depend_on_how_inputs_are_sharded(compiled: Any, checkpoint: Any) -> None:
    checkpoint("sharded", dict(reversed(LLAMA.items())), config=CONFIG, shards=4)
    text = RECIPES["ties"].replace("{model: a}", "{model: sharded, id: a}")
    assert plan_hash(compiled("ties", text)) == plan_hash(compiled("ties"))


def test_plan_does_not_depend_on_the_order_of_sets(compiled: Any, tmp_path: Path) -> None:
    """A donor or an order taken from a set changes from process to process."""
    compiled("linear")
    script = "import mergec, sys; print(mergec.compile(sys.argv[1], workers=1).to_json())"
    plans = set()
    for seed in ("0", "1", "2"):
        command = [sys.executable, "-c", script, str(tmp_path / "recipe.yml")]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        plans.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(plans) == 1


def test_every_input_tensor_is_in_the_result(compiled: Any) -> None:
    for method in RECIPES:
        assert {one.name: one.shape for one in compiled(method).outputs if not one.is_part} == SHAPES


def test_a_tied_model_gains_no_head(tmp_path: Path, family: Callable[..., Any]) -> None:
    """A head written beside a tied embedding once added a billion parameters."""
    qwen = family("qwen2", torch.bfloat16)
    path = tmp_path / "recipe.yml"
    path.write_text(
        f"merge_method: linear\nmodels: [{{model: {qwen.a}}}, {{model: {qwen.b}}}]\nparameters: {{weight: 0.5}}\n"
    )
    plan = mergec.compile(path, workers=1)
    assert "lm_head.weight" not in {output.name for output in plan.outputs}


def test_an_unknown_tensor_is_answered_with_the_nearest(compiled: Any) -> None:
    with pytest.raises(mergec.errors.UsageError, match=r"did you mean 'lm_head\.weight'"):
        find_output(compiled("linear"), "lm_head.weigth")


def test_an_op_may_remark_on_tensors_at_the_setting_that_causes_it(compiled: Any, tmp_path: Path) -> None:
    """Square matrices of side 32 have their farthest bin at 0.71 of it; the others are cut."""
    plan = compiled("fr", BASED + "parameters: {filter: reference, cutoff: 0.1}")
    (warning,) = (one.replace(str(tmp_path), "FOLDER") for one in plan.warnings)
    assert warning == (
        "FOLDER/recipe.yml:4:41: warning[W650]: the reference filter cuts nothing of a 32 x 32 matrix at cutoff 0.1: "
        "6 tensors: model.layers.{0-2}.self_attn.o_proj.weight, model.layers.{0-2}.self_attn.q_proj.weight; "
        "hint: a higher cutoff, or filter: clean"
    )
    assert not compiled("fr", BASED + "parameters: {filter: reference, cutoff: 0.3}").warnings
