"""Torch without those of its modules that no merge uses: they are imported when something asks for them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from mergec.ops.op import OPS
from mergec.plan import Plan

# Releases that were tried. Which modules can wait, and what torch itself takes from them, differs between releases.
_TRIED = ("2.13.",)
# Compilers, exporters, quantised layers and shapes without values: half of the time that `import torch` takes.
LATER = frozenset(
    {
        "torch._higher_order_ops",
        "torch._meta_registrations",
        "torch.compiler",
        "torch.distributed._meta_registrations",
        "torch.export",
        "torch.func",
        "torch.fx.passes",
        "torch.nn.intrinsic",
        "torch.nn.qat",
        "torch.nn.quantizable",
        "torch.nn.quantized",
        "torch.quantization",
    }
)
# What torch takes from these modules while it is imported.
_FUNCTIONS = {"torch._higher_order_ops": ("cond", "while_loop"), "torch.func": ("vmap",)}
_lock = threading.RLock()


def import_torch(plan: Plan) -> None:
    """Import torch: what a plan needs of it; all of it if the plan calls what is not ours, transformers or plugins.

    It is for a process that does nothing but run a plan: torch's compiler, and tensors without values
    (`device="meta"`), do not work in it.
    """
    if "torch" not in sys.modules and _is_tried() and _is_ours(plan):
        sys.meta_path.insert(0, _Finder)
        try:
            import_module("torch")
        finally:
            sys.meta_path.remove(_Finder)
    import_module("torch")


def _is_tried() -> bool:
    try:
        return version("torch").startswith(_TRIED)
    except PackageNotFoundError:
        return False


def _is_ours(plan: Plan) -> bool:
    classes = {node.op_class for node in plan.nodes}
    ops = (OPS.get(node.op) for node in plan.nodes)
    return "states" not in classes and all(one.kernel.__module__.startswith("mergec.") for one in ops if one)


class _Finder:
    """Finds the modules that can wait, and lets them."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in LATER else None
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Gives a module that runs its code when it is first asked for what it does not have yet."""

    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = Waiting  # as importlib.util.LazyLoader does

    def load(self, module: ModuleType) -> None:
        """Run the module's code."""
        with _lock:
            if isinstance(module, Waiting):
                module.__class__ = ModuleType  # type: ignore[assignment]
                self._inner.exec_module(module)


class Waiting(ModuleType):
    """A module whose code did not run yet."""

    def __getattr__(self, name: str) -> Any:
        if name in _FUNCTIONS.get(self.__name__, ()):
            return _later(self, name)
        if name == "__path__":  # `from` asks every module for it; one that is no package has none
            raise AttributeError(name)
        _load(self)
        return getattr(self, name)


def _load(module: ModuleType) -> None:
    assert module.__spec__ is not None
    if isinstance(loader := module.__spec__.loader, _Loader):
        loader.load(module)


def _later(module: ModuleType, name: str) -> Callable[..., Any]:
    """A function of a module that waits."""

    def call(*args: Any, **kwargs: Any) -> Any:
        _load(module)
        return getattr(module, name)(*args, **kwargs)

    return call
