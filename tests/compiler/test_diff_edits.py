"""Diff names every tensor whose bytes an edit changes, and a rebuild computes just those it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from edits import outcome
from recipes_fixtures import write_family

EDITS = [pytest.param(number, marks=[pytest.mark.slow] if number >= 25 else []) for number in range(200)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("number", EDITS)
def test_an_edit_changes_no_tensor_that_diff_does_not_name(
    number: int, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it names beside them is counted by benchmarks/diff_edits.py: rounding, or the data, hides the change."""
    monkeypatch.chdir(models)
    found = outcome(models, number)
    assert found.differing <= found.named, found.what
    assert found.computed == found.named, found.what
    assert found.rebuilt_as_built
