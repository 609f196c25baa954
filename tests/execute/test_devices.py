"""Devices: which are taken, and that bytes do not depend on how many; torch's processor stands for several."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import linear, write_recipe
from models import Family

import mergec
from mergec.execute import crew, devices, work
from mergec.execute import run as runs
from mergec.execute.devices import choose_devices

Families = Callable[..., Family]
TWO = (torch.device("cpu", 0), torch.device("cpu", 1))


def test_cuda_is_all_gpus_and_auto_takes_them(
    family: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = mergec.compile(linear(tmp_path, *family("llama").tunes))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    tried: list[Any] = []
    monkeypatch.setattr(torch, "empty", lambda size, device: tried.append(device))
    both = (torch.device("cuda:0"), torch.device("cuda:1"))
    assert choose_devices("cuda", plan) == choose_devices("auto", plan) == both
    assert choose_devices("cuda:1", plan) == both[1:]
    assert choose_devices("cpu", plan) == (torch.device("cpu"),)
    assert tried == [*both, *both, both[1], torch.device("cpu")]


def test_a_device_that_is_there_and_cannot_be_used_says_why(
    family: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = mergec.compile(linear(tmp_path, *family("llama").tunes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def full(size: int, device: torch.device) -> None:
        if device.index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(torch, "empty", full)
    assert choose_devices("cuda:0", plan) == (torch.device("cuda:0"),)
    with pytest.raises(mergec.UsageError) as caught:
        choose_devices("cuda", plan)
    assert (caught.value.code, caught.value.what) == ("E503", "the device 'cuda:1' cannot be used: CUDA out of memory.")


@pytest.mark.parametrize(
    ("free", "limit", "tile"),
    [
        ((80 << 30, 80 << 30), None, 1 << 22),
        ((80 << 30, 1 << 30), None, 1 << 20),
        ((80 << 30, 0), None, 1 << 18),
        ((80 << 30, 80 << 30), 1 << 40, 1 << 18),
    ],
    ids=["as large as they may be", "as one of two has room for", "as the plan has them", "as a limit wants them"],
)
def test_tiles_of_a_gpu(
    family: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: Any, limit: int | None, tile: int
) -> None:
    plan = mergec.compile(linear(tmp_path, *family("llama").tunes))
    memory = dataclasses.replace(plan.memory, tile=1 << 18, workers=8, limit_bytes=limit)
    plan = dataclasses.replace(plan, memory=memory)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda one: (free[one.index], 80 << 30))
    both = torch.device("cuda:0"), torch.device("cuda:1")
    assert devices.fitted(plan, both).memory == dataclasses.replace(memory, tile=tile)
    assert devices.fitted(plan, TWO) is plan


@pytest.mark.parametrize("wanted", ["meta", "cpu:3", "cuda:", "", "cuda:x"])
def test_only_devices_that_hold_values_have_a_name(family: Families, tmp_path: Path, wanted: str) -> None:
    plan = mergec.compile(linear(tmp_path, *family("llama").tunes))
    with pytest.raises(mergec.UsageError, match=f"E503.*no device '{wanted}' here"):
        choose_devices(wanted, plan)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("ties", {"weight": 0.5, "density": 0.5, "scope": "model"}), ("della", {"weight": 0.5, "density": 0.5})],
)
def test_two_devices_make_the_bytes_of_one_and_both_compute(
    family: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, parameters: dict[str, Any]
) -> None:
    llama = family("llama", torch.bfloat16)
    plan = mergec.compile(write_recipe(tmp_path, method, llama.tunes, base_model=llama.base, parameters=parameters))
    plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, workers=2))
    plan.run(tmp_path / "one", device="cpu")
    used: dict[Any, str] = {}
    both_at_work, evaluate = threading.Barrier(2), work.evaluate

    def noted(*arguments: Any, device: Any, **rest: Any) -> None:
        if device not in used:
            used[device] = threading.current_thread().name
            both_at_work.wait(timeout=20)
        assert used[device] == threading.current_thread().name
        evaluate(*arguments, device=device, **rest)

    monkeypatch.setattr(work, "evaluate", noted)
    monkeypatch.setattr(runs, "choose_devices", lambda wanted, plan: TWO)
    plan.run(tmp_path / "two")
    assert set(used) == set(TWO)
    assert (tmp_path / "two/model.safetensors").read_bytes() == (tmp_path / "one/model.safetensors").read_bytes()


def test_a_device_beyond_the_workers_is_left_alone(family: Families, tmp_path: Path) -> None:
    llama = family("llama")
    plan = mergec.compile(linear(tmp_path, *llama.tunes))
    plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, workers=1))
    used: set[Any] = set()
    job = lambda who, output, reader, device: used.add(device)  # noqa: E731
    crew.hand_out(plan, plan.outputs, job, TWO, None)
    assert used == {TWO[0]}
