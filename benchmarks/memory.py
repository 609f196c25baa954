"""What a merge of 1 GB models really allocates under --max-memory 512MiB, beside what its plan promised."""

from __future__ import annotations

import argparse
import re
import threading
import time
from pathlib import Path

from families import apart, llama_shapes, recipe, table, write_family

LIMIT = 512 << 20
METHODS = {
    "linear": {"weight": 0.5},
    "ties": {"weight": 0.5, "density": 0.5},
    "della": {"weight": 0.5, "density": 0.5, "epsilon": 0.1},
    "model_stock": {},
}


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]


class Peak(threading.Thread):
    """Watches the process's anonymous memory until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.most_bytes = anonymous_bytes()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            self.most_bytes = max(self.most_bytes, anonymous_bytes())
            time.sleep(0.005)


def merge(path: Path, out: Path) -> list[str]:
    """Plan and run a recipe; what was allocated, what was promised, and the time, as text."""
    import torch

    import mergec

    plan = mergec.compile(path, max_memory_bytes=LIMIT)
    torch.ones(8).sum()  # the runtime's own
    peak = Peak()
    peak.start()
    begun = time.perf_counter()
    plan.run(out, device="cpu")
    seconds = time.perf_counter() - begun
    peak.ended.set()
    peak.join()
    used, promised = peak.most_bytes - peak.start_bytes, plan.memory.peak_bytes
    return [f"{used / 2**20:.0f} MiB", f"{promised / 2**20:.0f} MiB", f"{seconds:.1f} s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the family is made, once (4 GB), and the results go")
    folder = parser.parse_args().folder
    apart(write_family, folder, llama_shapes(8, 2048, 6144, 32000, 512), "abc")
    rows = []
    for method, settings in METHODS.items():
        path = folder / f"{method}.yml"
        path.write_text(recipe(method, "abc", settings, base=method != "linear"))
        rows.append([method, *apart(merge, path, folder / "out")])
    print("\n".join(table(["method", "allocated", "promised", "time"], rows)))


if __name__ == "__main__":
    main()
