"""The merges of sd-mecha that mergec makes too, run by a Python that has sd-mecha.
PYTHON benchmarks/mecha.py METHOD OUT LABEL... (called by speed.py, in the folder of a family)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import sd_mecha
import torch

WEIGHT, DENSITY = 0.5, 0.5


def main() -> None:
    method, out, *labels = sys.argv[1:]
    begun = time.perf_counter()
    base, *models = [sd_mecha.model(Path(label) / "model.safetensors") for label in ("base", *labels)]
    if method == "linear":
        merged = sd_mecha.n_average(*models)
    elif method == "task_arithmetic":
        merged = base
        for model in models:
            merged = merged + (model - base) * WEIGHT
    else:
        merged = base + sd_mecha.ties_sum(*(model - base for model in models), k=DENSITY, vote_sgn=True)
    Path(out).mkdir()
    settings = {"merge_dtype": torch.float32, "output_dtype": torch.bfloat16, "merge_device": "cpu"}
    sd_mecha.merge(merged, output=Path(out) / "model.safetensors", tqdm=_silent, **settings)
    print(json.dumps({"seconds": time.perf_counter() - begun}))


def _silent(*arguments: object, **settings: object) -> object:
    from tqdm import tqdm

    return tqdm(*arguments, **{**settings, "disable": True})


if __name__ == "__main__":
    main()
