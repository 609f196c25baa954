"""What tests of both tools share: run a recipe by both; the family that most of them merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from differential import Recipe, run_ours, run_peer
from models import Family, tensors_of
from peer_matrix import quiet
from peer_recipes import Results, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def both(recipe: Recipe) -> Results:
        run_ours(recipe, tmp_path / "ours")
        with quiet():
            run_peer(recipe, tmp_path / "peer")
        return Results(tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "peer"), tmp_path / "ours")

    return both


@pytest.fixture
def llama(family: Callable[..., Family]) -> Family:
    return family("llama", torch.float32)
