"""What recipes may have beside method and settings, by both tools; and that docs/conformance.md says the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import Family

pytest.importorskip("mergekit")

from peer_features import FEATURES, METHODS, REFUSED, Made
from peer_matrix import compared, peer_failure

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


@pytest.fixture
def made(family: Callable[..., Family], tmp_path: Path) -> Made:
    return Made(family("llama", torch.float32), family("llama", torch.bfloat16), tmp_path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_gives_the_peers_numbers(name: str, method: str, made: Made) -> None:
    found = compared(FEATURES[name](method, made), "llama", made.folder)
    assert found.verdict == "equal", found.why
    assert f"| {name} | = | = | = |" in PAGE


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_on_the_page_with_what_the_peer_does(name: str, made: Made) -> None:
    recipe = REFUSED[name]("linear", made)
    found = compared(recipe, "llama", made.folder)
    assert found.verdict == "refused"
    fails = peer_failure(recipe, made.folder / "peer")
    code = re.search(r"error\[(E\d+)\]", found.why)
    assert code
    assert f"| {name} | {code[1]} | {f'fails: {fails}' if fails else 'makes a model'} |" in PAGE
