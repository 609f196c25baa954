"""Crew: workers without a tensor help with another's, tile by tile, and change no byte, no count and no error."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_one_tensor, write_recipe
from safetensors.torch import save_file

import mergec
from mergec.errors import RunError
from mergec.execute import work
from mergec.execute.crew import Progress
from mergec.io.reader import Reader

ENTRIES = 300 * 700
WORKERS = 4
COUNTS = ("tensors", "read_bytes", "written_bytes")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Models base, a, b and c of one tensor each."""
    write_one_tensor(tmp_path, (300, 700))
    return tmp_path


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The threads that have read an input; each read takes so long that the others come to help."""
    seen: set[str] = set()
    read = Reader.read

    def noted(*arguments: Any) -> Any:
        seen.add(threading.current_thread().name)
        time.sleep(0.0005)
        return read(*arguments)

    monkeypatch.setattr(Reader, "read", noted)
    return seen


def compiled(folder: Path, method: str, parameters: dict[str, Any], workers: int = WORKERS) -> mergec.Plan:
    tunes = [folder / one for one in ("a" if method == "slerp" else "abc")]
    rest = {} if method == "linear" else {"base_model": folder / "base"}
    plan = mergec.compile(write_recipe(folder, method, tunes, parameters=parameters, **rest))
    return dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=1 << 12, workers=workers))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("linear", {"weight": 0.4}),
        ("slerp", {"t": 0.3}),
        ("model_stock", {}),
        ("dare_ties", {"weight": 0.5, "density": 0.5}),
        ("ties", {"weight": 0.5, "density": 0.3}),
        ("ties", {"weight": 0.5, "density": 0.3, "scope": "model"}),
        ("breadcrumbs", {"weight": 0.5, "density": 0.5, "gamma": 0.1}),
        ("sce", {"select_topk": 0.4}),
        ("della", {"weight": 0.5, "density": 0.5, "epsilon": 0.2}),
    ],
)
def test_tiles_of_one_tensor_are_shared(
    models: Path, readers: set[str], method: str, parameters: dict[str, Any]
) -> None:
    made, counts = [], []
    for workers in (1, WORKERS):
        readers.clear()
        reports: list[Progress] = []
        out = models / f"out-{workers}"
        compiled(models, method, parameters, workers).run(out, device="cpu", compile="off", report=reports.append)
        made.append((out / "model.safetensors").read_bytes())
        counts.append([sum(getattr(one, each) for one in reports) for each in COUNTS])
        assert len(readers) == workers
    assert made[0] == made[1]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("entry", [5, 100_000, ENTRIES - 1])
def test_a_value_that_is_not_finite_is_the_same_error(models: Path, readers: set[str], entry: int) -> None:
    weights = torch.ones(ENTRIES)
    weights[entry] = float("nan")
    save_file({"w": weights.to(torch.bfloat16).view(300, 700)}, models / "b" / "model.safetensors")
    with pytest.raises(RunError) as caught:
        compiled(models, "linear", {"weight": 0.4}).run(models / "out", device="cpu", compile="off")
    what = f"w is not finite at entry {entry:,}: from w of {models / 'b' / 'model.safetensors'}"
    assert (caught.value.code, caught.value.what) == ("E413", what)
    assert not any(thread.name.startswith("worker-") for thread in threading.enumerate())


def test_more_workers_than_tiles_are_not_promised_memory(models: Path) -> None:
    path = write_recipe(models, "linear", [models / "a", models / "b"], parameters={"weight": 0.5})
    assert mergec.compile(path, workers=64).memory.workers == 1


def test_a_helper_takes_what_is_promised_for_a_worker(tmp_path: Path) -> None:
    for model in "ab":
        (tmp_path / model).mkdir()
        save_file({"w": torch.zeros(1 << 20)}, tmp_path / model / "model.safetensors")
    path = write_recipe(tmp_path, "linear", [tmp_path / "a", tmp_path / "b"], parameters={"weight": 0.5})
    peaks = [mergec.compile(path, workers=workers).memory.peak_bytes for workers in (1, 2, 3)]
    assert peaks[2] - peaks[1] == peaks[1] - peaks[0] > 12 * (1 << 18)


def test_buffers_are_gone_with_their_tensor(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the collector, which comes late to what is large and few."""
    made: list[weakref.ref[Any]] = []
    begin = work._Loader.__init__

    def noted(self: Any, *arguments: Any) -> None:
        made.append(weakref.ref(self))
        begin(self, *arguments)

    monkeypatch.setattr(work._Loader, "__init__", noted)
    plan = compiled(models, "ties", {"weight": 0.5, "density": 0.3, "scope": "model"})
    gc.disable()
    try:
        plan.run(models / "out", device="cpu", compile="off")
        assert made
        assert not [one for one in made if one() is not None]
    finally:
        gc.enable()
