"""mergec and mergekit merge the same family in turns, whole commands under the clock; their results are compared."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from families import SIZES, Measured, apart, llama_shapes, measure, median, mergec, recipe, table, write_family

METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "passthrough": ("a", {}),
    "linear": ("abc", {"weight": 0.5}),
    "task_arithmetic": ("abc", {"weight": 0.5}),
    "slerp": ("a", {"t": 0.4}),
    "model_stock": ("abc", {}),
    "ties": ("abc", {"weight": 0.5, "density": 0.5}),
    "breadcrumbs": ("abc", {"weight": 0.5, "density": 0.5, "gamma": 0.01}),
    "dare_ties": ("abc", {"weight": 0.5, "density": 0.5}),
    "della": ("abc", {"weight": 0.5, "density": 0.5, "epsilon": 0.1}),
}
RANDOM = ("dare_ties", "della")


def share_apart(ours: Path, theirs: Path) -> float:
    """The share of all entries that are more than one bfloat16 step apart."""
    import torch
    from safetensors import safe_open

    def steps(values: torch.Tensor) -> torch.Tensor:
        """Numbers one apart for neighbouring values."""
        bits = values.view(torch.int16).int()
        return torch.where(bits < 0, -32768 - bits, bits)

    entries = found = 0
    with safe_open(ours / "model.safetensors", "pt") as left, safe_open(theirs / "model.safetensors", "pt") as right:
        assert set(left.keys()) == set(right.keys())
        for name in left.keys():  # noqa: SIM118 - not a dict
            difference = steps(left.get_tensor(name)) - steps(right.get_tensor(name))
            entries += difference.numel()
            found += int((difference.abs() > 1).sum())
    return found / entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the family is made, once, and the results go")
    parser.add_argument("--size", choices=SIZES, default="0.06B")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    folder = options.folder / options.size
    apart(write_family, folder, llama_shapes(*SIZES[options.size]), "abc")
    peer = [str(Path(sys.executable).with_name("mergekit-yaml"))]
    rows = []
    for method in options.methods:
        labels, settings = METHODS[method]
        path = folder / f"{method}.yml"
        path.write_text(recipe(method, labels, settings, base=method not in ("passthrough", "linear")))
        ours: list[Measured] = []
        theirs: list[Measured] = []
        for _ in range(options.repeats):
            shutil.rmtree(folder / "ours", ignore_errors=True)
            ours.append(measure(mergec("run", path.name, "ours", "--quiet"), folder))
            shutil.rmtree(folder / "theirs", ignore_errors=True)
            theirs.append(measure([*peer, path.name, "theirs", "--no-write-model-card", "--no-copy-tokenizer"], folder))
        rows.append([method, *_figures(median(ours), median(theirs)), _apart(method, folder)])
        print(rows[-1], file=sys.stderr, flush=True)
    head = ["method", "mergec", "mergekit", "time ratio", "peak", "peer's peak", "entries apart"]
    print("\n".join(table(head, rows)))


def _figures(ours: Measured, theirs: Measured) -> list[str]:
    ratio = theirs.seconds / ours.seconds
    memory = [f"{ours.peak_mib:,.0f} MiB", f"{theirs.peak_mib:,.0f} MiB"]
    return [f"{ours.seconds:.1f} s", f"{theirs.seconds:.1f} s", f"{ratio:.1f}", *memory]


def _apart(method: str, folder: Path) -> str:
    """How far the results are apart when mergec is asked for the peer's arithmetic; random methods draw differently."""
    if method in RANDOM:
        return "other draws"
    path = folder / f"{method}-compat.yml"
    path.write_text(json.dumps({**json.loads((folder / f"{method}.yml").read_text()), "compat": "mergekit"}))
    shutil.rmtree(folder / "ours", ignore_errors=True)
    measure(mergec("run", path.name, "ours", "--quiet"), folder)
    return f"{apart(share_apart, folder / 'ours', folder / 'theirs'):.3%}"


if __name__ == "__main__":
    main()
