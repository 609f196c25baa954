"""Mixtures of experts: every tensor from where it should be, configs that make transformers compute the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import contents
from conftest import write_checkpoint
from dense import HIDDEN, LAYERS, PARTS, write_dense, write_family, write_moe
from models import tensors_of
from recipes_fixtures import mergec as command
from safetensors.torch import save_file
from vocabularies import word_tokenizer

import mergec
from mergec.compiler.families import FAMILIES
from mergec.errors import RecipeError
from mergec.execute.crew import Progress
from mergec.execute.run import run
from mergec.graph import listing
from mergec.recipe.canon import canonical_text
from mergec.recipe.format import format_text
from mergec.recipe.new import recipe_text

MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """`dense("llama")`: a folder with the models base, a and b of a type."""
    made: dict[str, Path] = {}

    def find(model_type: str) -> Path:
        if model_type not in made:
            folder = made[model_type] = tmp_path_factory.mktemp(model_type)
            write_family(folder, model_type)
        return made[model_type]

    return find


def made(recipe: Path, **options: Any) -> dict[str, torch.Tensor]:
    out = recipe.with_suffix("")
    mergec.compile(recipe).run(out, force=True, **options)
    return tensors_of(out)


def test_every_tensor_is_from_where_it_should_be(dense: Folder) -> None:
    folder = dense("llama")
    found = made(write_moe(folder / "copies.yml", ["a", "b", "a"]))
    base, a, b = (tensors_of(folder / name) for name in ("base", "a", "b"))
    expected = {name: tensor for name, tensor in base.items() if ".mlp." not in name}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}.block_sparse_moe"
        for number, model in enumerate((a, b, a)):
            for part, called in MIXTRAL.items():
                name = f"{block}.experts.{number}.{called}.weight"
                expected[name] = model[f"model.layers.{layer}.mlp.{part}.weight"]
        assert found.pop(f"{block}.gate.weight").shape == (3, HIDDEN)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


MIXTURES = [
    ("llama", "mixtral", False),
    ("mistral", "mixtral", False),
    ("llama", "qwen", True),
    ("mistral", "qwen", True),
    ("qwen2", "qwen", True),
    ("qwen3", "qwen3", False),
]


@pytest.mark.parametrize(("model_type", "architecture", "is_shared"), MIXTURES)
def test_a_mixture_of_one_model_computes_what_the_model_does(
    model_type: str, architecture: str, is_shared: bool, dense: Folder
) -> None:
    """Whatever the routers say, experts that are all alike are their own mean; a shared one is silenced."""
    from transformers import AutoModelForCausalLM

    folder = dense(model_type)
    silent = {"shared_experts": [{"source_model": "base", "residual_scale": 0}]} if is_shared else {}
    recipe = write_moe(folder / f"same-{architecture}.yml", ["base"] * 4, architecture=architecture, **silent)
    made(recipe)
    model, info = AutoModelForCausalLM.from_pretrained(recipe.with_suffix(""), output_loading_info=True)
    assert (
        type(model).__name__.lower().startswith({"qwen": "qwen2moe", "qwen3": "qwen3moe"}.get(architecture, "mixtral"))
    )
    assert not any(info.values()), info  # every weight was there, and used
    ids = torch.arange(40).view(2, 20)
    expected = AutoModelForCausalLM.from_pretrained(folder / "base")(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_window_of_attention_stays(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_dense(tmp_path / "base", "mistral", 1, sliding_window=4)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "base")(torch.arange(20)[None]).logits
    silent = [{"source_model": "base", "residual_scale": 0}]
    for name, rest in (("mixtral", {}), ("qwen", {"architecture": "qwen", "shared_experts": silent})):
        recipe = write_moe(tmp_path / f"{name}.yml", ["base", "base"], **rest)
        made(recipe)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        torch.testing.assert_close(model(torch.arange(20)[None]).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_deepseek_mixture_has_the_names_and_keys_that_its_code_expects(dense: Folder) -> None:
    folder = dense("llama")
    recipe = write_moe(folder / "deep.yml", ["a", "b"], architecture="deepseek", shared_experts=[{"source_model": "b"}])
    found = made(recipe)
    block = "model.layers.0.mlp"
    b = tensors_of(folder / "b")
    for part in PARTS:
        assert torch.equal(found[f"{block}.shared_experts.{part}.weight"], b[f"{block}.{part}.weight"])
        assert torch.equal(found[f"{block}.experts.1.{part}.weight"], b[f"{block}.{part}.weight"])
    assert found[f"{block}.gate.weight"].shape == (2, HIDDEN)
    config = json.loads((folder / "deep/config.json").read_text())
    expected = {"model_type": "deepseek", "n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 2}
    expected |= {"first_k_dense_replace": 0, "moe_layer_freq": 1, "norm_topk_prob": True, "moe_intermediate_size": 48}
    assert config.items() >= expected.items()
    assert config["auto_map"]["AutoModelForCausalLM"].endswith("modeling_deepseek.DeepseekForCausalLM")


def test_scale_noise_and_routers(dense: Folder) -> None:
    folder = dense("llama")
    experts = [{"source_model": "a", "residual_scale": 0.5}, {"source_model": "b", "noise_scale": 0.25}, "b"]
    rest = {"gate_mode": "uniform_random", "seed": 3}
    found = made(write_moe(folder / "scaled.yml", experts, **rest))
    a, b = (tensors_of(folder / name) for name in ("a", "b"))
    noises = []
    for part, called in MIXTRAL.items():
        for layer in range(LAYERS):
            name, block = f"model.layers.{layer}.mlp.{part}.weight", f"model.layers.{layer}.block_sparse_moe.experts"
            factor = 0.5 if part == "down_proj" else 1.0
            assert torch.equal(found[f"{block}.0.{called}.weight"], a[name] * factor)
            assert torch.equal(found[f"{block}.2.{called}.weight"], b[name])
            noises.append((found[f"{block}.1.{called}.weight"] - b[name]).view(-1))
    noise = torch.cat(noises)
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 0.25) < 0.01
    assert float(noise.abs().max()) > 0.75  # more than three deviations: normal, not uniform
    assert abs(float(torch.corrcoef(torch.stack(noises[:2]))[0, 1])) < 0.1  # tensors draw their own
    gates = torch.cat([found[f"model.layers.{layer}.block_sparse_moe.gate.weight"] for layer in range(LAYERS)])
    assert float(gates.abs().max()) < HIDDEN**-0.5
    assert float(gates.std()) > 0.5 * HIDDEN**-0.5
    drawn = made(write_moe(folder / "drawn.yml", ["a", "b", "b"]))["model.layers.0.block_sparse_moe.gate.weight"]
    assert abs(float(drawn.std()) - 1) < 0.2


def test_bytes_do_not_depend_on_workers_tiles_or_shards(dense: Folder) -> None:
    folder = dense("qwen3")
    experts = [{"source_model": "a", "noise_scale": 0.1}, {"source_model": "b", "residual_scale": 2}]
    recipe = write_moe(folder / "bytes.yml", experts, dtype="bfloat16")
    mergec.compile(recipe, workers=1).run(folder / "one")
    plan = mergec.compile(recipe, workers=3)
    replace(plan, memory=replace(plan.memory, tile=100)).run(folder / "three")
    assert contents(folder / "one") == contents(folder / "three")
    mergec.compile(recipe, shard_bytes=20_000).run(folder / "shards")
    assert len(list((folder / "shards").glob("*.safetensors"))) > 2
    left, right = tensors_of(folder / "one"), tensors_of(folder / "shards")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_an_interrupted_run_goes_on(dense: Folder) -> None:
    folder = dense("llama")
    recipe = write_moe(folder / "stopped.yml", ["a", {"source_model": "b", "noise_scale": 0.5}])
    seen = 0

    def stop(progress: Progress) -> None:
        nonlocal seen
        seen += progress.tensors
        if seen > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(mergec.compile(recipe, workers=1), folder / "stopped", report=stop)
    assert not (folder / "stopped").exists()
    assert mergec.compile(recipe).run(folder / "stopped").kept >= 20
    mergec.compile(recipe).run(folder / "straight")
    assert contents(folder / "stopped") == contents(folder / "straight")


def test_an_edit_of_one_expert_changes_its_tensors_alone(dense: Folder) -> None:
    folder = dense("llama")
    recipe = write_moe(folder / "edit.yml", ["a", {"source_model": "b", "residual_scale": 0.5}])
    mergec.compile(recipe).run(folder / "edited")
    write_moe(recipe, ["a", {"source_model": "b", "residual_scale": 0.25}])
    result = mergec.compile(recipe).run(folder / "edited")
    assert (result.reused, result.tensors - result.reused) == (result.tensors - LAYERS, LAYERS)


def test_experts_are_stored_as_the_base_is(dense: Folder, tmp_path: Path) -> None:
    write_dense(tmp_path / "half", "llama", 7, torch.bfloat16)
    folder = dense("llama")
    recipe = write_moe(tmp_path / "mixed.yml", [str(folder / "a"), "half"], base_model="half")
    assert {tensor.dtype for tensor in made(recipe).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "mixed/config.json").read_text())["dtype"] == "bfloat16"


def test_an_expert_may_be_the_result_of_a_stage(dense: Folder) -> None:
    folder = dense("llama")
    text = (
        "name: mean\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n---\n"
        "base_model: base\nexperts: [{source_model: mean}, {source_model: a}]\ngate_mode: random\n"
    )
    (folder / "staged.yml").write_text(text)
    found = made(folder / "staged.yml")
    a, b = (tensors_of(folder / name)["model.layers.1.mlp.up_proj.weight"] for name in ("a", "b"))
    torch.testing.assert_close(found["model.layers.1.block_sparse_moe.experts.0.w3.weight"], (a + b) / 2)


def test_an_expert_may_have_an_adapter(dense: Folder) -> None:
    folder = dense("llama")
    (folder / "lora").mkdir()
    module, left, right = "model.layers.0.mlp.up_proj", torch.randn(48, 2), torch.randn(2, HIDDEN)
    factors = {f"base_model.model.{module}.lora_{one}.weight": w for one, w in (("A", right), ("B", left))}
    save_file(factors, folder / "lora/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
    (folder / "lora/adapter_config.json").write_text(json.dumps(config))
    found = made(write_moe(folder / "adapted.yml", ["a+lora", "b"]))
    expected = tensors_of(folder / "a")[f"{module}.weight"] + 2 * left @ right
    torch.testing.assert_close(found["model.layers.0.block_sparse_moe.experts.0.w3.weight"], expected)


LINES = [f"  - source_model: {name}" for name in ("a", "b")]
SOUND = "\n".join(["base_model: base", "gate_mode: random", "experts:", *LINES, ""])


def problems(folder: Path, text: str) -> list[str]:
    (folder / "wrong.yml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        mergec.compile(folder / "wrong.yml")
    return [str(problem).partition("wrong.yml:")[2] for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{SOUND}architecture: mixtrel\n",
            "6:15: error[E362]: found 'mixtrel' for 'architecture', expected the beginning of 'mixtral', 'deepseek "
            "moe', 'qwen moe' or 'qwen3 moe'; hint: did you mean 'mixtral'?",
        ),
        (
            f"{SOUND}architecture: qwen\n",
            "6:1: error[E361]: no mixture can be made of these models: Qwen MoE takes 1 shared expert, found none; "
            "Qwen3 MoE takes qwen3, found llama; hint: list one under 'shared_experts:'",
        ),
        (
            SOUND.replace("source_model: b", "source_model: moe"),
            "5:19: error[E360]: 'moe' is a 'mixtral' model, expected a dense one: llama, mistral, qwen2 or qwen3; "
            "hint: mixtures are made of dense models whose MLPs are gated",
        ),
        (
            SOUND.replace("source_model: b", "source_model: other"),
            "3:1: error[E361]: no mixture can be made of these models: Mixtral takes models of one type, found llama "
            "and qwen2; DeepSeek MoE takes models of one type, found llama and qwen2; Qwen MoE takes models of one "
            "type, found llama and qwen2; Qwen3 MoE takes models of one type, found llama and qwen2; hint: all models "
            "must be of one type, and the mixture of a kind that is made of it",
        ),
        (
            SOUND.replace("source_model: b", "source_model: wide"),
            "5:19: error[E363]: 'wide' has model.layers.0.mlp.down_proj.weight of shape [4, 9], 'base' of [4, 6]; "
            "hint: experts have MLPs of the same shape as the base",
        ),
        (
            SOUND.replace("source_model: b", "source_model: deep"),
            "5:19: error[E363]: 'deep' has model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight, "
            "model.layers.1.mlp.up_proj.weight, which 'base' lacks; hint: experts have as many layers as the base, "
            "with MLPs of the same shape",
        ),
        (
            SOUND.replace("base_model: base", "base_model: biased"),
            "1:13: error[E364]: Mixtral has no place for model.layers.0.self_attn.q_proj.bias of 'biased'; "
            "hint: take a base without them, or another 'architecture'",
        ),
        (
            SOUND.replace("base_model: base", "base_model: plain"),
            "1:13: error[E363]: 'plain' lacks model.layers.0.mlp.gate_proj.weight",
        ),
    ],
    ids=["kind", "shared", "sparse", "types", "shape", "depth", "bias", "no gate"],
)
def test_models_that_do_not_fit_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    def write(name: str, model_type: str = "llama", inner: int = 6, layers: int = 1, *more: str) -> None:
        tensors = {"model.embed_tokens.weight": torch.ones(8, 4), "model.norm.weight": torch.ones(4)}
        for layer in range(layers):
            at = f"model.layers.{layer}"
            tensors |= {
                f"{at}.self_attn.q_proj.weight": torch.ones(4, 4),
                f"{at}.input_layernorm.weight": torch.ones(4),
            }
            tensors |= {f"{at}.mlp.{part}.weight": torch.ones(inner, 4) for part in ("gate_proj", "up_proj")}
            tensors[f"{at}.mlp.down_proj.weight"] = torch.ones(4, inner)
        tensors |= {one: torch.ones(4) for one in more}
        if name == "plain":
            del tensors["model.layers.0.mlp.gate_proj.weight"]
        config = {"model_type": model_type, "num_hidden_layers": layers, "tie_word_embeddings": True}
        write_checkpoint(tmp_path / name, tensors, config)

    for name in ("base", "a", "b", "plain"):
        write(name)
    write("moe", "mixtral")
    write("other", "qwen2")
    write("wide", inner=9)
    write("deep", layers=2)
    write("biased", "llama", 6, 1, "model.layers.0.self_attn.q_proj.bias")
    assert problems(tmp_path, text)[0] == expected


ASKED = [{"source_model": name, "positive_prompts": [text]} for name, text in (("a", "w1 w2"), ("b", "w3"))]


def refused(recipe: Path) -> list[str]:
    return problems(recipe.parent, recipe.read_text())


def test_prompts_need_a_base_and_a_tokenizer_that_can_read_them(dense: Folder, tmp_path: Path) -> None:
    for name in ("base", "a", "b"):
        (tmp_path / name).symlink_to(dense("llama") / name)
    write_dense(tmp_path / "wide", "llama", 0)
    word_tokenizer(["<unk>", *(f"w{number}" for number in range(200))]).save_pretrained(tmp_path / "wide")
    recipe, wrong = tmp_path / "wrong.yml", [{**ASKED[0], "positive_prompts": ["w1", "w150"]}, ASKED[1]]
    found = refused(write_moe(recipe, wrong, base_model="wide", gate_mode="hidden"))
    assert found == ["9:5: error[E366]: the tokenizer of 'wide' makes token 151 of it, and the model has 96"]
    found = refused(write_moe(recipe, ASKED, base_model="a", gate_mode="cheap_embed"))
    assert found == [
        "2:16: error[E366]: the prompts need the tokenizer.json of 'a', and there is none; hint: load the tokenizer "
        "with transformers and save it again: that writes the file"
    ]
    staged = "name: mean\nmerge_method: linear\nmodels: [{model: base}, {model: a}]\nparameters: {weight: 1}\n---\n"
    text = staged + write_moe(recipe, ASKED, base_model="mean", gate_mode="hidden").read_text()
    assert problems(tmp_path, text) == [
        "7:16: error[E365]: gate_mode hidden takes what lies in the files of its base, and 'mean' is computed; "
        "hint: make that model by a run of its own, or take gate_mode: random"
    ]


def test_an_empty_prompt_without_a_first_token_is_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        write_dense(tmp_path / name, "qwen3", seed)
    word_tokenizer(["<unk>", "w0"]).save_pretrained(tmp_path / "base")
    experts = [{**ASKED[0], "positive_prompts": [" "]}, ASKED[1]]
    found = refused(write_moe(tmp_path / "wrong.yml", experts, gate_mode="cheap_embed"))
    assert found == ["8:5: error[E366]: the tokenizer of 'base' makes no tokens of it"]


def test_a_tokenizer_that_the_library_cannot_read_is_said(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        write_dense(tmp_path / name, "qwen3", seed)
    file = tmp_path / "base" / "tokenizer.json"
    file.write_text(json.dumps({"model": {"type": "WordLevel", "vocab": {"w1": 0}}, "pre_tokenizer": {"type": "No"}}))
    (found,) = refused(write_moe(tmp_path / "wrong.yml", ASKED, gate_mode="cheap_embed"))
    assert found.startswith("2:16: error[E350]: ")
    assert "base/tokenizer.json is no sound tokenizer file: " in found


def test_a_row_is_the_sum_of_the_embeddings_of_its_prompts(dense: Folder) -> None:
    folder = dense("llama")
    experts = [{**ASKED[0], "positive_prompts": ["w1 w2", "w2"]}, {**ASKED[1], "negative_prompts": ["w1 w4"]}]
    found = made(write_moe(folder / "summed.yml", experts, gate_mode="cheap_embed"))
    embedding = tensors_of(folder / "base")["model.embed_tokens.weight"].double()
    w1, w2, w3, w4 = (embedding[3 + number] for number in (1, 2, 3, 4))  # behind <unk>, <s> and </s>
    first = embedding[1]
    unit = torch.nn.functional.normalize
    rows = [first + w1 + w2 + first + w2, unit(first + w3, dim=0) - unit(first + w1 + w4, dim=0)]
    expected = unit(torch.stack(rows), dim=1).float()
    for layer in range(LAYERS):
        torch.testing.assert_close(found[f"model.layers.{layer}.block_sparse_moe.gate.weight"], expected)


def test_embeddings_are_read_row_by_row(dense: Folder) -> None:
    plan = mergec.compile(write_moe(dense("llama") / "rows.yml", ASKED, gate_mode="cheap_embed"))
    gate = next(output for output in plan.outputs if output.name.endswith("gate.weight"))
    assert [ref.name for ref in gate.sources] == [f"model.embed_tokens.weight[{number}]" for number in (1, 4, 5, 6)]
    assert sum(ref.end - ref.begin for ref in gate.sources) == 4 * HIDDEN * 4


def test_the_graphs_of_a_mixture(dense: Folder, golden: Callable[..., Any]) -> None:
    """One graph of each sort: how a router is made in every mode, and an expert with noise and a factor."""
    folder, found = dense("llama"), []
    experts = [{**ASKED[0], "noise_scale": 0.1, "residual_scale": 0.5}, {**ASKED[1], "negative_prompts": ["w4"]}]
    for mode in ("random", "uniform_random", "cheap_embed", "hidden_avg"):
        plan = mergec.compile(write_moe(folder / "graphs.yml", experts, gate_mode=mode, dtype="bfloat16"))
        block = "model.layers.1.block_sparse_moe"
        for name in (f"{block}.gate.weight", *((f"{block}.experts.0.w2.weight",) if mode == "random" else ())):
            output = next(one for one in plan.outputs if one.name == name)
            graph = [
                re.sub(r"config='\w+'|uint8.\d+", "...", line) for line in listing(plan.root(plan.kinds[output.kind]))
            ]
            found += [f"{mode}: {name}", *(f"  {line}" for line in graph)]
    assert "\n".join(found) == golden()


def test_every_command_takes_a_recipe_of_experts(dense: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dense("llama")
    monkeypatch.chdir(folder)
    write_moe(folder / "all.yml", [{**ASKED[0], "residual_scale": 0.5}, ASKED[1]], gate_mode="cheap_embed")
    gate = "model.layers.1.block_sparse_moe.gate.weight"

    def said(*arguments: object) -> list[str]:
        called = command(*arguments)
        assert (called.code, called.err) == (0, "")
        return called.out.splitlines()

    assert said("check", "all.yml") == ["all.yml: ok, 42 tensors from 3 models; no weights were read"]
    assert "  experts[1]  b     b     beside the recipe" in said("plan", "all.yml")
    assert "  base_model  base  float32 [32]  model.embed_tokens.weight[1] in base/model.safetensors" in said(
        "explain", "all.yml", gate
    )
    assert "  residual_scale  a  0.5  all.yml:10:22, filter 'down_proj'" in said(
        "explain", "all.yml", "model.layers.0.block_sparse_moe.experts.0.w2.weight"
    )
    assert said("plan", "all.yml", "--html", "all.html")[0].startswith("all.html: plan ")
    assert said("lock", "all.yml")[0].startswith("mergec.lock: all.yml, 3 input files")
    assert said("status", "all.yml") == ["all.yml: clean"]
    canonical = canonical_text((folder / "all.yml").read_text(), "all.yml")
    (folder / "canonical.yml").write_text(canonical)
    assert said("diff", "all.yml", "canonical.yml")[0].endswith("same result")
    assert format_text(canonical, "all.yml") == canonical  # one order of keys for both
    edited = command("diff", "all.yml", write_moe(folder / "edit.yml", ASKED, gate_mode="cheap_embed"))
    assert "  experts[0].residual_scale  a  0.5 -> (not set)  all.yml:10:22" in edited.out.splitlines()
    assert "effect: 3 of 42 tensors change, 18.43 kB of 173.70 kB" in edited.out.splitlines()


def test_families_are_asked_in_the_peers_order() -> None:
    assert [family.name for family in FAMILIES] == ["Mixtral", "DeepSeek MoE", "Qwen MoE", "Qwen3 MoE"]


def test_the_ready_recipe_holds_once_its_paths_do(dense: Folder) -> None:
    folder = dense("llama")
    text = recipe_text("moe")
    for path, name in (("path/to/base", "base"), ("path/to/model-1", "a"), ("path/to/model-2", "b")):
        text = text.replace(path, name)
    (folder / "ready.yml").write_text(text)
    assert mergec.compile(folder / "ready.yml").warnings == ()


def test_the_command_of_the_peer_runs_a_recipe_of_experts(dense: Folder) -> None:
    recipe = write_moe(dense("llama") / "command.yml", ["a", "b"])
    called = command("moe", recipe, recipe.parent / "by command", "-q")
    assert (called.code, called.err) == (0, "")
    mergec.compile(recipe).run(recipe.parent / "by run")
    assert contents(recipe.parent / "by command") == contents(recipe.parent / "by run")
    (recipe.parent / "mean.yml").write_text("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n")
    refused = command("moe", recipe.parent / "mean.yml", recipe.parent / "out")
    assert refused.code == 2
    assert refused.err.endswith("mean.yml has no 'experts'; hint: `mergec run` makes what other recipes describe\n")
