"""The benchmark of speed runs to its end on a tiny family, goes on where it stopped, and writes its page."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("families", "speed", "page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("speed")
    monkeypatch.setitem(module.SIZES, "0.06B", (1, 64, 96, 128, 64))
    return module


def test_runs_are_kept_and_shown(speed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["speed.py", str(tmp_path), "--sizes", "0.06B", "--methods", "passthrough", "linear", "--turns", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--tools", "floor", "mergec", "plain"])
    speed.main()
    lines = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [(one["method"], one["tool"]) for one in lines if "tool" in one] == [
        ("passthrough", "floor"),
        ("passthrough", "mergec"),
        ("linear", "floor"),
        ("linear", "mergec"),
        ("linear", "plain"),
    ]
    speed.main()  # everything is there
    assert len((tmp_path / "speed.jsonl").read_text().splitlines()) == len(lines)
    ours, plain = (tmp_path / "0.06B" / tool / "model.safetensors" for tool in ("mergec", "plain"))
    assert speed.share_apart(ours.parent, plain.parent) == 0
    page = importlib.import_module("page")
    monkeypatch.setattr(page, "_plot", lambda *_: None)  # which needs the extra `plot`
    page.write_page(tmp_path / "page.md", speed.Log(tmp_path / "speed.jsonl"))
    text = (tmp_path / "page.md").read_text()
    assert "| linear | " in text
    assert "## Work beside the floor" in text
