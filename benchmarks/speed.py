"""Whole merges under the clock: mergec, mergekit and a plain torch script in turns, beside reading and writing.
python benchmarks/speed.py FOLDER --write docs/benchmarks.md

What was measured is kept, a line each, in FOLDER/speed.jsonl: a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from families import (
    SIZES,
    apart,
    experts_shapes,
    llama_shapes,
    measure,
    mergec,
    recipe,
    write_family,
    write_headers,
)

from mergec.execute.compiled import has_compiler

METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "passthrough": ("a", {}),
    "linear": ("abc", {"weight": 0.5}),
    "task_arithmetic": ("abc", {"weight": 0.5}),
    "slerp": ("a", {"t": 0.4}),
    "model_stock": ("abc", {}),
    "dare_linear": ("abc", {"weight": 0.5, "density": 0.5}),
    "dare_ties": ("abc", {"weight": 0.5, "density": 0.5}),
    "ties": ("abc", {"weight": 0.5, "density": 0.5}),
    "breadcrumbs": ("abc", {"weight": 0.5, "density": 0.5, "gamma": 0.01}),
    "sce": ("abc", {"select_topk": 0.5}),
    "della": ("abc", {"weight": 0.5, "density": 0.5, "epsilon": 0.1}),
    "della_linear": ("abc", {"weight": 0.5, "density": 0.5, "epsilon": 0.1}),
}
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
PLAIN = ("linear", "ties")  # what benchmarks/plain.py can do
MECHA = ("linear", "task_arithmetic", "ties")  # what benchmarks/mecha.py can do
LABELS = "abcdefgh"
LAYERS, EXPERTS = 60, (1, 5, 55, 555)  # of mixtures that are planned only
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """One run of a whole command; `work_seconds` are those that mergec counts itself, from plan to published result.

    `anonymous_mib` is the most memory at a time that no file backs; `load` the machine's load before the run.
    """

    size: str
    method: str
    tool: str
    turn: int
    seconds: float
    cpu_seconds: float
    anonymous_mib: float
    peak_mib: float
    load: float
    work_seconds: float = 0.0
    models: int = 3
    workers: int = 0


class Log:
    """The runs of a folder, kept as they are made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self.runs: list[Run] = []
        for line in path.read_text().splitlines() if path.exists() else []:
            entry = json.loads(line)
            if "fact" in entry:
                self.facts[entry["fact"]] = entry["value"]
            else:
                self.runs.append(Run(**entry))

    def has(self, **wanted: Any) -> bool:
        return any(all(getattr(run, key) == value for key, value in wanted.items()) for run in self.runs)

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self._append(asdict(run))
        print(f"{run.size} {run.method} {run.tool}: {run.seconds:.1f} s", file=sys.stderr, flush=True)

    def note(self, fact: str, value: Any) -> None:
        self.facts[fact] = value
        self._append({"fact": fact, "value": value})

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


@dataclass(frozen=True)
class Family:
    """A base and fine-tunes of it in a folder, where merges of them are timed."""

    folder: Path
    size: str
    log: Log
    mecha: Path | None = None
    """The Python that has sd-mecha."""
    compiled: set[tuple[str, ...]] = field(default_factory=set)
    made: dict[str, list[str]] = field(default_factory=dict)
    """The command that made what lies in each tool's folder, as far as it was run now."""

    def command(self, tool: str, method: str, labels: str, workers: int) -> list[str]:
        name = f"{method}-{len(labels)}.yml"
        text = recipe(method, labels, METHODS[method][1], base=method not in ("passthrough", "linear"))
        (self.folder / name).write_text(text)
        if tool == "mergec":
            more = ["--workers", str(workers)] if workers else []
            return mergec("run", name, "mergec", "--json", "--rebuild", *more)
        if tool == "mergekit":
            program = str(Path(sys.executable).with_name("mergekit-yaml"))
            return [program, name, "mergekit", "--no-write-model-card", "--no-copy-tokenizer"]
        script = {"plain": "plain.py", "floor": "floor.py", "sd-mecha": "mecha.py"}[tool]
        python = str(self.mecha) if tool == "sd-mecha" else sys.executable
        return [python, str(HERE / script), method, tool, *labels]

    def time(self, tool: str, method: str, turn: int, labels: str = "", workers: int = 0) -> None:
        """One run of a tool, unless the log has it."""
        labels = labels or METHODS[method][0]
        which = {"size": self.size, "method": method, "tool": tool, "turn": turn}
        if self.log.has(**which, models=len(labels), workers=workers):
            return
        command = self.command(tool, method, labels, workers)
        if tool == "mergec" and method != "passthrough" and has_compiler():
            self.compile_loops(command)
        shutil.rmtree(self.folder / tool, ignore_errors=True)
        load = os.getloadavg()[0]
        found = measure(command, self.folder)
        self.made[tool] = command
        last = found.output.strip().rpartition("\n")[2]
        work = json.loads(last)["seconds"] if tool != "mergekit" else 0.0
        figures = (found.seconds, found.cpu_seconds, found.anonymous_mib, found.peak_mib, load, work)
        self.log.add(Run(*which.values(), *figures, len(labels), workers))

    def compile_loops(self, command: Sequence[str]) -> None:
        """Have the loops of a merge compiled, once: the next runs find them."""
        if tuple(command) not in self.compiled:
            self.compiled.add(tuple(command))
            measure([*command, "--compile", "on"], self.folder)

    def compare(self, method: str) -> None:
        """How far mergec's result is from the peer's when it is asked for the peer's arithmetic."""
        fact = f"{self.size} {method} apart"
        labels = METHODS[method][0]
        if fact in self.log.facts or self.made.get("mergekit") != self.command("mergekit", method, labels, 0):
            return
        path = self.folder / f"{method}-compat.yml"
        text = recipe(method, METHODS[method][0], METHODS[method][1], base=method not in ("passthrough", "linear"))
        path.write_text(json.dumps({**json.loads(text), "compat": "mergekit"}))
        shutil.rmtree(self.folder / "compat", ignore_errors=True)
        measure(mergec("run", path.name, "compat", "--quiet"), self.folder)
        self.log.note(fact, apart(share_apart, self.folder / "compat", self.folder / "mergekit"))

    def compare_mecha(self, method: str) -> None:
        """How far mergec's result is from sd-mecha's."""
        fact = f"{self.size} {method} apart from sd-mecha"
        ours, theirs = (self.command(tool, method, METHODS[method][0], 0) for tool in ("mergec", "sd-mecha"))
        if fact in self.log.facts or self.made.get("sd-mecha") != theirs:
            return
        if self.made.get("mergec") != ours:  # its runs were kept by an earlier call
            measure(ours, self.folder)
            self.made["mergec"] = ours
        self.log.note(fact, apart(share_apart, self.folder / "mergec", self.folder / "sd-mecha"))


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


