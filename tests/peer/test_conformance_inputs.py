"""The rest of the cases of `test_conformance.py`: degenerate deltas, formats of inputs, stages, experts, adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import furthest
from differential import Recipe, assert_same, run_ours, tolerance
from models import Family, auto_class, tensors_of
from peer_matrix import quiet
from peer_recipes import Results, Run, assert_equal, merge, model, save_model, source, stack
from recipes_fixtures import mergec as command
from torch import Tensor

import mergec

pytest.importorskip("mergekit")


def test_case_21_sce_of_all_entries_and_of_a_tenth(llama: Family, run: Run) -> None:
    wide = {"dtype": "float64", "out_dtype": "float32"}
    recipe = merge("sce", *map(model, llama.tunes), base=llama.base, parameters={"select_topk": 0.1}, **wide)
    run(recipe).same(recipe)


def test_case_21_sce_weighs_tiny_deltas_alike_in_the_peer(llama: Family, run: Run, tmp_path: Path) -> None:
    """Below a sum of squares of 1e-6 the peer takes equal weights; compat does too, and mergec itself does not."""
    base = tensors_of(llama.base)
    for name, size in (("one", 1e-5), ("two", 3e-5)):
        torch.manual_seed(len(name))
        save_model(llama.base, {n: t + size * torch.randn(t.shape).sign() for n, t in base.items()}, tmp_path / name)
    recipe = merge("sce", model(tmp_path / "one"), model(tmp_path / "two"), base=llama.base, dtype="float64")
    run(recipe).same(recipe)


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
@pytest.mark.parametrize("on_base", [False, True])
def test_case_22_means_on_the_sphere(method: str, on_base: bool, llama: Family, run: Run) -> None:
    own = {"weight": 0.4} if method == "multislerp" else {}
    base = llama.base if on_base else None
    recipe = merge(method, *(model(one, **own) for one in llama.tunes), base=base)
    run(recipe).same(recipe)


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_case_22_models_that_are_equal_or_opposite(method: str, llama: Family, run: Run, tmp_path: Path) -> None:
    a = tensors_of(llama.a)
    own = {"weight": 0.5} if method == "multislerp" else {}
    save_model(llama.a, a, tmp_path / "again")
    save_model(llama.a, {name: -tensor for name, tensor in a.items()}, tmp_path / "opposite")
    for folder in ("again", "opposite"):
        recipe = merge(method, model(llama.a, **own), model(tmp_path / folder, **own))
        run_ours(recipe, tmp_path / f"ours-{folder}")
        assert all(tensor.isfinite().all() for tensor in tensors_of(tmp_path / f"ours-{folder}").values())
    assert furthest(tensors_of(tmp_path / "ours-again"), a) < 1e-6


def test_case_23_nearswap(llama: Family, run: Run, tmp_path: Path) -> None:
    recipe = merge("nearswap", model(llama.a), base=llama.base, parameters={"t": 1e-4})
    run(recipe).same(recipe)
    save_model(llama.base, tensors_of(llama.base), tmp_path / "twin")
    run_ours(merge("nearswap", model(tmp_path / "twin"), base=llama.base, parameters={"t": 1e-4}), tmp_path / "same")
    assert_equal(tensors_of(tmp_path / "same"), tensors_of(llama.base))


def untied(folder: Path, like: Path) -> dict[str, Tensor]:
    """A copy of a tied model with a head of its own."""
    tensors = tensors_of(like)
    torch.manual_seed(7)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 0.01 * torch.randn(80, 32)
    save_model(like, tensors, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return tensors


@pytest.mark.parametrize("first", ["tied", "untied"])
def test_case_24_tied_and_untied_models_give_a_head_and_a_config_that_says_so(
    first: str, family: Callable[..., Family], run: Run, tmp_path: Path
) -> None:
    made = family("qwen2", torch.float32)
    other = untied(tmp_path / "untied", made.b)
    listed = [model(made.a, weight=0.5), model(tmp_path / "untied", weight=0.5)]
    recipe = merge("linear", *(listed if first == "tied" else listed[::-1]))
    found = run({**recipe, "base_model": recipe["models"][0]["model"]})
    expected = (tensors_of(made.a)["model.embed_tokens.weight"] + other["lm_head.weight"]) / 2
    assert torch.allclose(found.ours["lm_head.weight"], expected, atol=1e-7)
    assert torch.allclose(found.peer["lm_head.weight"], expected, atol=1e-7)
    assert json.loads((found.folder / "config.json").read_text())["tie_word_embeddings"] is False
    loaded = auto_class("qwen2").from_pretrained(found.folder)
    assert torch.equal(loaded.state_dict()["lm_head.weight"], found.ours["lm_head.weight"])


def test_case_26_inputs_and_results_in_shards_and_archives(llama: Family, run: Run, tmp_path: Path) -> None:
    tensors, loaded = tensors_of(llama.a), auto_class("llama").from_pretrained(llama.a)
    loaded.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 3
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "config.json").write_text((llama.a / "config.json").read_text())
    torch.save(tensors, tmp_path / "archive" / "pytorch_model.bin")
    expected = run(merge("linear", model(llama.a, weight=0.3), model(llama.b, weight=0.7))).ours
    for folder in ("shards", "archive"):
        recipe = merge("linear", model(tmp_path / folder, weight=0.3), model(llama.b, weight=0.7))
        run_ours(recipe, tmp_path / f"of-{folder}")
        assert_equal(tensors_of(tmp_path / f"of-{folder}"), expected)
    (tmp_path / "r.yml").write_text(json.dumps(recipe))
    mergec.compile(tmp_path / "r.yml", shard_bytes=20_000).run(tmp_path / "small")
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(one.numel() * 4 for one in expected.values())
    assert index["weight_map"].keys() == expected.keys()
    assert {file.name for file in (tmp_path / "small").glob("*.safetensors")} == set(index["weight_map"].values())


def test_case_27_three_stages_in_one_file(llama: Family, tmp_path: Path) -> None:
    from click.testing import CliRunner
    from mergekit.scripts.multimerge import main

    stages = [
        {"name": "first", **merge("linear", model(llama.a), model(llama.b), parameters={"weight": 0.5})},
        {"name": "second", **merge("slerp", model(llama.c), parameters={"t": 0.5}), "base_model": "first"},
        merge("ties", {"model": "second"}, model(llama.b), base=llama.base, parameters={"weight": 0.5, "density": 1}),
    ]
    (tmp_path / "r.yml").write_text("\n---\n".join(json.dumps({**one, "compat": "mergekit"}) for one in stages))
    mergec.compile(tmp_path / "r.yml").run(tmp_path / "ours")
    options = ["--intermediate-dir", str(tmp_path / "between"), "--out-path", str(tmp_path / "peer"), "--quiet"]
    with quiet():
        called = CliRunner().invoke(main, [str(tmp_path / "r.yml"), *options, "--no-write-model-card"])
    assert called.exit_code == 0, called.output
    Results(tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "peer"), tmp_path / "ours").same(stages[2])


def test_case_28_a_base_for_each_slice(llama: Family, run: Run) -> None:
    slices = [
        {"sources": [source(one, n, n + 1) for one in (base, llama.a)], "base_model": str(base), "parameters": {"t": t}}
        for n, (base, t) in enumerate([(llama.base, 0.3), (llama.b, 0.7), (llama.c, 0.5)])
    ]
    recipe = stack("slerp", *slices, base=llama.base)
    run(recipe).same(recipe)


@pytest.mark.parametrize("density", [0.001, 0.0])
def test_case_29_tiny_tensors_and_tiny_densities(density: float, llama: Family, run: Run) -> None:
    recipe = merge("ties", model(llama.a, weight=1.0, density=density), base=llama.base)
    found = run(recipe)
    found.same(recipe)
    base = tensors_of(llama.base)
    for name, tensor in found.ours.items():
        kept = max(1, int(density * tensor.numel())) if density else 0
        assert int((tensor != base[name]).sum()) == kept, name


def test_case_29_deltas_that_are_zero_or_all_of_one_size(llama: Family, run: Run, tmp_path: Path) -> None:
    base = tensors_of(llama.base)
    save_model(llama.base, base, tmp_path / "same")
    recipe = merge("ties", model(tmp_path / "same", weight=1.0, density=0.3), base=llama.base)
    assert_equal(run(recipe).ours, base)
    step = {name: torch.full_like(tensor, 0.25) for name, tensor in base.items()}
    save_model(llama.base, {name: tensor.round() + step[name] for name, tensor in base.items()}, tmp_path / "step")
    save_model(llama.base, {name: tensor.round() for name, tensor in base.items()}, tmp_path / "flat")
    run_ours(merge("ties", model(tmp_path / "step", weight=1.0, density=0.5), base=tmp_path / "flat"), tmp_path / "out")
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert int((tensor != base[name].round()).sum()) == int(0.5 * tensor.numel()), name


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_case_30_experts_keep_the_layout_of_the_hub(method: str, family: Callable[..., Family], tmp_path: Path) -> None:
    made = family("mixtral", torch.float32)
    base = made.base if method == "ties" else None
    run_ours(merge(method, model(made.a), model(made.b), base=base, parameters={"weight": 0.5}), tmp_path / "ours")
    ours, a = tensors_of(tmp_path / "ours"), tensors_of(made.a)
    assert ours.keys() == a.keys()
    assert "model.layers.0.block_sparse_moe.experts.1.w1.weight" in ours
    loaded, info = auto_class("mixtral").from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    packed = loaded.state_dict()["model.layers.0.mlp.experts.down_proj"]
    assert torch.equal(packed[1], ours["model.layers.0.block_sparse_moe.experts.1.w2.weight"])


class Network(torch.nn.Sequential):
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
        self[1].running_mean.normal_()
        self[1].num_batches_tracked.fill_(257)


def test_case_31_plain_state_dicts_with_integer_buffers(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []
    for number in range(3):
        states.append(Network(number).state_dict())
        torch.save(states[-1], tmp_path / f"{number}.pt")
    files = [model(tmp_path / f"{number}.pt", weight=0.5) for number in (1, 2)]
    for method, base in (("linear", None), ("ties", tmp_path / "0.pt")):
        recipe = merge(method, *files, base=base, parameters={"density": 1.0} if base else {})
        run_ours(recipe, tmp_path / method)
        run_raw(recipe, tmp_path / f"raw-{method}")
        found, peer = tensors_of(tmp_path / method), tensors_of(tmp_path / f"raw-{method}")
        assert_same(found, peer, {}, tolerance(recipe))
        assert (found["1.num_batches_tracked"].dtype, int(found["1.num_batches_tracked"])) == (torch.int64, 257)


def run_raw(recipe: Recipe, out: Path, tensors: str = "") -> None:
    from mergekit.graph import Executor
    from mergekit.options import MergeOptions
    from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig, plan_flat_merge

    with quiet():
        which = (tensors == "union", tensors == "intersection")
        tasks = plan_flat_merge(RawPyTorchMergeConfig.model_validate(recipe), str(out), *which, MergeOptions())
        Executor(tasks).execute()


def test_case_31_a_tensor_that_one_file_lacks_is_said(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "v": torch.ones(2)}, tmp_path / "a.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "b.pt")
    with pytest.raises(mergec.RecipeError, match="E320"):
        run_ours(merge("linear", *(model(tmp_path / f"{one}.pt", weight=1) for one in "ab")), tmp_path / "ours")


@pytest.mark.parametrize("tensors", ["union", "intersection"])
@pytest.mark.parametrize(
    ("method", "weight", "settings"),
    [
        ("linear", 0.5, {}),
        ("karcher", None, {}),
        ("task_arithmetic", 0.5, {}),
        ("ties", 0.5, {"density": 0.5}),
        ("sce", None, {"select_topk": 0.5}),
    ],
)
def test_case_31_tensors_that_some_files_lack(
    method: str, weight: float | None, settings: dict[str, Any], tensors: str, tmp_path: Path
) -> None:
    """As `--tensor-union` and `--tensor-intersection` do; but what the base alone has is lost there, and kept here."""
    has_base = method in ("task_arithmetic", "ties", "sce")
    own = {"only_0": torch.rand(8), "of_two": torch.rand(8)}
    torch.save({"of_all": torch.rand(8), **own}, tmp_path / "0.pt")
    torch.save({"of_all": torch.rand(8), "of_two": torch.rand(8)}, tmp_path / "1.pt")
    torch.save({"of_all": torch.rand(8)} | ({} if has_base else {"only_2": torch.rand(8)}), tmp_path / "2.pt")
    parameters = {"weight": weight} if weight else {}
    listed = [model(tmp_path / f"{number}.pt", **parameters) for number in ("12" if has_base else "012")]
    recipe = merge(method, *listed, base=tmp_path / "0.pt" if has_base else None, parameters=settings)
    run_ours({**recipe, "tensors": tensors}, tmp_path / "ours")
    run_raw(recipe, tmp_path / "raw", tensors)
    found, peer = tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "raw")
    if has_base and tensors == "union":
        assert torch.equal(found.pop("only_0"), own["only_0"])
    assert_same(found, peer, {}, tolerance(recipe))


@pytest.mark.parametrize("method", ["ram", "ramplus_tl"])
def test_case_32_ram(method: str, llama: Family, run: Run) -> None:
    recipe = merge(method, *map(model, llama.tunes), base=llama.base, parameters={"epsilon": 0.02})
    run(recipe).same(recipe)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "granite", "opt"])
def test_case_33_linear_over_other_architectures(architecture: str, family: Callable[..., Family], run: Run) -> None:
    made = family(architecture, torch.float32)
    recipe = merge("linear", model(made.a, weight=0.6), model(made.b, weight=0.4))
    found = run(recipe)
    found.same(recipe)
    assert found.ours.keys() == tensors_of(made.a).keys()


def test_case_33_gpt2_with_and_without_the_prefix_of_its_names(
    family: Callable[..., Family], run: Run, tmp_path: Path
) -> None:
    made = family("gpt2", torch.float32)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(made.b).items()}
    save_model(made.b, bare, tmp_path / "bare")
    recipe = merge("linear", model(made.a, weight=0.6), model(tmp_path / "bare", weight=0.4))
    run(recipe).same(recipe)


def test_case_35_an_extracted_adapter_gives_the_model_back(llama: Family, tmp_path: Path) -> None:
    called = command("extract-lora", llama.base, llama.a, tmp_path / "lora", "--rank", 96, "--save-embeddings")
    assert called.code == 0, called.err
    adapted: Recipe = {"merge_method": "passthrough", "models": [{"model": f"{llama.base}+{tmp_path}/lora"}]}
    run_ours(adapted, tmp_path / "ours")
    assert furthest(tensors_of(tmp_path / "ours"), tensors_of(llama.a)) < 1e-5
