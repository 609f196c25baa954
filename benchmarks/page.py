"""The page of docs/benchmarks.md and its plot, from the runs that speed.py has kept."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from families import SIZES, llama_shapes
from speed import MECHA, METHODS, RANDOM, Log, Run

RATIO_GOALS = {  # mergekit's time over mergec's: 0.25B, 1B
    "passthrough": (8, 8),
    "linear": (4, 5),
    "task_arithmetic": (4, 5),
    "slerp": (4, 6),
    "model_stock": (4, 6),
    "dare_linear": (10, 20),
    "dare_ties": (10, 20),
    **dict.fromkeys(("ties", "breadcrumbs", "sce", "della", "della_linear"), (18, 30)),
}
FLOOR_GOALS = {"linear": 2, "ties": 5}  # mergec's work over reading and writing, on 1B


def write_page(page: Path, log: Log) -> None:
    sizes = [size for size in SIZES if any(_usual(log, size, method, "mergec") for method in METHODS)]
    text = [_HEAD.format(machine=_machine(), plot=f"{page.stem}.png"), *(_section(size, log) for size in sizes)]
    page.write_text("\n".join([*text, *_floor(log), *_mecha(log), *_gpu(log), *_curves(log)]).rstrip() + "\n")
    _plot(page.with_suffix(".png"), log, sizes)


_HEAD = """\
# Benchmarks

Made by `python benchmarks/speed.py FOLDER --curves --write docs/benchmarks.md`; [the log](performance.md) says what was
tried to get here.

Whole commands under the clock, start-up and all, the tools in turns, medians over the turns. The models are Llama-
shaped, in bfloat16, a base and three fine-tunes (one for passthrough and slerp), in the page cache. *Memory* is the
most that no file backs at a time, beyond what Python with torch takes (for passthrough, which needs no torch:
Python). *Apart* is the share of entries more than one bfloat16 step from mergekit's, under `compat: mergekit`:
entries of equal magnitude, of which mergekit keeps any and mergec the first ones. Methods that draw random numbers
draw others.

{machine}

![mergekit's time over mergec's, by method and size]({plot})
"""
_FLOOR = """\
## Work beside the floor

The floor reads every input byte once and writes every output byte once; the work is what mergec counts from plan to
published result, digests, journal, syncs and checks included; torch is imported before.
"""

_MECHA = """\
## Beside sd-mecha

Its merges of the same models where it has the same: an average, sums of deltas, TIES with the sign of the sum. It keeps
every entry that equals the threshold of TIES, which tells the results apart.
"""
_GPU = """\
## On a GPU

Merges from disk to disk, gigabytes read and written once each, and the share of the time in which the GPU works at
all. Its arithmetic is that of the largest tensor in a run's tiles, from and to the GPU's memory, beside a copy
there.
"""


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mergekit"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} cores, {memory:.0f} GiB, computing on the processor"
    loops = "Loops had been compiled before, by `--compile on`.\n"
    loops += "`auto` compiles none for merges as small as 0.25B: with an empty cache they take longer."
    return f"{machine}; Python {platform.python_version()}, {packages}. {loops}"


def _of(runs: Iterable[Run], **wanted: object) -> list[Run]:
    wanted = {"models": None, "workers": 0, **wanted}
    return [run for run in runs if all(value is None or getattr(run, key) == value for key, value in wanted.items())]


def _median(runs: Sequence[Run], figure: str = "seconds") -> float:
    return statistics.median(getattr(run, figure) for run in runs)


def _usual(log: Log, size: str, method: str, tool: str) -> list[Run]:
    return _of(log.runs, size=size, method=method, tool=tool, models=len(METHODS[method][0]))


def _section(size: str, log: Log) -> str:
    entries = sum(_numel(shape) for shape in llama_shapes(*SIZES[size]).values())
    rows = [row for method in METHODS if (row := _row(size, method, log))]
    head = [
        "method",
        "mergec",
        "mergekit",
        "ratio",
        "goal",
        "CPU",
        "mergekit's",
        "memory",
        "mergekit's",
        "apart",
        "turns",
    ]
    title = f"## {size}: {entries / 1e9:.2f} billion entries, {2 * entries / 1e9:.1f} GB a model\n"
    return "\n".join([title, *markdown(head, rows), ""])


def _numel(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def _row(size: str, method: str, log: Log) -> list[str]:
    ours, theirs = (_usual(log, size, method, tool) for tool in ("mergec", "mergekit"))
    if not ours:
        return []
    runtime = log.facts["python" if method == "passthrough" else "torch"]
    memory = [_held(runs, runtime) for runs in (ours, theirs)]
    goals = dict(zip(("0.25B", "1B"), RATIO_GOALS[method], strict=True))
    ratio = _median(theirs) / _median(ours) if theirs else 0.0
    share = log.facts.get(f"{size} {method} apart")
    apart = "other draws" if method in RANDOM else f"{share:.3%}" if share is not None else ""
    goal = f"{goals[size]}" if size in goals else ""
    times = [f"{_median(runs):.1f} s" if runs else "" for runs in (ours, theirs)]
    cpu = [f"{_median(runs, 'cpu_seconds'):.1f} s" if runs else "" for runs in (ours, theirs)]
    turns = f"{len(ours)}, {len(theirs)}" if len(ours) != len(theirs) else str(len(ours))
    return [method, *times, f"{ratio:.1f}" if theirs else "", goal, *cpu, *memory, apart, turns]


def _held(runs: Sequence[Run], runtime: float) -> str:
    """The memory that runs took beyond the runtime's."""
    return f"{max(0.0, _median(runs, 'anonymous_mib') - runtime):,.0f} MiB" if runs else ""


