"""Routers that are hidden states: what transformers computes, found once, kept by key, and promised in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import contents
from dense import LAYERS, write_family, write_moe
from models import tensors_of
from safetensors.torch import load_file, save_file

import mergec
from mergec.errors import RecipeError, RunError
from mergec.execute import states
from mergec.execute.crew import Progress
from mergec.execute.run import run

PROMPTS = {"a": (["w1 w2 w3", "w4"], []), "b": (["w5 w6"], ["w1", "w7 w8 w9"])}
SCOPE = {"weight": 1, "density": 0.5, "scope": "model"}
TOKENS = {"a": ([[1, 4, 5, 6], [1, 7]], []), "b": ([[1, 8, 9]], [[1, 4], [1, 10, 11, 12]])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_family(tmp_path, "qwen3")


def written(folder: Path, mode: str = "hidden", **rest: Any) -> Path:
    experts = [
        {"source_model": name, "positive_prompts": positive, "negative_prompts": negative, **rest.pop(name, {})}
        for name, (positive, negative) in PROMPTS.items()
    ]
    return write_moe(folder / "moe.yml", experts, gate_mode=mode, **rest)


def gates(folder: Path) -> list[torch.Tensor]:
    tensors = tensors_of(folder)
    return [tensors[f"model.layers.{layer}.mlp.gate.weight"] for layer in range(LAYERS)]


@pytest.mark.parametrize("mode", ["hidden", "hidden_last", "hidden_avg"])
def test_rows_are_what_transformers_computes(mode: str, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    mergec.compile(written(folder, mode)).run(folder / "out")
    model = AutoModelForCausalLM.from_pretrained(folder / "base")

    def mean(prompts: list[list[int]], layer: int) -> torch.Tensor:
        found = []
        for tokens in prompts:
            with torch.no_grad():
                inputs = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[layer][0]
            found.append(inputs.mean(dim=0) if mode == "hidden_avg" else inputs[-1])
        return torch.stack(found).mean(dim=0)

    for layer, gate in enumerate(gates(folder / "out")):
        rows = [mean(yes, layer) - mean(no, layer) if no else mean(yes, layer) for yes, no in TOKENS.values()]
        expected = torch.nn.functional.normalize(torch.stack(rows), dim=1)
        torch.testing.assert_close(gate, expected, rtol=1e-4, atol=1e-5)


def test_bytes_do_not_depend_on_workers_or_where_the_plan_is_run(folder: Path) -> None:
    recipe = written(folder, dtype="bfloat16")
    mergec.compile(recipe, workers=1).run(folder / "one")
    mergec.compile(recipe, workers=3).run(folder / "three")
    mergec.Plan.from_json(mergec.compile(recipe).to_json()).run(folder / "saved")
    assert contents(folder / "one") == contents(folder / "three") == contents(folder / "saved")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each time the base is loaded."""
    found: list[str] = []
    load: Callable[..., Any] = states._model
    monkeypatch.setattr(states, "_model", lambda *given: found.append("loaded") or load(*given))
    return found


def test_the_base_is_loaded_when_prompts_or_the_base_change_and_not_else(folder: Path, passes: list[str]) -> None:
    out = folder / "out"
    mergec.compile(written(folder)).run(out)
    assert passes == ["loaded"]
    mergec.compile(written(folder, a={"residual_scale": 0.5})).run(out)
    assert passes == ["loaded"]  # routers were taken over
    before = gates(out)
    recipe = written(folder)
    recipe.write_text(recipe.read_text().replace("w5 w6", "w5 w6 w7"))
    mergec.compile(recipe).run(out)
    assert passes == ["loaded"] * 2
    assert torch.equal(gates(out)[1][0], before[1][0])
    assert not torch.equal(gates(out)[1][1], before[1][1])
    file = folder / "base/model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"] *= 2  # which is nowhere in the result
    save_file(tensors, file, metadata={"format": "pt"})
    mergec.compile(recipe).run(out)
    assert passes == ["loaded"] * 3
    assert not torch.equal(gates(out)[1], before[1])


def test_a_run_that_goes_on_does_not_load_the_base_again(folder: Path, passes: list[str]) -> None:
    plan, seen = mergec.compile(written(folder), workers=1), 0

    def stop(progress: Progress) -> None:
        nonlocal seen
        seen += progress.tensors
        if seen > LAYERS + 1:  # routers come first
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, folder / "out", report=stop)
    assert plan.run(folder / "out").kept > LAYERS
    assert passes == ["loaded"]


def test_the_config_of_the_base_is_in_the_keys(folder: Path, passes: list[str]) -> None:
    mergec.compile(written(folder)).run(folder / "out")
    path = folder / "base/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    mergec.compile(written(folder)).run(folder / "out")
    assert passes == ["loaded"] * 2


