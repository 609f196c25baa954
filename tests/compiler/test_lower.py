"""From settings to graphs: shared kinds, dtypes, and settings that are missing."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from models import tensors_of

import mergec
from mergec.compiler.compile import compile_recipe
from mergec.compiler.lower import promoted, widens
from mergec.errors import RecipeError
from mergec.graph import listing
from mergec.io.tensors import header_bytes

NAMES = [f"model.layers.{i}.{tail}.weight" for i in range(6) for tail in ("norm", "mlp.up_proj", "mlp.down_proj")]
LAYERS = {
    name: torch.randn((4, 8) if "mlp" in name else (8,), generator=torch.Generator().manual_seed(n))
    for n, name in enumerate(NAMES)
}


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(text)
    return path


def compiled(tmp_path: Path, text: str, **options: Any) -> mergec.Plan:
    return mergec.compile(recipe(tmp_path, text), workers=1, **options)


def test_layers_with_equal_settings_share_one_graph(tmp_path: Path, checkpoint: Any) -> None:
    """A graph per tensor would make a plan of 100,000 experts slow and large."""
    checkpoint("a", LAYERS)
    checkpoint("b", LAYERS)
    models = "models: [{model: a}, {model: b}]\n"
    plan = compiled(tmp_path, f"merge_method: linear\n{models}parameters: {{weight: 0.5}}")
    assert len(plan.outputs) == len(NAMES)
    assert len(plan.kinds) == 2
    text = "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: [0.1, 0.9]}"
    assert len(compiled(tmp_path, text).kinds) == 12


def test_equal_graphs_get_their_own_sources(tmp_path: Path, checkpoint: Any) -> None:
    checkpoint("a", LAYERS)
    checkpoint("b", {name: tensor + 1 for name, tensor in LAYERS.items()}, shards=3)
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}"
    plan = compiled(tmp_path, text)
    plan.run(tmp_path / "out")
    for name, tensor in tensors_of(tmp_path / "out").items():
        torch.testing.assert_close(tensor, LAYERS[name] + 0.5)
    assert all(ref.name == output.name for output in plan.outputs for ref in output.sources)


def test_tensors_of_equal_shape_and_other_dtypes_do_not_share_a_graph(tmp_path: Path, checkpoint: Any) -> None:
    """A bfloat16 tensor read through a float32 tensor's graph would be read past its end."""
    stored = {"h.0.w": torch.ones(4, 4), "h.1.w": torch.ones(4, 4, dtype=torch.bfloat16), "ids": torch.arange(3)}
    checkpoint("a", stored)
    checkpoint("b", stored)
    plan = compiled(tmp_path, "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}")
    assert {output.name: output.dtype for output in plan.outputs} == {
        name: harness.dtype_name(tensor) for name, tensor in stored.items()
    }
    plan.run(tmp_path / "out")
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert torch.equal(tensor, stored[name])


def test_a_model_that_is_not_needed_for_a_tensor_is_not_read(tmp_path: Path, checkpoint: Any) -> None:
    checkpoint("a", LAYERS)
    checkpoint("b", LAYERS)
    weights = "[{filter: mlp, value: 1.0}, {value: 0.0}]"
    text = f"""
merge_method: linear
models:
  - {{model: a, parameters: {{weight: 1.0}}}}
  - {{model: b, parameters: {{weight: {weights}}}}}
"""
    plan = compiled(tmp_path, text)
    for output in plan.outputs:
        assert len(output.sources) == (2 if "mlp" in output.name else 1)
    assert any("b is not needed for 6 tensors" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["bfloat16"], "bfloat16"),
        (["bfloat16", "float16"], "float32"),
        (["bfloat16", "float32"], "float32"),
        (["float16", "float64", "bfloat16"], "float64"),
        (["float16", "float16"], "float16"),
    ],
)
def test_mixed_dtypes_are_promoted_to_one_that_holds_all(dtypes: list[str], expected: str) -> None:
    for order in itertools.permutations(dtypes):
        assert promoted(order) == expected


def test_widening_is_exact_for_every_value() -> None:
    dtypes = ["bfloat16", "float16", "float32", "float64"]
    for narrow, wide in itertools.product(dtypes, dtypes):
        bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
        values = bits.view(getattr(torch, narrow)) if narrow in dtypes[:2] else torch.tensor([1 + 2**-23, 1e300])
        values = values.to(getattr(torch, narrow))
        values = values[values.isfinite()]
        exact = torch.equal(values.to(getattr(torch, wide)).double(), values.double())
        assert exact >= widens(narrow, wide)


