"""Folders that are not there: said as such, by every command that takes one, with the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes_fixtures import mergec


@pytest.mark.parametrize(
    "command", [("verify", "mergd"), ("status", "mergd"), ("materialize", "mergd", "--task", "a", "out")]
)
def test_a_folder_that_is_not_there(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "merged").mkdir()
    monkeypatch.chdir(tmp_path)
    called = mergec(*command)
    assert called.code == 2
    assert "no folder mergd; hint: did you mean 'merged'?" in called.err
