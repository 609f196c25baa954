"""Compiled: libraries of loops, kept in the user's cache folder, and made beside a merge where they pay.

A library is found by a digest of the chain's text, of the ops' code, of torch and of the processor. Since it is code,
it is taken only from a folder that nobody else can write to, and some of what it makes first is compared, bit by bit,
with what torch's own kernels make of the same entries.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mergec.errors import UsageError, count, remark
from mergec.execute.chain import Chain, Stage, stages
from mergec.execute.loops import Loops, Program, together
from mergec.graph import PER_ENTRY, walk
from mergec.io.digests import cache_folder
from mergec.ops.fused import FORMS
from mergec.plan import Output, Plan

Compile: TypeAlias = Literal["auto", "on", "off"]
_START_SECONDS, _CHAIN_SECONDS = 6.0, 3.0  # what compiling takes of one core
_WORTH = 2  # compile where it saves so many times what it takes; it takes memory too, so never under a limit
_NOTABLE_SECONDS = 1.0
_PACKAGE = Path(__file__).parents[1]
_SMALLEST = 1 << 16  # entries of a tensor


class Compiler:
    """The chains of a plan: those compiled before, and those that are being compiled in a process beside the merge."""

    def __init__(self, plan: Plan, outputs: Sequence[Output], mode: Compile, device: Any) -> None:
        self._plan = plan
        self._stages: dict[tuple[int, int], tuple[Stage, ...]] = {}
        self._loops: dict[str, Loops] = {}
        self._missing: dict[str, Chain] = {}
        self._process: subprocess.Popen[str] | None = None
        self._folder: Path | None = None
        self.remarks: tuple[str, ...] = ()
        is_here = getattr(device, "type", "cpu") == "cpu"
        if mode == "on" and not (is_here and has_compiler()):
            raise UsageError("E510", f"nothing can be compiled here: {_why_not(is_here)}", "use --compile auto or off")
        if mode == "off" or not is_here:
            return
        self._folder = private_folder(mode)
        if self._folder is None:
            return
        self._find(outputs, self._folder, retries=mode == "on")
        if self._missing and has_compiler():
            saved, takes = self._saved_seconds(outputs), _START_SECONDS + _CHAIN_SECONDS * len(self._missing)
            if mode == "on" or (plan.memory.limit_bytes is None and saved > _WORTH * takes):
                self._start()
            elif saved > _NOTABLE_SECONDS:
                self.remarks = (_advice(saved, takes),)
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

    def _find(self, outputs: Sequence[Output], folder: Path, *, retries: bool) -> None:
        """Cut the passes that are long enough, and note the chains without a library."""
        for number in {output.kind for output in outputs}:
            kind = self._plan.kinds[number]
            if any(node.type.space not in (*PER_ENTRY, "scalar") for node in walk(self._plan.root(kind))):
                continue
            if kind.kind_class in ("copy", "whole") or kind.entries < _SMALLEST or together(kind.row) > kind.entries:
                continue
            for position, steps in enumerate(kind.passes):
                made = stages(steps, self._plan.nodes)
                self._stages[number, position] = made
                for chain in (stage.chain for stage in made if stage.chain):
                    if not self._found(chain) and (retries or not _failure(folder, chain.text).exists()):
                        self._missing[chain.text] = chain

    def _saved_seconds(self, outputs: Sequence[Output]) -> float:
        """About what a merge of the outputs would take less with the chains that are missing."""
        per_entry: dict[int, float] = {}
        for (kind, _), made in self._stages.items():
            for chain in (stage.chain for stage in made if stage.chain and stage.chain.text in self._missing):
                saved = sum(FORMS[self._plan.nodes[index].op].nanoseconds for index in chain.body)
                per_entry[kind] = per_entry.get(kind, 0.0) + saved
        total = sum(per_entry.get(output.kind, 0.0) * output.numel for output in outputs)
        return total * 1e-9 / self._plan.memory.workers

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
        """Wait for all libraries, and say which could not be made."""
        if self._process is None or self._folder is None:
            return
        self._process.wait()
        failed = [text for text, chain in self._missing.items() if not self._found(chain)]
        if failed:
            reason = "the compiler was stopped"
            with suppress(OSError):
                reason = _failure(self._folder, failed[0]).read_text(encoding="utf-8").partition("\n")[0]
            what = f"{len(failed)} of {count(len(self._missing), 'chain')} of ops could not be compiled: {reason}"
            self.remarks = (remark("W512", what, "torch's kernels make the same bytes, in more time"),)


def _advice(saved: float, takes: float) -> str:
    what = f"with compiled loops this would take about {saved:.0f} s less"
    return remark("W513", what, f"`--compile on` makes them, once, in about {takes:.0f} s; later runs find them")


def _failure(folder: Path, text: str) -> Path:
    """Where the reason lies why there is no library of a chain."""
    return folder / f"{key_of(text)}.no"


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
