"""The floor under a merge: every byte of its inputs is read once, and as many as its result has are written once.
python benchmarks/floor.py METHOD OUT LABEL... (called by speed.py, in the folder of a family)
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

BLOCK = 1 << 22


def main() -> None:
    method, out, *labels = sys.argv[1:]
    inputs = [*labels, *([] if method in ("passthrough", "linear") else ["base"])]
    begun = time.perf_counter()
    block = bytearray(BLOCK)
    for label in inputs:
        with open(Path(label) / "model.safetensors", "rb", buffering=0) as stream:
            while stream.readinto(block):
                pass
    Path(out).mkdir()
    left = (Path(labels[0]) / "model.safetensors").stat().st_size
    with open(Path(out) / "model.safetensors", "wb", buffering=0) as stream:
        while left > 0:
            left -= stream.write(memoryview(block)[: min(left, BLOCK)])
        os.fsync(stream.fileno())
    print(json.dumps({"seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
