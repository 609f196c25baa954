"""`random_order: mergekit`: the entries that mergekit drops for a seed are dropped here too, on any worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from differential import Recipe, fitted
from models import Family, tensors_of
from recipes_fixtures import mergec as command

import mergec
from mergec.ops.replay import replayed

pytest.importorskip("mergekit")

DENSITIES = (0.5, [0.3, 0.7], 1.0)
METHODS = ("dare_linear", "dare_ties", "della", "della_linear")


def recipe_of(method: str, rescale: bool, densities: Any = DENSITIES) -> Recipe:
    own = {"epsilon": 0.1} if "della" in method else {}
    models = [
        {"model": label, "parameters": {"weight": 0.5, "density": density, **own}}
        for label, density in zip("abc", densities, strict=True)
    ]
    return {"merge_method": method, "base_model": "base", "models": models, "parameters": {"rescale": rescale}}


def both(recipe: Recipe, family: Family, folder: Path, workers: int = 1) -> tuple[Any, Any]:
    from mergekit import config, merge, options

    fitting = fitted(recipe, "llama", family)
    chosen = options.MergeOptions(write_model_card=False, copy_tokenizer=False, quiet=True, random_seed=42)
    merge.run_merge(config.MergeConfiguration.model_validate(fitting), str(folder / "peer"), chosen)
    path = folder / "recipe.yml"
    path.write_text(json.dumps({**fitting, "compat": "mergekit", "seed": 42, "random_order": "mergekit"}))
    mergec.compile(path, workers=workers).run(folder / "ours", device="cpu")
    return tensors_of(folder / "ours"), tensors_of(folder / "peer")


@pytest.mark.parametrize("method", METHODS)
def test_equal_bits_where_nothing_is_rescaled(method: str, family: Callable[..., Family], tmp_path: Path) -> None:
    ours, peer = both(recipe_of(method, rescale=False), family("llama", torch.float32), tmp_path)
    assert ours.keys() == peer.keys()
    for name, tensor in peer.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("method", METHODS)
def test_equal_but_for_the_last_bit_of_a_sum_where_norms_are_restored(
    method: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    ours, peer = both(recipe_of(method, rescale=True), family("llama", torch.float32), tmp_path, workers=2)
    for name, tensor in peer.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-7)


def test_half_precision_densities_are_rounded_as_there(family: Callable[..., Family], tmp_path: Path) -> None:
    ours, peer = both(recipe_of("dare_linear", rescale=False), family("llama", torch.bfloat16), tmp_path)
    for name, tensor in peer.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_half_precision_ranks_differ_by_the_order_of_ties_alone(
    method: str, rescale: bool, family: Callable[..., Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mergekit sorts in any order of equal magnitudes; where it takes ours, every bit is the same."""
    sort = torch.argsort

    def ties_as_ours(values: torch.Tensor, dim: int = -1, descending: bool = False) -> torch.Tensor:
        assert not descending
        if not values.is_floating_point():  # the second sort, of a permutation
            return sort(values, dim=dim)
        return sort(values, dim=dim, descending=True, stable=True).flip(dim)

    monkeypatch.setattr(torch, "argsort", ties_as_ours)
    ours, peer = both(recipe_of(method, rescale), family("llama", torch.bfloat16), tmp_path)
    for name, tensor in peer.items():
        assert torch.equal(ours[name], tensor), name


def test_numbers_are_those_of_the_generator_wherever_reading_starts() -> None:
    wanted = (torch.rand(100_000, generator=torch.Generator().manual_seed(9)) * (1 << 24)).int()
    for start, stop in ((70_000, 70_100), (0, 10), (5, 3000), (99_990, 100_000), (3000, 3001)):
        assert torch.equal(replayed(9, start, stop), wanted[start:stop])
    far = 3 * (1 << 24) + 17
    generator = torch.Generator().manual_seed(11)
    torch.rand(far, generator=generator)
    assert torch.equal(replayed(11, far, far + 50), (torch.rand(50, generator=generator) * (1 << 24)).int())


def test_tiles_and_workers_leave_no_mark(family: Callable[..., Family], tmp_path: Path) -> None:
    one = fitted(recipe_of("dare_ties", rescale=True), "llama", family("llama", torch.float32))
    path = tmp_path / "r.yml"
    path.write_text(json.dumps({**one, "compat": "mergekit", "seed": 1, "random_order": "mergekit"}))
    found = []
    for workers, limit in ((1, None), (2, None), (2, 64 << 20)):
        out = tmp_path / f"{workers} {limit}"
        mergec.compile(path, workers=workers, max_memory_bytes=limit).run(out, device="cpu")
        found.append((out / "model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"compat": None}, "error[E130]: random_order: mergekit needs compat: mergekit; hint: add it, or remove this"),
        (
            {"merge_method": "ties"},
            "error[E130]: mergekit draws nothing for ties that could be drawn again",
        ),
        ({"rules": [{"match": "*", "keep": True}]}, "error[E130]: found 'random_order' beside 'rules'"),
        ({"tensors": "union"}, "error[E130]: found 'random_order' beside 'tensors'"),
    ],
)
def test_where_it_cannot_hold_it_is_refused(
    change: Recipe, said: str, family: Callable[..., Family], tmp_path: Path
) -> None:
    one = fitted(recipe_of("dare_ties", rescale=True), "llama", family("llama", torch.float32))
    whole = {**one, "compat": "mergekit", "seed": 1, "random_order": "mergekit", **change}
    (tmp_path / "r.yml").write_text(json.dumps({key: value for key, value in whole.items() if value is not None}))
    called = command("check", tmp_path / "r.yml")
    assert called.code == 2
    assert said in called.err


def test_a_setting_that_is_not_there_is_said_all_the_same(family: Callable[..., Family], tmp_path: Path) -> None:
    made = family("llama", torch.float32)
    recipe = {"merge_method": "dare_ties", "base_model": str(made.base), "models": [{"model": str(made.a)}]}
    recipe |= {"parameters": {"density": 0.5}, "compat": "mergekit", "random_order": "mergekit"}
    (tmp_path / "r.yml").write_text(json.dumps(recipe))
    called = command("check", tmp_path / "r.yml")
    assert called.code == 2
    assert "error[E201]: dare_ties needs a 'weight'" in called.err