def test_the_base_is_counted_in_the_promise(tmp_path: Path) -> None:
    from mergec.compiler.compile import compile_recipe
    from mergec.compiler.schedule import Options
    from mergec.compiler.text import work_rows

    folder = write_family(tmp_path, "llama", hidden_size=256, intermediate_size=4096, num_hidden_layers=4)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(folder / "base").values())
    asked = compile_recipe(written(folder), (), Options(workers=1)).memory.peak_bytes
    drawn = compile_recipe(written(folder, "random"), (), Options(workers=1)).memory.peak_bytes
    assert drawn < weights < asked < drawn + 1.2 * weights
    rows = work_rows(compile_recipe(written(folder)))
    assert ("states", "4 tensors", "8.19 kB") in [row[:3] for row in rows]
    assert any(row[3].startswith("the base is loaded whole first, and reads the prompts, at most ") for row in rows)
    with pytest.raises(RecipeError, match=r"E403.*the merge needs .* the most is taken by model\.layers\.0\..*gate"):
        compile_recipe(written(folder), (), Options(workers=1, limit_bytes=weights))


def test_a_base_that_lacks_a_tensor_is_told(folder: Path) -> None:
    file = folder / "base/model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.input_layernorm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RunError) as caught:
        mergec.compile(written(folder)).run(folder / "out")
    assert caught.value.code == "E705"
    assert "lacks model.layers.1.input_layernorm.weight, so it cannot read the prompts" in str(caught.value)
    assert not (folder / "out").exists()


def test_a_run_tells_of_rows_that_are_nearly_alike(folder: Path) -> None:
    experts = [{"source_model": name, "positive_prompts": [f"w{n} w5"]} for n, name in ((1, "a"), (2, "b"))]
    result = mergec.compile(write_moe(folder / "alike.yml", experts, gate_mode="hidden")).run(folder / "alike")
    assert result.remarks == (
        "warning[W705]: the experts' rows are nearly alike in model.layers.0.mlp.gate.weight, so that they hardly tell "
        "tokens apart; hint: prompts that differ more, in their last token above all, or gate_mode: hidden_avg",
    )  # the first layer sees nothing but the last token
    assert torch.equal(*gates(folder / "alike")[0])
    other = [{**one, "positive_prompts": [f"w{n}"]} for n, one in enumerate(experts)]
    assert (
        mergec.compile(write_moe(folder / "other.yml", other, gate_mode="hidden")).run(folder / "other").remarks == ()
    )


def test_stages_with_bases_of_their_own_have_states_of_their_own(folder: Path, passes: list[str]) -> None:
    (folder / "a/tokenizer.json").write_bytes((folder / "base/tokenizer.json").read_bytes())
    (folder / "a/tokenizer_config.json").write_bytes((folder / "base/tokenizer_config.json").read_bytes())
    one = json.loads(written(folder).read_text())
    two = {**one, "base_model": "a", "gate_mode": "hidden_avg"}
    texts = [json.dumps({"name": name, **stage}) for name, stage in (("one", one), ("two", two))]
    merge = {"merge_method": "linear", "models": [{"model": "one"}, {"model": "two"}], "parameters": {"weight": 1}}
    (folder / "staged.yml").write_text("\n---\n".join([*texts, json.dumps(merge)]))
    mergec.compile(folder / "staged.yml").run(folder / "staged")
    assert passes == ["loaded"] * 2
    found = []
    for name, stage in (("one", one), ("two", two)):
        (folder / f"{name}.yml").write_text(json.dumps(stage))
        mergec.compile(folder / f"{name}.yml").run(folder / name)
        found.append(gates(folder / name))
    for gate, left, right in zip(gates(folder / "staged"), *found, strict=True):
        torch.testing.assert_close(gate, (left + right) / 2)
    (folder / "ties.yml").write_text(
        "\n---\n".join(
            [*texts, json.dumps({**merge, "merge_method": "ties", "base_model": "one", "parameters": SCOPE})]
        )
    )
    with pytest.raises(RecipeError, match=r"E367.*: the threshold.* is taken over the whole model"):
        mergec.compile(folder / "ties.yml")


@pytest.mark.parametrize(
    "changed", [{"num_attention_heads": "four"}, {"hidden_act": "no such"}, {"num_hidden_layers": 9}]
)
def test_a_base_that_transformers_does_not_load_is_told(changed: dict[str, Any], folder: Path) -> None:
    path = folder / "base/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(RunError) as caught:
        mergec.compile(written(folder)).run(folder / "out")
    assert caught.value.code == "E705"
    assert "\n" not in str(caught.value)
