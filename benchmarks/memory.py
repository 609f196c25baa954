"""What a merge really allocates beside what its plan promised, for every method.
python benchmarks/memory.py FOLDER --size 0.25B
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

from families import SIZES, anonymous_mib, apart, llama_shapes, table, write_family

from mergec.ops.registry import methods

SETTINGS: dict[str, Any] = {"weight": 0.5, "density": 0.5, "t": 0.4, "iterations": 5}  # memory is that of one step


def recipes() -> dict[str, dict[str, Any]]:
    """A recipe for every method, with values for what has no default, and for a pass after a method."""
    made = {}
    for name, method in methods().items():
        given = {key: value for key, value in SETTINGS.items() if key in method.parameters}
        labels = "abc"[: method.models[1] or 3]
        base = {"base_model": "base"} if method.base == "origin" else {}
        models = [{"model": label} for label in labels]
        made[name] = {"merge_method": name, **base, "models": models, "parameters": given, "dtype": "bfloat16"}
    return {**made, "svc": {**made["task_arithmetic"], "post": ["svc"]}}


class Peak(threading.Thread):
    """Watches the process's anonymous memory until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_mib = self.most_mib = anonymous_mib()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            self.most_mib = max(self.most_mib, anonymous_mib())
            time.sleep(0.005)


def merge(path: Path, out: Path, limit: int | None) -> list[str]:
    """Plan and run a recipe; what was allocated, what was promised, their ratio, and the time, as text."""
    import torch

    import mergec

    plan = mergec.compile(path, max_memory_bytes=limit)
    torch.linalg.svd(torch.ones(8, 8))  # the runtime's own
    peak = Peak()
    peak.start()
    begun = time.perf_counter()
    plan.run(out, device="cpu", rebuild=True, force=True)
    seconds = time.perf_counter() - begun
    peak.ended.set()
    peak.join()
    used, promised = peak.most_mib - peak.start_mib, plan.memory.peak_bytes / 2**20
    kept = "" if used <= promised else "BROKEN"
    return [
        f"{used:.0f} MiB",
        f"{promised:.0f} MiB",
        f"{used / promised:.2f}",
        f"{seconds:.1f} s",
        kept,
    ]


def main() -> None:
    known = recipes()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the family is made, once, and the results go")
    parser.add_argument("--size", choices=SIZES, default="0.06B")
    parser.add_argument(
        "--max-memory", type=int, metavar="MIB", help="a ceiling, which whole-tensor methods may not fit"
    )
    parser.add_argument("--methods", nargs="*", choices=known, metavar="NAME", default=list(known))
    options = parser.parse_args()
    folder = options.folder / options.size
    apart(write_family, folder, llama_shapes(*SIZES[options.size]), "abc")
    limit = options.max_memory and options.max_memory << 20
    rows = []
    for name in options.methods:
        path = folder / f"{name}.yml"
        path.write_text(json.dumps(known[name], indent=2))
        rows.append([name, *apart(merge, path, folder / "out", limit)])
        print(*rows[-1], flush=True)
    print("\n".join(table(["method", "allocated", "promised", "ratio", "time", ""], rows)))


if __name__ == "__main__":
    main()
