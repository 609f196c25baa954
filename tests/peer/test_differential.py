"""The same recipe run by mergekit and by mergec under `compat: mergekit`: names, shapes, dtypes and numbers agree.

Only what does not depend on the peer's random numbers. Where magnitudes tie at a cut, the peer keeps an arbitrary
one; entries at exactly that magnitude may differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from differential import Recipe, assert_same, fitted, run_ours, run_peer, tied_at_a_cut, tolerance
from models import Family, auto_class, tensors_of
from torch import Tensor

pytest.importorskip("mergekit")

ARCHITECTURES = ("llama", "qwen2", "gpt2", "mixtral", "bert")  # test_matrix.py has the others
DTYPES = [torch.float32, torch.bfloat16]


def with_base(method: str, **parameters: Any) -> Recipe:
    return {"merge_method": method, "base_model": "base", "models": models("abc"), "parameters": parameters}


def models(labels: str, **own: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"model": label, "parameters": {key: values[number] for key, values in own.items()}}
        for number, label in enumerate(labels)
    ]


# Every case is deterministic; `FILTER` stands for a part of the architecture's tensor names.
CASES: dict[str, Recipe] = {
    "linear": {"merge_method": "linear", "models": models("abc", weight=[1, 0.3, 0.5])},
    "linear, not normalised": {
        "merge_method": "linear",
        "models": models("abc", weight=[0.5, -0.3, 0.6]),
        "parameters": {"normalize": False},
    },
    "linear, gradients and filters": {
        "merge_method": "linear",
        "models": models("ab", weight=[[0.1, 0.9], [{"filter": "FILTER", "value": [1, 0.2, 0.5]}, {"value": 0.4}]]),
    },
    "linear, base in the list": {
        "merge_method": "linear",
        "base_model": "base",
        "models": [*models("bac", weight=[0.2, 0.3, 0.5]), {"model": "base", "parameters": {"weight": 0.1}}],
    },
    "slerp": {"merge_method": "slerp", "base_model": "base", "models": models("a"), "parameters": {"t": 0.3}},
    "slerp, gradients and filters": {
        "merge_method": "slerp",
        "base_model": "base",
        "models": [{"model": "base"}, {"model": "b"}],
        "parameters": {"t": [{"filter": "FILTER", "value": [0, 0.5, 0.3, 0.7, 1]}, {"value": 0.5}]},
    },
    "task_arithmetic": with_base("task_arithmetic", weight=0.7, **{"lambda": 0.5}),
    "task_arithmetic, normalised": {
        **with_base("task_arithmetic", normalize=True),
        "models": models("abc", weight=[0.7, -0.2, 0.4]),
    },
    "task_arithmetic, gradients and filters": {
        **with_base("task_arithmetic"),
        "models": models("ab", weight=[[0, 1], [{"filter": "FILTER", "value": 0.4}, {"value": 0}]]),
    },
    "ties": with_base("ties", weight=0.6, density=0.4),
    "ties, not normalised, lambda": {
        **with_base("ties", normalize=False, density=0.5, **{"lambda": 0.8}),
        "models": models("abc", weight=[1, 0.3, -0.5]),
    },
    "ties, keeps all": {**with_base("ties", int8_mask=True), "models": models("abc", weight=[1, 0.3, 0.5])},
    "ties, tiny density": with_base("ties", weight=1.0, density=0.001),
    "ties, rescaled": with_base("ties", weight=0.6, density=0.4, rescale=True),
    "breadcrumbs": with_base("breadcrumbs", weight=0.5, density=0.8, gamma=0.02),
    "breadcrumbs, many outliers": with_base("breadcrumbs", weight=0.5, density=0.7, gamma=0.5),
    "breadcrumbs, tiny density": with_base("breadcrumbs", weight=0.5, density=0.001, gamma=0.01),
    "breadcrumbs_ties": with_base("breadcrumbs_ties", weight=0.5, density=0.8, gamma=0.02, normalize=True),
    "model_stock": with_base("model_stock"),
    "model_stock, two models": {**with_base("model_stock"), "models": models("ca")},
    "model_stock, by rows": with_base("model_stock", filter_wise=True),
    "passthrough": {"merge_method": "passthrough", "models": models("a")},
    "passthrough, scaled": {
        "merge_method": "passthrough",
        "models": [
            {"model": "a", "parameters": {"scale": [{"filter": "FILTER", "value": 0.3}, {"value": [1.0, 0.5]}]}}
        ],
    },
    "linear, inputs cast": {
        "merge_method": "linear",
        "models": models("abc", weight=[1, 0.3, 0.5]),
        "dtype": "bfloat16",
        "out_dtype": "float32",
    },
    "task_arithmetic, inputs and result cast": {
        **with_base("task_arithmetic", weight=0.7),
        "dtype": "bfloat16",
        "out_dtype": "float16",
    },
    "dare_linear, keeps all": with_base("dare_linear", weight=0.4, density=1.0),
    "dare_ties, keeps all": with_base("dare_ties", weight=0.4, density=1.0, normalize=True),
    "della, keeps all": with_base("della", weight=0.4, density=1.0, **{"lambda": 1.2}),
    "della_linear, keeps all": with_base("della_linear", weight=0.4, density=1.0),
    "nuslerp": {"merge_method": "nuslerp", "models": models("ab", weight=[0.3, 0.5])},
    "nuslerp, from a base": {**with_base("nuslerp"), "models": models("ab", weight=[0.3, 0.5])},
    "nuslerp, by rows": {
        **with_base("nuslerp", nuslerp_flatten=False),
        "models": models("ab", weight=[0.3, 0.5]),
    },
    "nuslerp, by columns": {
        **with_base("nuslerp", nuslerp_flatten=False, nuslerp_row_wise=True),
        "models": models("ab", weight=[0.3, 0.5]),
        "dtype": "float64",  # columns of two entries are often nearly opposite, and then float32 has no angle
        "out_dtype": "OUT",
    },
    "multislerp": {"merge_method": "multislerp", "models": models("abc", weight=[0.3, 0.5, 0.6])},
    "multislerp, from a base": {
        **with_base("multislerp", normalize_weights=False),
        "models": models("abc", weight=[0.3, 0.5, 0.6]),
    },
    "karcher": {"merge_method": "karcher", "models": models("abc")},
    "karcher, one step": {"merge_method": "karcher", "models": models("abc"), "parameters": {"max_iter": 1}},
    "nearswap": {**with_base("nearswap", t=0.01), "models": models("a")},
    "nearswap, tiny reach": {**with_base("nearswap", t=1e-4), "models": models("a")},
    "sce": with_base("sce"),
    "ram": with_base("ram", epsilon=0.01),
    "ramplus_tl": {**with_base("ramplus_tl", epsilon=0.01, r=0.3), "out_dtype": "OUT"},
}
# Half types: the peer rounds what these compute with - angles, weights, means - to 8 bits; ours stay exact.
EXACT_ONLY = ("nuslerp", "multislerp", "karcher", "model_stock", "sce", "ram", "ramplus_tl")
# settings that differ from layer to layer, where no ties are cut: not in half types, where ties are everywhere
GRADIENTS: dict[str, Recipe] = {
    "ties": {
        **with_base("ties", normalize=True),
        "models": [
            {"model": "a", "parameters": {"density": [1, 0.7, 0.1], "weight": 1.0}},
            {"model": "b", "parameters": {"density": 0.5, "weight": [0, 0.3, 0.7, 1]}},
            {
                "model": "c",
                "parameters": {"density": 0.33, "weight": [{"filter": "FILTER", "value": 0.5}, {"value": 0}]},
            },
        ],
    },
    "breadcrumbs": with_base("breadcrumbs", weight=[0.2, 0.9], density=[0.9, 0.5], gamma=[0.01, 0.1]),
}
# A peer that packs experts into one tensor trims and measures the pack: other numbers by design, not by arithmetic.
PER_TENSOR = (
    *("slerp", "ties", "breadcrumbs", "model_stock", "nuslerp", "multislerp", "karcher", "sce", "ramplus_tl"),
)


def both(
    recipe: Recipe, architecture: str, dtype: torch.dtype, family: Callable[..., Family], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor], Family]:
    models = family(architecture, dtype)
    recipe = fitted(recipe, architecture, models)
    run_peer(recipe, folder / "peer")
    run_ours(recipe, folder / "ours")
    if architecture == "mixtral":
        return loaded(architecture, folder / "ours"), loaded(architecture, folder / "peer"), models
    return tensors_of(folder / "ours"), tensors_of(folder / "peer"), models


def loaded(architecture: str, folder: Path) -> dict[str, Tensor]:
    """What transformers makes of a folder: one layout whatever lies on disk."""
    return dict(auto_class(architecture).from_pretrained(folder, dtype="auto").state_dict())


def is_comparable(architecture: str, case: str) -> bool:
    return architecture != "mixtral" or not CASES[case]["merge_method"].startswith(PER_TENSOR) or "keeps all" in case


def pairs() -> list[Any]:
    """Every case with the first architecture and one of the others; with the rest under --full-matrix."""
    made = []
    for number, case in enumerate(CASES):
        others = [one for one in ARCHITECTURES[1:] if is_comparable(one, case)]
        always = (ARCHITECTURES[0], others[number % len(others)])
        for one in (ARCHITECTURES[0], *others):
            marks = () if one in always else pytest.mark.full_matrix
            made.append(pytest.param(one, case, marks=marks, id=f"{one}-{case}"))
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("architecture", "case"), pairs())
def test_compat_gives_the_peers_numbers(
    architecture: str, case: str, dtype: torch.dtype, family: Callable[..., Family], tmp_path: Path
) -> None:
    recipe = CASES[case]
    name = str(dtype).removeprefix("torch.")
    recipe = json.loads(json.dumps(recipe).replace("OUT", name))  # the peer's ramplus_tl writes float32 otherwise
    if recipe["merge_method"] in EXACT_ONLY and dtype == torch.bfloat16 and "dtype" not in recipe:
        recipe = {**recipe, "dtype": "float32", "out_dtype": name}
    ours, peer, models = both(recipe, architecture, dtype, family, tmp_path)
    assert_same(ours, peer, tied_at_a_cut(recipe, models), tolerance(recipe))


@pytest.mark.parametrize("case", GRADIENTS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "bert"])
def test_compat_gives_the_peers_numbers_with_gradients_of_densities(
    architecture: str, case: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    ours, peer, _ = both(GRADIENTS[case], architecture, torch.float32, family, tmp_path)
    assert_same(ours, peer, {}, tolerance(GRADIENTS[case]))


@pytest.mark.parametrize("case", ["model_stock", "model_stock, by rows"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_ratio_of_8_bits_is_the_one_thing_compat_does_not_reproduce(
    architecture: str, case: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    """In bfloat16 the peer rounds cosines and ratios of model stock at every step; ours are nearer to the exact."""
    ours, peer, models = both(CASES[case], architecture, torch.bfloat16, family, tmp_path)
    stored = [tensors_of(folder) for folder in (models.base, *models.tunes)]
    errors = {"ours": 0.0, "peer": 0.0}
    for name in peer:
        base, *tunes = (one[name].double().numpy() for one in stored)
        exact = torch.from_numpy(oracle.model_stock(base, tunes, filter_wise="rows" in case))
        errors["ours"] += float((ours[name].double() - exact).abs().sum())
        errors["peer"] += float((peer[name].double() - exact).abs().sum())
        assert ((ours[name].double() - peer[name].double()).abs() < 0.05 * (1 + exact.abs())).all()
    assert errors["ours"] < errors["peer"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_sce_selects_what_the_peer_selects(
    architecture: str, share: float, family: Callable[..., Family], tmp_path: Path
) -> None:
    """In float64 no variances tie, so that which entries are selected is no matter of rounding."""
    recipe = {**with_base("sce", select_topk=share), "dtype": "float64", "out_dtype": "float32"}
    ours, peer, _ = both(recipe, architecture, torch.float32, family, tmp_path)
    assert_same(ours, peer, {}, tolerance(recipe))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_arcee_fusion_takes_what_the_peer_takes(
    architecture: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    """In float64: in float32 the peer's divergences are small differences, rounded at every step."""
    recipe = {**with_base("arcee_fusion"), "models": models("a"), "dtype": "float64", "out_dtype": "float32"}
    ours, peer, made = both(recipe, architecture, torch.float32, family, tmp_path)
    base, tune = tensors_of(made.base), tensors_of(made.a)
    wrong = sum(int((ours[name] != peer[name]).sum()) for name in peer)
    assert wrong == 0
    taken = sum(int((ours[name] != base[name]).sum()) for name in base)
    assert 0 < taken < sum(tensor.numel() for tensor in tune.values()) / 4