def made(folder: Path, size: str, log: Log, labels: str = "abc", mecha: Path | None = None) -> Family:
    apart(write_family, folder / size, llama_shapes(*SIZES[size]), labels)
    return Family(folder / size, size, log, mecha)


def side_by_side(family: Family, methods: Sequence[str], turns: int, tools: Sequence[str]) -> None:
    """The tools in turns, method by method."""
    for method in methods:
        fit = [tool for tool in tools if method in {"plain": PLAIN, "sd-mecha": MECHA}.get(tool, METHODS)]
        for turn in range(turns):
            for tool in fit:
                family.time(tool, method, turn)
        if method not in RANDOM:
            family.compare(method)
        if "sd-mecha" in fit:
            family.compare_mecha(method)


def curves(folder: Path, log: Log, turns: int) -> Iterator[Callable[[], None]]:
    """What a merge costs as models and workers become more; sizes are in the tables."""
    family = made(folder, "0.06B", log, LABELS)
    for method in PLAIN:
        for turn in range(turns):
            for number in range(2, len(LABELS) + 1, 2):
                yield lambda m=method, t=turn, n=number: family.time("mergec", m, t, LABELS[:n])  # type: ignore[misc]
            for workers in range(1, (os.cpu_count() or 1) + 1):
                yield lambda m=method, t=turn, w=workers: family.time("mergec", m, t, "abc", w)  # type: ignore[misc]


def planned(folder: Path, log: Log, turns: int) -> None:
    """What it takes to plan mixtures of more and more tensors, from headers alone."""
    for experts in EXPERTS:
        shapes = experts_shapes(LAYERS, experts)
        place, which = folder / f"experts-{experts}", {"size": f"{len(shapes)}", "method": "ties", "tool": "check"}
        for label in ("base", "a", "b"):
            if not (place / label / "config.json").exists():
                write_headers(place / label, shapes, per_shard=5000)
        (place / "ties.yml").write_text(recipe("ties", "ab", {"weight": [0.2, 0.8], "density": 0.5}))
        for turn in range(turns):
            if not log.has(**which, turn=turn):
                load = os.getloadavg()[0]
                found = measure(mergec("check", "ties.yml"), place)
                figures = (found.seconds, found.cpu_seconds, found.anonymous_mib, found.peak_mib, load)
                log.add(Run(*which.values(), turn, *figures, models=2))


def baseline(log: Log) -> None:
    """Anonymous memory of the runtime alone: Python with this package, and with torch."""
    for fact, imports in (("python", "import mergec.cli.main"), ("torch", "import mergec.cli.main, torch")):
        if fact not in log.facts:
            code = f"{imports}\nimport time; time.sleep(0.2)"
            log.note(fact, measure([sys.executable, "-c", code], log.path.parent).anonymous_mib)


def on_gpu(folder: Path, log: Log, sizes: Sequence[str]) -> None:
    """Merges on the GPU, if there is one, in a process of their own."""
    import gpu

    if "gpu" not in log.facts and apart(gpu.has_gpu):
        log.note("gpu", apart(gpu.all_measured, folder, sizes, "cuda:0"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where families are made, once, and results go")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["0.06B", "0.25B", "1B"])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tools", nargs="*", default=["floor", "mergec", "mergekit", "plain"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--curves", action="store_true", help="scaling over models, workers, tensors too")
    parser.add_argument("--sd-mecha", type=Path, metavar="PYTHON", help="a Python that has sd-mecha, to time it too")
    parser.add_argument(
        "--gpu-sizes", nargs="*", choices=SIZES, default=["1B"], help="families for a GPU, if there is one"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page and its plot from all that is kept")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    log = Log(options.folder / "speed.jsonl")
    baseline(log)
    tools = [*options.tools, *(["sd-mecha"] if options.sd_mecha else [])]
    for size in options.sizes:
        family = made(options.folder, size, log, mecha=options.sd_mecha)
        side_by_side(family, options.methods, options.turns, tools)
    for one in curves(options.folder, log, options.turns) if options.curves else ():
        one()
    if options.curves:
        planned(options.folder, log, options.turns)
    on_gpu(options.folder, log, options.gpu_sizes)
    if options.write:
        from page import write_page

        write_page(options.write, log)


if __name__ == "__main__":
    main()