def _floor(log: Log) -> list[str]:
    """What a merge takes beside the mere reading and writing of its bytes, and beside a script written by hand."""
    rows = []
    for size in SIZES:
        for method in METHODS:
            found = {tool: _usual(log, size, method, tool) for tool in ("mergec", "floor", "plain")}
            if not found["mergec"] or not found["floor"]:
                continue
            work, floor = _median(found["mergec"], "work_seconds"), _median(found["floor"], "work_seconds")
            plain = f"{_median(found['plain'], 'work_seconds'):.2f} s" if found["plain"] else ""
            goal = str(FLOOR_GOALS[method]) if size == "1B" and method in FLOOR_GOALS else ""
            rows.append([size, method, f"{floor:.2f} s", f"{work:.2f} s", f"{work / floor:.1f}", goal, plain])
    if not rows:
        return []
    head = ["size", "method", "floor", "mergec's work", "ratio", "goal", "plain torch script"]
    return [_FLOOR, *markdown(head, rows), ""]


def _mecha(log: Log) -> list[str]:
    """mergec beside sd-mecha, where both make the same merge."""
    rows = []
    for size in SIZES:
        for method in MECHA:
            ours, theirs = (_usual(log, size, method, tool) for tool in ("mergec", "sd-mecha"))
            if ours and theirs:
                share = log.facts.get(f"{size} {method} apart from sd-mecha")
                peaks = [_held(runs, log.facts["torch"]) for runs in (ours, theirs)]
                times = [f"{_median(runs):.1f} s" for runs in (ours, theirs)]
                ratio = f"{_median(theirs) / _median(ours):.1f}"
                rows.append([size, method, *times, ratio, *peaks, "" if share is None else f"{share:.3%}"])
    head = ["size", "method", "mergec", "sd-mecha", "ratio", "memory", "sd-mecha's", "apart"]
    return [_MECHA, *markdown(head, rows), ""] if rows else []


def _gpu(log: Log) -> list[str]:
    """What a GPU made of it, if there was one."""
    found = log.facts.get("gpu")
    if not found:
        return []
    head = ["size", "method", "device", "time", "GB/s", "device at work", "its arithmetic", "a copy", "share"]
    rows = [
        [
            *(one["size"], one["method"], one["device"], f"{one['seconds']:.1f} s"),
            f"{one['gigabytes'] / one['seconds']:.1f}",
            "" if one["kernel_share"] is None else f"{one['kernel_share']:.0%}",
            f"{one['chain']:,.0f} GB/s",
            f"{one['copy']:,.0f} GB/s",
            f"{one['chain'] / one['copy']:.0%}",
        ]
        for one in found
    ]
    return [_GPU, *markdown(head, rows), ""]


def _curves(log: Log) -> list[str]:
    runs = [run for run in log.runs if run.size == "0.06B" and run.tool == "mergec"]
    lines = []
    models = sorted({run.models for run in runs if run.method == "ties" and not run.workers})
    if len(models) > 1:
        rows = [
            [method, *(f"{_median(_of(runs, method=method, models=number)):.1f} s" for number in models)]
            for method in ("linear", "ties")
        ]
        lines += ["## More models (0.06B)\n", *markdown(["models", *map(str, models)], rows), ""]
    workers = sorted({run.workers for run in runs if run.workers})
    if workers:
        rows = [
            [method, *(f"{_median(_of(runs, method=method, workers=number)):.1f} s" for number in workers)]
            for method in ("linear", "ties")
        ]
        lines += ["## More workers (0.06B)\n", *markdown(["workers", *map(str, workers)], rows), ""]
    return [*lines, *_planned(log)]


def _planned(log: Log) -> list[str]:
    """What it takes to plan more and more tensors."""
    runs = [run for run in log.runs if run.tool == "check"]
    rows = []
    for count in sorted({int(run.size) for run in runs}):
        some = [run for run in runs if run.size == str(count)]
        rows.append([f"{count:,}", f"{_median(some):.2f} s", f"{_median(some, 'peak_mib'):,.0f} MiB"])
    head = ["tensors", "`mergec check`, three models", "peak"]
    return ["## More tensors, planned only\n", *markdown(head, rows), ""] if rows else []


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _plot(path: Path, log: Log, sizes: Sequence[str]) -> None:
    """Ratios by method, a bar per size; the goals of 0.25B and 1B as marks."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    sizes = [size for size in sizes if any(_usual(log, size, method, "mergekit") for method in METHODS)]
    shown = [method for method in METHODS if any(_usual(log, size, method, "mergekit") for size in sizes)]
    figure, axes = pyplot.subplots(figsize=(9, 4), dpi=110, facecolor="white")
    for position, size in enumerate(sizes):
        at = [number + (position - (len(sizes) - 1) / 2) * 0.26 for number in range(len(shown))]
        pairs = [[_usual(log, size, method, tool) for tool in ("mergekit", "mergec")] for method in shown]
        ratios = [_median(theirs) / _median(ours) if theirs and ours else 0 for theirs, ours in pairs]
        axes.bar(at, ratios, width=0.24, label=size)
        if size in ("0.25B", "1B"):
            goals = [RATIO_GOALS[method][size == "1B"] for method in shown]
            axes.scatter(at, goals, marker="_", s=120, color="black", zorder=3, label="goal" if size == "1B" else None)
    axes.set_xticks(range(len(shown)), shown, rotation=30, ha="right")
    axes.set_ylabel("mergekit's time / mergec's time")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
