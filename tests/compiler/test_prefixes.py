"""Models of one architecture saved with and without the first word of their names."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import write_recipe
from models import Family, auto_class, tensors_of
from peer_recipes import save_model

import mergec
from mergec.compiler import prefixes
from mergec.compiler.prefixes import names_by_prefix


@pytest.mark.parametrize("bare_first", [True, False])
def test_a_model_saved_without_its_prefix_is_merged_with_one_that_has_it(
    bare_first: bool, family: Callable[..., Family], tmp_path: Path
) -> None:
    made = family("gpt2", torch.float32)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(made.b).items()}
    save_model(made.b, bare, tmp_path / "bare")
    models = [made.a, tmp_path / "bare"]
    recipe = write_recipe(tmp_path, "linear", models[::-1] if bare_first else models, parameters={"weight": 0.5})
    plan = mergec.compile(recipe)
    assert any("tensors are called as in" in note for note in plan.notes)
    plan.run(tmp_path / "out")
    found, a = tensors_of(tmp_path / "out"), tensors_of(made.a)
    assert found.keys() == (bare.keys() if bare_first else a.keys())
    for name, tensor in bare.items():
        full = f"transformer.{name}"
        assert torch.allclose(found[name if bare_first else full], (tensor + a[full]) / 2, atol=1e-7)
    _, info = auto_class("gpt2").from_pretrained(tmp_path / "out", output_loading_info=True)
    assert info["unexpected_keys"] == set()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["h.0.w", "h.1.w"], ["t.h.0.w"]),  # not all of them
        (["a.h.0.w"], ["b.h.0.w"]),  # another word in its place
        (["t.h.0.w", "h.1.w"], ["t.h.0.w", "t.h.1.w"]),  # some are called alike: which is meant is not plain
        ([], ["t.h.0.w"]),
    ],
)
def test_names_that_differ_otherwise_stay(found: list[str], expected: list[str]) -> None:
    assert names_by_prefix(found, expected) == {}


def test_documented_examples_hold() -> None:
    assert doctest.testmod(prefixes).failed == 0
