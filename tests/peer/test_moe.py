"""The same mixture made by mergekit-moe and by mergec, as far as it is not drawn at random."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import PARTS, write_family
from models import tensors_of
from torch import Tensor

import mergec

pytest.importorskip("mergekit")
Recipe = dict[str, Any]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`dense("llama", torch.float32)`: a folder with the models base, a, b and a tokenizer with the base."""
    made: dict[Any, Path] = {}

    def find(model_type: str, dtype: torch.dtype) -> Path:
        if (model_type, dtype) not in made:
            made[model_type, dtype] = write_family(tmp_path_factory.mktemp(model_type), model_type, dtype)
        return made[model_type, dtype]

    return find


def run_peer(recipe: Recipe, out: Path) -> dict[str, Tensor]:
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.options import MergeOptions
    from mergekit.scripts.moe import build

    options = MergeOptions(write_model_card=False, copy_tokenizer=False, quiet=True)
    build(MoEMergeConfig.model_validate(recipe), str(out), options, device="cpu")
    return dict(_taken_apart(tensors_of(out)))


def _taken_apart(tensors: Mapping[str, Tensor]) -> Any:
    """The peer packs experts as transformers holds them in memory; here they are as models on the hub have them."""
    for name, tensor in tensors.items():
        layer, _, part = name.partition(".mlp.experts.")
        if part == "gate_up_proj":
            for number, one in enumerate(tensor):
                for half, word in zip(one.chunk(2), PARTS, strict=False):
                    yield f"{layer}.mlp.experts.{number}.{word}.weight", half
        elif part == "down_proj":
            yield from ((f"{layer}.mlp.experts.{number}.down_proj.weight", one) for number, one in enumerate(tensor))
        else:
            yield name, tensor


def run_ours(recipe: Recipe, out: Path) -> dict[str, Tensor]:
    path = out.with_suffix(".yml")
    path.write_text(json.dumps(recipe))
    mergec.compile(path).run(out)
    words = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    found = {}
    for name, tensor in tensors_of(out).items():
        *start, word, end = name.replace(".block_sparse_moe.", ".mlp.").split(".")
        found[".".join([*start, words.get(word, word), end])] = tensor
    return found


def written(folder: Path, gate_mode: str, **rest: Any) -> Recipe:
    prompts = ["w3 w4 w5", "w6 w7 w8"], ["w9 w10"]
    experts = [
        {"source_model": str(folder / "a"), "positive_prompts": prompts[0], "residual_scale": 0.3},
        {"source_model": str(folder / "b"), "positive_prompts": prompts[1], "negative_prompts": ["w3 w11"]},
    ]
    shared = [{**one, "source_model": str(folder / "b")} for one in rest.pop("shared_experts", [])]
    base = {"base_model": str(folder / "base"), "gate_mode": gate_mode, "experts": experts, **rest}
    return {**base, "shared_experts": shared} if shared else base


CASES = [
    ("llama", torch.float32, {}),
    ("llama", torch.bfloat16, {}),
    ("mistral", torch.float32, {"dtype": "bfloat16"}),
    ("qwen2", torch.float32, {"shared_experts": [{"positive_prompts": ["w12 w13"]}]}),
    ("qwen3", torch.bfloat16, {"experts_per_token": 1}),
    ("llama", torch.float32, {"architecture": "deepseek", "shared_experts": [{"residual_scale": 0.5}]}),
]


@pytest.mark.parametrize(("model_type", "dtype", "rest"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_drawn_is_the_same(
    model_type: str, dtype: torch.dtype, rest: Recipe, dense: Any, tmp_path: Path
) -> None:
    recipe = written(dense(model_type, dtype), "random", **rest)
    ours, peer = run_ours(recipe, tmp_path / "ours"), run_peer(recipe, tmp_path / "peer")
    assert ours.keys() == peer.keys()
    for name, expected in peer.items():
        assert (ours[name].dtype, ours[name].shape) == (expected.dtype, expected.shape), name
        if "gate.weight" in name:
            continue  # drawn from other streams
        if name.endswith("down_proj.weight"):
            torch.testing.assert_close(
                ours[name], expected, rtol=1e-2 if expected.dtype == torch.bfloat16 else 1e-6, atol=0
            )
        else:
            assert torch.equal(ours[name], expected), name
    left, right = (json.loads((tmp_path / one / "config.json").read_text()) for one in ("ours", "peer"))
    skipped = {"transformers_version", "sliding_window", "layer_types", "auto_map"}  # a window of the base stays
    assert {key: right[key] for key in left.keys() & right.keys() if left[key] != right[key]}.keys() <= skipped


MODES = [
    ("llama", torch.float32, "cheap_embed", {}, 1e-6),
    ("llama", torch.bfloat16, "cheap_embed", {}, 1e-2),
    ("llama", torch.float32, "cheap_embed", {"shared_experts": [{"positive_prompts": ["w12 w13"]}]}, 1e-6),
    ("llama", torch.bfloat16, "hidden", {}, 0.02),
    ("llama", torch.bfloat16, "hidden_avg", {}, 0.02),
    ("llama", torch.bfloat16, "hidden_last", {"shared_experts": [{"positive_prompts": ["w12 w13"]}]}, 0.02),
    ("qwen3", torch.bfloat16, "hidden", {}, 0.02),
]


@pytest.mark.parametrize(("model_type", "dtype", "gate_mode", "rest", "off"), MODES)
@pytest.mark.filterwarnings("ignore")
def test_routers_made_of_prompts_are_the_same(
    model_type: str, dtype: torch.dtype, gate_mode: str, rest: Recipe, off: float, dense: Any, tmp_path: Path
) -> None:
    """The peer computes states in bfloat16, prompts of several lengths with padding; so do its rows differ."""
    recipe = written(dense(model_type, dtype), gate_mode, **rest)
    ours, peer = run_ours(recipe, tmp_path / "ours"), run_peer(recipe, tmp_path / "peer")
    routers = [name for name in peer if "gate.weight" in name]
    assert len(routers) == (6 if rest else 3)
    for name in routers:
        assert float((ours[name].double() - peer[name].double()).abs().max()) <= off, name
        assert float(ours[name].double().norm(dim=1).sub(1).abs().max()) < 1e-2
