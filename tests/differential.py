"""The same recipe run by mergekit and by mergec, and how near their results must be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from models import Family, tensors_of
from torch import Tensor

import mergec

Recipe = dict[str, Any]
FILTERS = {
    **{"llama": "mlp", "qwen2": "attn", "gpt2": "mlp", "mixtral": "attn", "bert": "attention"},
    **{"gemma2": "mlp", "t5": "Attention", "whisper": "fc1", "llava": "mlp"},
}
SPHERICAL = ("nuslerp", "multislerp", "karcher")


def fitted(recipe: Recipe, architecture: str, family: Family) -> Recipe:
    """The recipe for one architecture and the family's folders."""
    text = json.dumps(recipe).replace("FILTER", FILTERS[architecture])
    for label in ("base", "a", "b", "c"):
        folder = str(getattr(family, label))
        text = text.replace(f'"model": "{label}"', f'"model": "{folder}"')
        text = text.replace(f'"base_model": "{label}"', f'"base_model": "{folder}"')
    found: Recipe = json.loads(text)
    return found


def run_peer(recipe: Recipe, out: Path) -> None:
    from mergekit import config, merge, options

    merge.run_merge(
        config.MergeConfiguration.model_validate(recipe),
        str(out),
        options.MergeOptions(
            write_model_card=False,
            copy_tokenizer=False,
            quiet=True,
            lora_merge_cache=f"{out}-adapters",
            random_seed=recipe.get("seed"),
        ),
    )


def run_ours(recipe: Recipe, out: Path) -> None:
    path = out.with_suffix(".yml")
    path.write_text(json.dumps({**recipe, "compat": "mergekit"}))
    mergec.compile(path, workers=1).run(out)


def assert_same(
    ours: Mapping[str, Tensor],
    peer: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    unit: Callable[[Tensor], Tensor],
) -> None:
    """Equal names, shapes and dtypes; numbers within `unit` of the peer's, but for entries that are `allowed`."""
    assert ours.keys() == peer.keys()
    wrong = {}
    for name, expected in peer.items():
        found = ours[name]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        off = (found.double() - expected.double()).abs() > unit(expected)
        if name in allowed:
            off &= ~allowed[name]
        if off.any():
            wrong[name] = (int(off.sum()), found[off][:4].tolist(), expected[off][:4].tolist())
    assert not wrong


def spacing(values: Tensor) -> Tensor:
    """The distance from each value to the next one of its dtype, towards infinity, in float64."""
    magnitude = values.abs()
    above = torch.nextafter(magnitude, torch.full_like(magnitude, float("inf")))
    return above.double() - magnitude.double()


def tolerance(recipe: Recipe) -> Callable[[Tensor], Tensor]:
    """None for copies, 1e-5 for float32, two values to either side for half types."""
    copies = recipe["merge_method"] == "passthrough" and "parameters" not in recipe["models"][0]
    slack = 1e-7 if recipe["merge_method"] in SPHERICAL else 0.0  # the peer's norms and angles are float32

    def unit(expected: Tensor) -> Tensor:
        if copies or not expected.is_floating_point():
            return torch.zeros_like(expected, dtype=torch.float64)
        if expected.dtype == torch.float32:
            return 1e-5 * expected.abs().double() + 1e-8 + slack
        return 2 * spacing(expected) + slack

    return unit


def tied_at_a_cut(recipe: Recipe, family: Family, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Entries whose delta has exactly the magnitude at which some model is cut: which of them stay is arbitrary."""
    parameters = recipe.get("parameters", {})
    if "density" not in parameters or parameters["density"] == 1:
        return {}
    base = {name: tensor.to(dtype or tensor.dtype) for name, tensor in tensors_of(family.base).items()}
    allowed = {name: torch.zeros_like(tensor, dtype=torch.bool) for name, tensor in base.items()}
    for folder in family.tunes:
        for name, tensor in tensors_of(folder).items():
            magnitude = (tensor.to(base[name].dtype) - base[name]).abs()
            ordered = magnitude.flatten().sort(descending=True).values
            for rank in cuts(recipe, len(ordered)):
                if 0 < rank < len(ordered) and ordered[rank - 1] == ordered[rank]:
                    allowed[name] |= magnitude == ordered[rank]
    return allowed


def cuts(recipe: Recipe, entries: int) -> list[int]:
    density, gamma = recipe["parameters"]["density"], recipe["parameters"].get("gamma", 0.0)
    if recipe["merge_method"] == "ties":
        return [max(1, int(density * entries))]
    kept = int(density * entries)
    outliers = min(int(gamma * entries), entries - kept)
    return [outliers, outliers + kept]
