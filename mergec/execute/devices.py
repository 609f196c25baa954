"""Devices: where tensors are computed - the processor, a GPU, or all GPUs there are, each worker on one."""

from __future__ import annotations

from typing import Any, TypeAlias

from mergec.errors import UsageError
from mergec.plan import Plan

Devices: TypeAlias = "tuple[Any, ...]"
"""Torch devices of one class; worker number n computes on the n-th, counted around."""


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
