"""What a user would write by hand: linear and TIES merges in tiles, plain eager torch, a histogram for the threshold.
python benchmarks/plain.py METHOD OUT LABEL... (called by speed.py, in the folder of a family)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

TILE, WEIGHT, DENSITY = 1 << 18, 0.5, 0.5


def threshold(delta: torch.Tensor) -> float:
    """A magnitude that about DENSITY of the entries reach: a bin of their upper 16 bits, no finer."""
    counts = torch.zeros(1 << 15, dtype=torch.int64)
    for tile in delta.abs().split(TILE):
        counts += torch.bincount((tile.view(torch.int32) >> 16), minlength=1 << 15)
    wanted = max(1, int(DENSITY * delta.numel()))
    kept = counts.flip(0).cumsum(0)
    bin_number = (1 << 15) - 1 - int((kept >= wanted).nonzero()[0])
    return float(torch.tensor(bin_number << 16, dtype=torch.int32).view(torch.float32))


def ties(base: torch.Tensor, models: list[torch.Tensor]) -> torch.Tensor:
    origin = base.float().flatten()
    deltas = [model.float().flatten() - origin for model in models]
    limits = [threshold(delta) for delta in deltas]
    merged = torch.empty_like(base).flatten()
    for start in range(0, origin.numel(), TILE):
        part = slice(start, start + TILE)
        tiles = [(delta[part], limit) for delta, limit in zip(deltas, limits, strict=True)]
        kept = [torch.where(tile.abs() >= limit, tile, 0) * WEIGHT for tile, limit in tiles]
        sign = torch.where(sum(kept) >= 0, 1.0, -1.0)
        agrees = [one * sign > 0 for one in kept]
        total = sum(torch.where(agree, one, 0) for agree, one in zip(agrees, kept, strict=True))
        divisor = sum(agree * WEIGHT for agree in agrees)
        merged[part] = (origin[part] + total / torch.where(divisor == 0, 1, divisor)).to(base.dtype)
    return merged.view(base.shape)


def linear(models: list[torch.Tensor]) -> torch.Tensor:
    flat = [model.flatten() for model in models]
    merged = torch.empty_like(flat[0])
    for start in range(0, merged.numel(), TILE):
        part = slice(start, start + TILE)
        merged[part] = (sum(one[part].float() * WEIGHT for one in flat) / (WEIGHT * len(flat))).to(merged.dtype)
    return merged.view(models[0].shape)


def main() -> None:
    method, out, *labels = sys.argv[1:]
    begun = time.perf_counter()
    opened = {label: safe_open(Path(label) / "model.safetensors", "pt") for label in ("base", *labels)}
    merged = {}
    for name in opened["base"].keys():  # noqa: SIM118 - not a dict
        models = [opened[label].get_tensor(name) for label in labels]
        merged[name] = linear(models) if method == "linear" else ties(opened["base"].get_tensor(name), models)
    Path(out).mkdir()
    save_file(merged, Path(out) / "model.safetensors")
    print(json.dumps({"seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
