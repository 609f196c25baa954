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
    for name in ("families", "speed", "page", "gpu"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("speed")
    monkeypatch.setitem(module.SIZES, "0.06B", (1, 64, 96, 128, 64))
    monkeypatch.setattr(module, "has_compiler", lambda: False)  # nothing here is worth compiling
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


def test_merges_on_a_device_are_measured(speed: Any, tmp_path: Path) -> None:
    """On the processor, which stands for a GPU: what only a GPU can be asked stays out."""
    gpu = importlib.import_module("gpu")
    linear, ties = gpu.all_measured(tmp_path, ["0.06B"], "cpu")
    assert (linear["method"], linear["device"], ties["method"], ties["kernel_share"]) == ("linear", "cpu", "ties", None)
    assert linear["gigabytes"] == pytest.approx(4 / 5 * ties["gigabytes"], rel=0.05)  # no base
    assert min(linear[figure] for figure in ("seconds", "chain", "copy")) > 0
    page = importlib.import_module("page")
    log = speed.Log(tmp_path / "speed.jsonl")
    log.facts["gpu"] = [linear, {**ties, "kernel_share": 0.25}]
    *_, last, _ = page._gpu(log)
    assert last.startswith("| 0.06B | ties | cpu | ")
    assert " | 25% | " in last


def test_more_tensors_and_another_tool_are_shown(speed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = speed.Log(tmp_path / "speed.jsonl")
    monkeypatch.setattr(speed, "EXPERTS", (1,))
    monkeypatch.setattr(speed, "LAYERS", 1)
    speed.planned(tmp_path, log, 1)
    speed.planned(tmp_path, log, 1)  # it is there
    log.facts |= {"torch": 100.0, "0.06B ties apart from sd-mecha": 0.02}
    for tool, seconds in (("mergec", 2.0), ("sd-mecha", 5.0)):
        log.add(speed.Run("0.06B", "ties", tool, 0, seconds, seconds, 150.0, 300.0, 0.0))
    page = importlib.import_module("page")
    assert "| 0.06B | ties | 2.0 s | 5.0 s | 2.5 | 50 MiB | 50 MiB | 2.000% |" in page._mecha(log)
    (row,) = [line for line in page._planned(log) if line.startswith("| 11 ")]
    assert row.endswith(" MiB |")