MIXED = {"a": torch.float16, "b": torch.bfloat16, "c": torch.float32}


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("out_dtype", [None, "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("inputs", ["aa", "ab", "bc", "bb"])
def test_headers_and_values_obey_dtype_and_out_dtype(
    tmp_path: Path, checkpoint: Any, dtype: str | None, out_dtype: str | None, inputs: str
) -> None:
    """`dtype` casts the inputs, `out_dtype` the result; the sum in between is in float32 and rounded once."""
    base = harness.family((16, 16), torch.float64)
    stored = [base[n].to(MIXED[label]) for n, label in enumerate(inputs)]
    for n, tensor in enumerate(stored):
        checkpoint(f"m{n}", {"w": tensor})
    settings = "".join(f"{key}: {value}\n" for key, value in (("dtype", dtype), ("out_dtype", out_dtype)) if value)
    text = f"merge_method: linear\nmodels: [{{model: m0}}, {{model: m1}}]\nparameters: {{weight: 0.5}}\n{settings}"
    plan = compiled(tmp_path, text)
    plan.run(tmp_path / "out")
    found = tensors_of(tmp_path / "out")["w"]
    given = dtype or promoted([harness.dtype_name(tensor) for tensor in stored])
    expected = getattr(torch, out_dtype or given)
    assert found.dtype == expected == getattr(torch, plan.outputs[0].dtype)
    cast = [tensor.to(getattr(torch, given)) for tensor in stored]
    exact = (cast[0].double() + cast[1].double()) / 2
    torch.testing.assert_close(found.double(), exact.to(torch.float32).to(expected).double(), rtol=3e-7, atol=1e-9)


def test_compute_dtype_is_what_the_arithmetic_is_done_in(tmp_path: Path, checkpoint: Any) -> None:
    checkpoint("a", {"w": torch.tensor([1e8, 1.0])})
    checkpoint("b", {"w": torch.tensor([1.0, 1e8])})
    checkpoint("c", {"w": torch.tensor([-1e8, -1e8])})
    models = "models: [{model: a}, {model: b}, {model: c}]\nparameters: {weight: 1, normalize: false}\n"
    for compute, expected in (("float32", [0.0, 0.0]), ("float64", [1.0, 1.0])):
        plan = compiled(tmp_path, f"merge_method: linear\n{models}compute_dtype: {compute}")
        plan.run(tmp_path / compute)
        assert tensors_of(tmp_path / compute)["w"].tolist() == expected


def test_a_pass_through_in_another_dtype_is_one_rounding_and_not_two(tmp_path: Path, checkpoint: Any) -> None:
    """bfloat16 -> float32 -> float16 is exact up to the last step; nothing else may happen on the way."""
    values = torch.tensor([1.0 + 2**-7, 3.0, 65504.0])
    checkpoint("a", {"w": values.to(torch.bfloat16)})
    plan = compiled(tmp_path, "merge_method: passthrough\nmodels: [{model: a}]\nout_dtype: float16")
    lines = listing(plan.root(plan.kinds[0]))
    assert lines == [
        "%0 = load slot=0 : bfloat16[3] weight",
        "%1 = cast %0 dtype='float16' : float16[3] weight",
    ]


def test_a_pass_through_is_a_copy_of_bytes(tmp_path: Path, checkpoint: Any) -> None:
    odd = torch.tensor([1.5, float("nan"), -0.0, float("inf")], dtype=torch.float16)
    checkpoint("a", {"w": odd, "ids": torch.arange(4)})
    plan = compiled(tmp_path, "merge_method: passthrough\nmodels: [{model: a}]")
    assert {kind.kind_class for kind in plan.kinds} == {"copy"}


def test_a_cast_through_a_narrower_dtype_is_not_optimised_away(tmp_path: Path, checkpoint: Any) -> None:
    """`dtype: bfloat16` rounds the inputs although the result is float32 again."""
    value = torch.tensor([1.0 + 2**-12])
    checkpoint("a", {"w": value})
    text = "merge_method: passthrough\nmodels: [{model: a}]\ndtype: bfloat16\nout_dtype: float32"
    compiled(tmp_path, text).run(tmp_path / "out")
    assert tensors_of(tmp_path / "out")["w"].item() == 1.0


def test_a_required_setting_without_a_value_is_an_error_at_its_model(tmp_path: Path, checkpoint: Any) -> None:
    checkpoint("a", LAYERS)
    checkpoint("b", LAYERS)
    text = "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 1}}\n  - model: b\n"
    with pytest.raises(RecipeError, match=r"recipe.yml:4:12: error\[E201\].*'weight' for 'b'"):
        compiled(tmp_path, text)
    with pytest.raises(RecipeError, match=r"E201.*needs a 't'"):
        compiled(tmp_path, "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]")


def test_a_list_of_filters_that_leaves_tensors_out_is_an_error_that_names_them(tmp_path: Path, checkpoint: Any) -> None:
    checkpoint("a", LAYERS)
    checkpoint("b", LAYERS)
    text = """
merge_method: slerp
base_model: a
models: [{model: b}]
parameters:
  t:
    - {filter: mlp, value: 0.5}
"""
    with pytest.raises(RecipeError, match=r"E204.*no entry of 't' matches model.layers.\{0-5\}.norm.weight"):
        compiled(tmp_path, text)


def test_a_refused_value_is_reported_once_with_the_tensors_it_concerns(tmp_path: Path, checkpoint: Any) -> None:
    checkpoint("base", LAYERS)
    checkpoint("a", LAYERS)
    text = """
merge_method: della
base_model: base
models:
  - model: a
    parameters: {weight: 1, density: 0.9, epsilon: 0.2}
"""
    with pytest.raises(RecipeError, match=r"recipe.yml:6:52: error\[E206\].*0.7 to 1.1") as caught:
        compiled(tmp_path, text)
    assert len(caught.value.problems) == 1


def test_gradients_run_over_the_layers_and_the_rest_takes_the_first_knot(tmp_path: Path, checkpoint: Any) -> None:
    rest = {
        "model.embed_tokens.weight": torch.ones(8, 4),
        "model.norm.weight": torch.ones(8),
        "lm_head.weight": torch.ones(8, 4),
    }
    checkpoint("a", {**LAYERS, **rest}, config={"num_hidden_layers": 6, "tie_word_embeddings": False})
    text = "merge_method: passthrough\nmodels: [{model: a}]\nparameters: {scale: [1.0, 3.0]}"
    compiled(tmp_path, text).run(tmp_path / "out")
    for name, tensor in tensors_of(tmp_path / "out").items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        torch.testing.assert_close(tensor, {**LAYERS, **rest}[name] * (1 + 2 * layer / 5))


def test_the_graph_of_a_mixture_does_not_grow_with_its_experts(tmp_path: Path) -> None:
    """128 experts in each of 48 layers share the graphs of one expert in one."""

    def nodes(layers: int, experts: int) -> int:
        shapes = {"model.embed_tokens.weight": (8, 4), "lm_head.weight": (8, 4), "model.norm.weight": (4,)} | {
            f"model.layers.{layer}.mlp.{part}": shape
            for layer in range(layers)
            for part, shape in {
                "gate.weight": (3, 4),
                "norm.weight": (4,),
                **{f"experts.{e}.{w}_proj.weight": (4, 6) for e in range(experts) for w in ("up", "gate")},
            }.items()
        }
        entries, end = {}, 0
        for name, shape in shapes.items():
            size = 4 * math.prod(shape)
            entries[name] = ("float32", shape, end, end + size)
            end += size
        for model in ("base", "a", "b"):
            folder = tmp_path / f"{layers}-{experts}" / model
            folder.mkdir(parents=True)
            with open(folder / "model.safetensors", "wb") as file:
                header = header_bytes(entries)
                file.write(header)
                file.truncate(len(header) + end)
            (folder / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
        recipe = tmp_path / f"{layers}-{experts}" / "r.yml"
        recipe.write_text(
            "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
            "parameters: {weight: 0.5, density: [{filter: experts, value: 0.3}, {value: 0.5}]}\n"
        )
        plan = compile_recipe(recipe)
        assert len(plan.outputs) == len(shapes)
        return len(plan.nodes)

    assert nodes(48, 128) == nodes(2, 2)
