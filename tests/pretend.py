"""A pretended GPU: tensors of `cuda:0` that hold their values on the processor, and mind what a GPU minds.

Operations on tensors of two devices fail, and so does asking numpy for one of a GPU's. A copy that is not waited for
is made as late as it may be: its target holds rubbish until then, and is filled with what its source holds by then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from mergec.execute.crew import Crew
from mergec.execute.transfer import streams

GPU = torch.device("cuda", 0)
RUBBISH = 77
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_current = threading.local()


class There(Tensor):
    """A tensor of the pretended GPU; `awaited` is a copy into it that may be made when it is first looked at."""

    _held: Tensor
    awaited: Callable[[], None] | None

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=GPU
        )
        made._held, made.awaited = held, None
        return made

    @property
    def held(self) -> Tensor:
        """Its values, on the processor."""
        copy, self.awaited = self.awaited, None
        if copy:
            copy()
        return self._held

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch asks a GPU's driver for before it dispatches is asked of the processor."""
        if func is Tensor.tolist:
            return _held(args[0]).tolist()
        with torch._C.DisableTorchFunctionSubclass():
            try:
                return func(*args, **(kwargs or {}))
            except RuntimeError as error:
                if "not linked with support for cuda" not in str(error):
                    raise
            _is_there(func, args, kwargs)
            made = func(*tree_map(_held, args), **tree_map(_held, kwargs or {}))
            return args[0] if made is _held(args[0]) else tree_map(_there, made)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} in a thread that knows of no GPU")

    def record_stream(self, stream: Stream) -> None:
        stream.keeps.append(self)


def _there(value: Any) -> Any:
    return There(value) if isinstance(value, Tensor) and not isinstance(value, There) else value


def _held(value: Any) -> Any:
    return value.held if isinstance(value, There) else value


def _is_there(func: Any, *given: Any) -> bool:
    """Whether tensors are on the GPU, all of them; single numbers may come from the processor."""
    tensors = [one for one in tree_flatten(given)[0] if isinstance(one, Tensor)]
    if len({isinstance(one, There) for one in tensors if one.dim()}) > 1:
        raise RuntimeError(f"expected all tensors to be on the same device, found two, in {func}")
    return any(isinstance(one, There) for one in tensors)


class Gpu(TorchDispatchMode):
    """Carries out what is asked of the pretended GPU, and of the processor beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.computing = Stream()
        self.operations = 0
        self.late_copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        is_copy = func in _COPIES
        device = kwargs.get("device", args[0].device if is_copy else None)
        is_there = device == GPU if device is not None else _is_there(func, args, kwargs)
        self.operations += is_there
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        if kwargs.pop("pin_memory", None):
            assert not is_there
        if is_copy and (kwargs.pop("non_blocking", False) or args[2:] == (True,)):
            return self._copied_late(*args[:2])
        made = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if any(one.alias_info and one.alias_info.is_write for one in func._schema.arguments[:1]):
            return args[0]
        return tree_map(_there, made) if is_there else made

    def _copied_late(self, *tensors: Tensor) -> Tensor:
        """Leave a copy to the stream of this thread: to a target from a source, or of this to the GPU."""
        self.late_copies += 1
        *given, source = tensors
        target = given[0] if given else There(torch.full_like(source, RUBBISH))
        made = Copy(_held(target), source)
        if isinstance(target, There):
            made.of = target
        current_stream(self).put(made)
        return target


class Copy:
    """A copy that may be made from some time on, and is made when it must be."""

    of: There | None = None

    def __init__(self, target: Tensor, source: Tensor) -> None:
        self._target, self._source, self.is_made = target, source, False
        self._lock = threading.Lock()

    def make(self) -> None:
        with self._lock:
            if not self.is_made:
                self._target.copy_(_held(self._source))
                self.is_made = True

    def allow(self) -> None:
        """Let it be made when somebody looks at the tensor of the GPU that it fills."""
        if self.of is not None:
            self.of.awaited = self.make


class Stream:
    """What a GPU is asked to do in order: copies, which the processor or another stream may wait for."""

    def __init__(self, device: torch.device = GPU) -> None:
        assert device == GPU
        self.copies: list[Copy] = []
        self.keeps: list[Tensor] = []
        self.waited: list[Stream] = []
        self._lock = threading.Lock()

    def put(self, copy: Copy) -> None:
        with self._lock:
            self.copies = [*(one for one in self.copies if not one.is_made), copy]

    def record_event(self) -> Event:
        return Event(self.copies)

    def wait_event(self, event: Event) -> None:
        for copy in event.copies:
            copy.allow()

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)
        self.wait_event(other.record_event())


class Event:
    """The moment at which some copies are done."""

    def __init__(self, copies: list[Copy]) -> None:
        self.copies = copies

    def synchronize(self) -> None:
        for copy in self.copies:
            copy.make()


def current_stream(gpu: Gpu) -> Stream:
    """The stream of this thread: where kernels are put, unless another was chosen."""
    return getattr(_current, "stream", None) or gpu.computing


@contextmanager
def _chosen(stream: Stream) -> Iterator[None]:
    before, _current.stream = getattr(_current, "stream", None), stream
    try:
        yield
    finally:
        _current.stream = before


@contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A pretended GPU, which this thread and all workers can use."""
    made = Gpu()
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", _chosen)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current_stream(made))
    work = Crew._work

    def with_gpu(*arguments: Any) -> None:
        with made:
            work(*arguments)

    monkeypatch.setattr(Crew, "_work", with_gpu)
    streams.cache_clear()
    with made:
        yield made
    streams.cache_clear()
