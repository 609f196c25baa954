"""Merges on a GPU: bytes per second, the share of time its kernels take, and its kernels beside a mere copy.
python benchmarks/gpu.py FOLDER --size 1B (or from speed.py, where torch sees a GPU; `--device cpu` tries it without)
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from families import SIZES, llama_shapes, recipe, write_family

import mergec
from mergec.execute.devices import fitted
from mergec.execute.evaluate import Hand, evaluate

METHODS = {"linear": {"weight": 0.5}, "ties": {"weight": 0.5, "density": 0.5}}
_COPIED = 1 << 30


@dataclass(frozen=True)
class OnDevice:
    """A merge on a device, from and to disk, and its largest tensor's arithmetic between tensors of the device alone.

    `gigabytes` are read and written, once each; `kernel_share` is the share of the time in which a kernel or a copy of
    the device is at work, None where torch's profiler is not asked; `chain` and `copy` are GB/s of reading and writing.
    """

    size: str
    method: str
    device: str
    seconds: float
    gigabytes: float
    kernel_share: float | None
    chain: float
    copy: float


def measured(folder: Path, size: str, method: str, device: str) -> OnDevice:
    """One merge of the family of that size in a folder, which is made if it is not there."""
    write_family(folder / size, llama_shapes(*SIZES[size]), "abc")
    path = folder / size / f"{method}-gpu.yml"
    path.write_text(recipe(method, "abc", METHODS[method], base=method != "linear"))
    plan = mergec.compile(path)
    seconds = _merged(plan, folder / size, device)
    share = _kernel_share(plan, folder / size, device) if device.startswith("cuda") else None
    moved = (plan.read_bytes + plan.written_bytes) / 1e9
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return OnDevice(size, method, name, seconds, moved, share, chain_speed(plan, device), copy_speed(device))


def _merged(plan: Any, folder: Path, device: str) -> float:
    """Seconds of a merge."""
    seconds: float = plan.run(folder / "made", device=device).seconds
    shutil.rmtree(folder / "made")
    return seconds


def _kernel_share(plan: Any, folder: Path, device: str) -> float:
    """The share of a merge's time in which the device works."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        seconds = _merged(plan, folder, device)
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / seconds


def copy_speed(device: str, size: int = _COPIED) -> float:
    """GB/s read and written by a copy from a tensor of the device to another."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device) / 1e9


def chain_speed(plan: Any, device: str) -> float:
    """GB/s that the arithmetic of the plan's largest tensor reads and writes, its inputs lying on the device."""
    plan = fitted(plan, (torch.device(device),))
    output = max(plan.outputs, key=lambda one: one.numel)
    kind = plan.kinds[output.kind]
    numel, dtype = output.numel, getattr(torch, output.dtype)
    inputs = {slot: torch.randn(numel, device=device).to(dtype) for slot in kind.slots}
    result = torch.empty(numel, dtype=dtype, device=device)

    def load(slot: int, start: int, stop: int) -> torch.Tensor:
        return inputs[slot][start:stop]

    def emit(start: int, tile: torch.Tensor) -> None:
        result[start : start + tile.numel()] = tile

    def once() -> None:
        where = {"tile": plan.memory.tile, "device": torch.device(device)}
        evaluate(kind, plan.nodes, name=output.tensor, hand=Hand(load, emit), **where)

    return (len(inputs) + 1) * numel * result.element_size() / _best(once, device) / 1e9


def _best(work: Any, device: str, runs: int = 3) -> float:
    """The fewest seconds of a few runs, after one to warm up."""
    found: list[float] = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - begun)
    return min(found[1:])


def all_measured(folder: Path, sizes: Sequence[str], device: str) -> list[dict[str, Any]]:
    return [asdict(measured(folder, size, method, device)) for size in sizes for method in METHODS]


def has_gpu() -> bool:
    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="1B")
    parser.add_argument("--device", default="cuda:0")
    options = parser.parse_args()
    for found in all_measured(options.folder, [options.size], options.device):
        print(json.dumps(found))


if __name__ == "__main__":
    main()
