"""Devices: where tensors are computed - the processor, a GPU, or all GPUs there are, each worker on one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

from mergec.errors import RunError, UsageError, count
from mergec.plan import Plan

Devices: TypeAlias = "tuple[Any, ...]"
"""Torch devices of one class; worker number n computes on the n-th, counted around."""

_GPU_TILE = 1 << 22
_GPU_SHARE = 4  # tiles get one part in so many of a GPU's free memory, since its kernels take some too


def computes(plan: Plan) -> bool:
    """Whether anything is computed at all: a plan of copies runs without torch."""
    return any(kind.kind_class != "copy" for kind in plan.kinds)


def choose_devices(wanted: str, plan: Plan) -> Devices:
    """The devices that `auto`, `cpu`, `cuda` (all that are visible), `cuda:N` or `mps` stands for.

    Raises UsageError if one is not there, or cannot be used (E503).
    """
    if not computes(plan):
        return ("cpu",)
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    found = tuple(torch.device(one) for one in here if wanted in (one, one.partition(":")[0]))
    if not found:
        raise UsageError("E503", f"no device '{wanted}' here", "use --device auto, or cpu")
    for one in found:
        try:
            torch.empty(1, device=one)
        except RuntimeError as error:  # torch's word for a GPU that is full, busy, or too new for this build
            why = str(error).partition("\n")[0]
            raise UsageError("E503", f"the device '{one}' cannot be used: {why}", "use another, or cpu") from None
    return found


def fitted(plan: Plan, devices: Devices) -> Plan:
    """The plan with tiles of the size that devices want; bytes do not depend on it.

    To start a kernel of a GPU takes as long as to compute a million entries, so that its tiles are of up to four
    million, as far as its free memory allows. With a limit of memory they are the plan's.
    """
    memory = plan.memory
    if memory.limit_bytes is not None or getattr(devices[0], "type", "cpu") != "cuda":
        return plan
    import torch

    free = min(torch.cuda.mem_get_info(one)[0] for one in devices)
    per_entry = max(kind.tile_bytes for kind in plan.kinds)
    entries = free // (_GPU_SHARE * memory.workers * max(1, per_entry))
    tile = 1 << max(0, entries.bit_length() - 1)  # the power of two that is not above
    return replace(plan, memory=replace(memory, tile=max(memory.tile, min(tile, _GPU_TILE))))


def out_of_memory(error: BaseException, plan: Plan) -> RunError | None:
    """What to tell of an error by which torch says that a GPU has no memory left (E415); None for any other."""
    if not computes(plan):
        return None
    import torch

    if not isinstance(error, torch.OutOfMemoryError):
        return None
    memory, why = plan.memory, str(error).partition("\n")[0]
    what = f"no memory for {count(memory.workers, 'worker')} with tiles of {memory.tile:,} entries: {why}"
    return RunError("E415", what, "fewer --workers; with --max-memory tiles are no larger than on the processor")
