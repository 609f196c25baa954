"""Compiled: chains as loops in shared libraries, kept in the user's cache folder, made beside a merge where they pay.

A library is found by a digest of the chain's text, of the ops' code, of torch and of the processor. Since it is code,
it is taken only from a folder that nobody else can write to, and what it makes first is compared, bit by bit, with
what torch's own kernels make of the same entries.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mergec.errors import UsageError
from mergec.execute.chain import TILE, Chain, Stage, function, stages
from mergec.execute.evaluate import Load, apply_node, input_span, sweep
from mergec.graph import Node, walk
from mergec.io.digests import cache_folder
from mergec.ops.fused import FORMS, LEAVES, Numbers, streams
from mergec.ops.op import Reducer, Tile
from mergec.ops.pool import Part
from mergec.ops.random import BLOCK
from mergec.ops.tree import LEAF
from mergec.plan import Kind, Output, Plan, Step

if TYPE_CHECKING:
    from torch import Tensor

Compile: TypeAlias = Literal["auto", "on", "off"]
_START_SECONDS, _CHAIN_SECONDS = 6.0, 3.0  # what compiling takes of one core
_WORTH = 3  # compile where it saves so many times what it takes
_PACKAGE = Path(__file__).parents[1]
_SMALLEST = 1 << 16  # entries of a tensor
_HELD = ("part", "table", "bits")  # inputs that have not one value per entry


class Loops:
    """A loaded library: the loops of one chain."""

    def __init__(self, path: Path, chain: Chain) -> None:
        library = ctypes.CDLL(str(path))
        self._run = library.chain_run
        self._run.restype = None
        library.chain_scratch.restype = ctypes.c_int64
        self.scratch_bytes = int(library.chain_scratch())
        self._text = chain.text
        self._is_checked = False
        self.is_sound = True

    def __call__(self, sources: Sequence[Tensor], numbers: Numbers, results: Sequence[Tensor], scratch: Tensor) -> None:
        """Fill the results from the sources."""
        import torch

        real = torch.float64 if '"real": "float64"' in self._text else torch.float32
        reals = torch.tensor(numbers.reals or (0.0,), dtype=real)
        whole = torch.tensor((0, *numbers.whole), dtype=torch.int32)
        count = sources[0].numel() // TILE
        steps = [one.element_size() * TILE for one in sources] + [0, 0]
        steps += [one.numel() * one.element_size() // count for one in results] + [0]
        given = [*sources, reals, whole, *results, scratch]
        pointers = (ctypes.c_void_p * len(given))(*(one.data_ptr() for one in given))
        strides = (ctypes.c_int64 * len(given))(*steps)
        self._run(pointers, strides, ctypes.c_int64(count), ctypes.c_int64(TILE))
        if not self._is_checked:
            self._check(sources, reals, whole, results)

    def _check(self, sources: Sequence[Tensor], reals: Tensor, whole: Tensor, results: Sequence[Tensor]) -> None:
        """Compare what was made with what torch's kernels make, which is what stays if it is something else."""
        import torch

        for number in range(sources[0].numel() // TILE):
            whole[0] = number * TILE
            pieces = [one[number * TILE : (number + 1) * TILE] for one in sources]
            for expected, result in zip(function(self._text)(*pieces, reals, whole), results, strict=True):
                made = result.view(-1)[number * expected.numel() : (number + 1) * expected.numel()]
                expected = expected.contiguous().view(-1)
                if not torch.equal(expected.view(torch.uint8), made.view(torch.uint8)):
                    self.is_sound = False
                    made.copy_(expected)
        self._is_checked = True


class Program:
    """A pass of a kind with its chains compiled."""

    def __init__(self, made: Sequence[Stage], loops: Mapping[str, Loops], kind: Kind, nodes: Sequence[Node]) -> None:
        import torch

        self._stages, self._nodes, self._row = made, nodes, kind.row
        self._loops = loops
        scratch = max(loops[stage.chain.text].scratch_bytes for stage in made if stage.chain)
        self._scratch = torch.empty(scratch, dtype=torch.uint8)

    def cut(self, tile: Tile) -> Iterator[Tile]:
        """A tile in pieces: as many entries as the loops take at once, then what is left over."""
        start = tile.start
        while start < tile.stop:
            edge = min(tile.stop, (start // BLOCK + 1) * BLOCK)
            unit = _together(self._row)
            stop = start + (edge - start) // unit * unit
            stop = stop if stop > start else tile.stop
            yield Tile(tile.name, start, stop, tile.row, tile.device)
            start = stop

    def takes(self, tile: Tile) -> bool:
        entries = tile.stop - tile.start
        same_block = tile.start // BLOCK == (tile.stop - 1) // BLOCK
        is_sound = all(self._loops[stage.chain.text].is_sound for stage in self._stages if stage.chain)
        return is_sound and entries % TILE == 0 and tile.start % LEAF == 0 and same_block

    def sweep(
        self,
        steps: Sequence[Step],
        nodes: Sequence[Node],
        tile: Tile,
        load: Load,
        scalars: dict[int, tuple[float, ...]],
        held: dict[int, Any],
        taken: Sequence[Mapping[int, Reducer | Part]],
    ) -> Any:
        """One tile through the pass, as `evaluate.sweep` does it."""
        if not self.takes(tile):
            return sweep(steps, nodes, tile, load, scalars, held, taken)
        live: dict[int, Any] = {}
        value: Any = None
        for stage in self._stages:
            if stage.chain:
                value = self._fused(stage.chain, tile, load, scalars, live, taken)
            for index in stage.then:
                node = self._nodes[index]
                inputs = [
                    scalars[one.index] if one.type.space == "scalar" else self._value(one, tile, load, live)
                    for one in node.inputs
                ]
                value = live[index] = apply_node(node, inputs, tile, taken)
        return value

    def _value(self, node: Node, tile: Tile, load: Load, live: dict[int, Any]) -> Any:
        if node.index not in live:
            live[node.index] = load(node.attr("slot"), *input_span(node, tile))
        return live[node.index]

    def _fused(
        self,
        chain: Chain,
        tile: Tile,
        load: Load,
        scalars: dict[int, tuple[float, ...]],
        live: dict[int, Any],
        taken: Sequence[Mapping[int, Reducer | Part]],
    ) -> Any:
        import torch

        sources = [self._value(self._nodes[index], tile, load, live) for index in chain.sources]
        entries = tile.stop - tile.start
        results = [_room(self._nodes[index], entries) for index in chain.results]
        numbers = _numbers([self._nodes[index] for index in chain.body], scalars, tile)
        self._loops[chain.text](sources, numbers, results, self._scratch)
        for index, result in zip(chain.results, results, strict=True):
            if self._nodes[index].op not in LEAVES:
                live[index] = result
                continue
            for takers in taken:
                taker = takers.get(index)
                if isinstance(taker, Reducer):
                    taker.take_leaves(torch.cat(tuple(result), dim=1))
        return results[-1]


@cache
def _together(row: int) -> int:
    from math import lcm

    return lcm(TILE, row)


def _room(node: Node, entries: int) -> Tensor:
    import torch

    if node.op in LEAVES:
        return torch.empty(entries // TILE, streams(node), TILE // LEAF, dtype=torch.float64)
    return torch.empty(entries, dtype=getattr(torch, node.type.dtype))


def _numbers(body: Iterable[Node], scalars: Mapping[int, tuple[float, ...]], tile: Tile) -> Numbers:
    reals: list[float] = []
    whole: list[int] = []
    for node in body:
        values = [scalars[one.index] for one in node.inputs if one.type.space == "scalar"]
        found = FORMS[node.op].numbers(node, values, tile)
        reals += found.reals
        whole += found.whole
    return Numbers(tuple(reals), tuple(whole))


class Compiler:
    """The chains of a plan: those compiled before, and those that are being compiled in a process beside the merge."""

    def __init__(self, plan: Plan, outputs: Sequence[Output], mode: Compile, device: Any) -> None:
        self._plan = plan
        self._stages: dict[tuple[int, int], tuple[Stage, ...]] = {}
        self._loops: dict[str, Loops] = {}
        self._missing: dict[str, Chain] = {}
        self._process: subprocess.Popen[str] | None = None
        self._folder: Path | None = None
        is_here = getattr(device, "type", "cpu") == "cpu"
        if mode == "on" and not (is_here and has_compiler()):
            raise UsageError("E510", f"nothing can be compiled here: {_why_not(is_here)}", "use --compile auto or off")
        if mode == "off" or not is_here:
            return
        self._folder = private_folder(mode)
        if self._folder is None:
            return
        self._find(outputs, self._folder)
        if self._missing and has_compiler() and (mode == "on" or self._pays(outputs)):
            self._start()
        if mode == "on":
            self._wait()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()

    def program(self, kind: int, number: int) -> Program | None:
        """The compiled form of a pass of a kind, as far as there is one by now."""
        made = self._stages.get((kind, number))
        chains = [stage.chain for stage in made or () if stage.chain]
        if not made or not all(self._found(chain) for chain in chains):
            return None
        return Program(made, self._loops, self._plan.kinds[kind], self._plan.nodes)

    def _found(self, chain: Chain) -> bool:
        if chain.text in self._loops:
            return True
        if self._folder is None or not _is_ours(self._folder / f"{key_of(chain.text)}.so"):
            return False
        with suppress(OSError, AttributeError):
            self._loops[chain.text] = Loops(self._folder / f"{key_of(chain.text)}.so", chain)
        return chain.text in self._loops

    def _find(self, outputs: Sequence[Output], folder: Path) -> None:
        for number in {output.kind for output in outputs}:
            kind = self._plan.kinds[number]
            if any(node.type.space in _HELD for node in walk(self._plan.root(kind))):
                continue
            if kind.kind_class in ("copy", "whole") or kind.entries < _SMALLEST or _together(kind.row) > kind.entries:
                continue
            for position, steps in enumerate(kind.passes):
                made = stages(steps, self._plan.nodes)
                self._stages[number, position] = made
                for chain in (stage.chain for stage in made if stage.chain):
                    if not self._found(chain) and not (folder / f"{key_of(chain.text)}.no").exists():
                        self._missing[chain.text] = chain

    def _saved_seconds(self, outputs: Sequence[Output]) -> float:
        per_entry: dict[int, float] = {}
        for (kind, _), made in self._stages.items():
            for chain in (stage.chain for stage in made if stage.chain and stage.chain.text in self._missing):
                saved = sum(FORMS[self._plan.nodes[index].op].nanoseconds for index in chain.body)
                per_entry[kind] = per_entry.get(kind, 0.0) + saved
        total = sum(per_entry.get(output.kind, 0.0) * output.numel for output in outputs)
        return total * 1e-9 / self._plan.memory.workers

    def _pays(self, outputs: Sequence[Output]) -> bool:
        """Whether compiling saves several times what it takes; it takes memory too, so never under a limit."""
        takes = _START_SECONDS + _CHAIN_SECONDS * len(self._missing)
        return self._plan.memory.limit_bytes is None and self._saved_seconds(outputs) > _WORTH * takes

    def _start(self) -> None:
        place = str(_PACKAGE.parent)
        code = f"import sys; sys.path[0] = {place!r}; from mergec.execute.inductor import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # so that it can be stopped with the compilers it has started
        )
        stream = self._process.stdin
        assert stream is not None
        with suppress(BrokenPipeError):
            for text in self._missing:
                stream.write(json.dumps({"key": key_of(text), "text": text}) + "\n")
            stream.close()

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait()


def has_compiler() -> bool:
    """Whether the system has the C++ compiler that torch would call."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is not None


def _why_not(is_here: bool) -> str:
    return "there is no C++ compiler" if is_here else "loops are compiled for the processor only"


def private_folder(mode: Compile) -> Path | None:
    """The folder of libraries, made if need be; none where others could write to it, or with `on` UsageError (E511)."""
    folder = cache_folder() / "loops"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(folder) and stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0:
            return folder
    if mode == "on":
        raise UsageError("E511", f"{folder} is not a folder of this user alone", "remove it, or set MERGEC_CACHE")
    return None


def _is_ours(path: Path) -> bool:
    """Whether a file or folder is there, is no link, and is this user's."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == os.geteuid()


@cache
def key_of(text: str) -> str:
    """The name of a chain's library."""
    return hashlib.sha256(f"{text}\n{_machine()}".encode()).hexdigest()[:32]


@cache
def _machine() -> str:
    """What compiled code depends on beside the chain: the ops, torch, the processor."""
    import torch

    digest = hashlib.sha256()
    for path in sorted([*_PACKAGE.glob("ops/*.py"), _PACKAGE / "execute/chain.py", _PACKAGE / "execute/inductor.py"]):
        digest.update(path.read_bytes())
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        digest.update(next((line for line in lines if line.startswith(("flags", "Features"))), "").encode())
    return f"{digest.hexdigest()} {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {os.uname().machine}"
