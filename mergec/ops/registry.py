"""`@method`: declare a merge method once; parameters, checks and documentation are read from its signature."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from mergec.errors import MergecError, UsageError, did_you_mean
from mergec.graph import Node
from mergec.ops.artifact import Artifact
from mergec.ops.replay import STREAM

T = TypeVar("T")
_PER_MODEL = "per model"
Each = Annotated[tuple[T, ...], _PER_MODEL]
"""A parameter with one value per model: `weight: Each[Weight]` arrives as a tuple, in the models' order."""


def each(value: T) -> Any:
    """The default of a per-model parameter: the same value for every model."""
    return value


class ParameterError(ValueError):
    """A method refuses the values it was given; `parameter` names the one to point at."""

    def __init__(self, parameter: str, what: str, hint: str = "") -> None:
        self.parameter, self.what, self.hint = parameter, what, hint
        super().__init__(what)


@dataclass(frozen=True)
class Draw:
    """What randomness is keyed by besides the tensor's name: seed, method, and the models' slot ids in order."""

    seed: int
    stream: str
    slots: tuple[str, ...] = ()
    starts: tuple[int, ...] | None = None
    """Where each model's numbers begin, in the one stream of a peer's generator, if that is replayed."""

    def attrs(self, model: int) -> dict[str, Any]:
        """What a model's draws are keyed by, as attributes of the op that draws."""
        if self.starts is not None:
            return {"seed": self.seed, "stream": STREAM, "slot": str(self.starts[model])}
        return {"seed": self.seed, "stream": self.stream, "slot": self.slot(model)}

    def slot(self, model: int) -> str:
        """The slot id of a model by its number beside the base; the number itself where there are no ids."""
        return self.slots[model] if self.slots else str(model)


@dataclass(frozen=True)
class Arithmetic:
    """Whose arithmetic a method follows where the peer's differs: ours, or `compat: mergekit`."""

    mergekit: bool = False


@dataclass(frozen=True)
class Parameter:
    """A parameter as declared in a method's signature: one name, one type, one description."""

    name: str
    argument: str
    annotation: Any
    per_model: bool
    required: bool
    default: Any
    description: str
    adapter: Any = field(repr=False, compare=False)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of one value."""
        schema: dict[str, Any] = self.adapter.json_schema()
        return schema

    def validate(self, value: Any) -> Any:
        """The typed value; raises pydantic.ValidationError. Accepts numbers written as strings, as YAML 1.1 does."""
        return self.adapter.validate_python(value)


class Name(str):
    """A parameter's name in place of its value, where a method is asked which steps it is a name for."""


class Steps(Protocol):
    """What `mergec.ops.step.Steps` is to this module."""

    @property
    def takes_draw(self) -> bool:
        """Whether one of the steps is random."""

    def run(self, base: Node | None, models: Sequence[Node], draw: Draw, arithmetic: Arithmetic) -> Node:
        """The node of the merged tensor."""


@dataclass(frozen=True)
class Method:
    """A merge method: a function from nodes and typed parameters to the node of the merged tensor, or an Artifact.

    Or a name for steps: then its function takes the parameters alone and returns the steps (`mergec.ops.step`).

    `base` is what the base model is to it: `origin` (deltas are taken from it; required), `optional` (the same, if
    there is one) or `input` (one of the models). `models` bounds the number of models beside it. The order of the
    models has no meaning to a `commutative` method: they are given to it in the order of their slot ids. `version` is
    bumped whenever the method gives other bytes for the same settings.
    """

    name: str
    build: Callable[..., Any]
    parameters: Mapping[str, Parameter]
    base: Literal["origin", "optional", "input"]
    models: tuple[int, int | None]
    commutative: bool
    version: int
    paper: str
    doc: str
    takes_draw: bool
    takes_arithmetic: bool
    makes_artifact: bool = False
    steps: Steps | None = None
    """What it is a name for, each argument the `Name` of the parameter that it gets, or a value."""

    @property
    def summary(self) -> str:
        return self.doc.strip().partition("\n")[0]

    @property
    def stream(self) -> str:
        """What keys this method's random numbers: they change only when its version does."""
        return f"{self.name}.{self.version}"

    @property
    def identity(self) -> str:
        """What stands for it in the key of a tensor: a name for steps is as good as the steps."""
        return self.stream if self.steps is None else f"steps.{self.version}"

    def __call__(
        self,
        base: Node | None,
        models: Sequence[Node],
        values: Mapping[str, Any],
        draw: Draw,
        arithmetic: Arithmetic,
    ) -> Node | Artifact:
        """Build the graph of one merged tensor. `values` are keyed by parameter name, per-model ones are tuples."""
        arguments = {self.parameters[name].argument: value for name, value in values.items()}
        if self.steps is not None:
            steps: Steps = self.build(**arguments)
            return steps.run(base, models, draw, arithmetic)
        if self.takes_draw:
            arguments["draw"] = draw
        if self.takes_arithmetic:
            arguments["arithmetic"] = arithmetic
        given = (base, tuple(models)) if self.base != "input" else (tuple(models),)
        merged: Node | Artifact = self.build(*given, **arguments)
        return merged


_METHODS: dict[str, Method] = {}


def method(
    paper: str,
    *,
    version: int = 1,
    base: Literal["origin", "optional", "input"] = "origin",
    models: tuple[int, int | None] = (1, None),
    commutative: bool = False,
) -> Callable[[Callable[..., Node | Artifact | Steps]], Method]:
    """Declare a merge method; parameters, ranges, defaults and documentation come from the function itself."""

    def declare(build: Callable[..., Any]) -> Method:
        names = inspect.signature(build).parameters
        tensors = [name for name, one in names.items() if one.kind is not one.KEYWORD_ONLY]
        parameters = read_parameters(build, skipped=len(tensors))
        steps = None if tensors else build(**{p.argument: Name(p.name) for p in parameters.values()})
        made = Method(
            name=build.__name__,
            build=build,
            parameters=parameters,
            base=base,
            models=models,
            commutative=commutative,
            version=version,
            paper=paper,
            doc=inspect.cleandoc(build.__doc__ or ""),
            takes_draw="draw" in names or (steps is not None and steps.takes_draw),
            takes_arithmetic="arithmetic" in names,
            makes_artifact=typing.get_type_hints(build).get("return") is Artifact,
            steps=steps,
        )
        known = _METHODS.get(made.name)
        if known is not None and known.build.__module__ != build.__module__:
            raise UsageError(
                "E502", f"method {made.name!r} is declared by {known.build.__module__} and {build.__module__}"
            )
        _METHODS[made.name] = made
        return made

    return declare


def read_parameters(function: Callable[..., Any], skipped: int) -> dict[str, Parameter]:
    """The parameters that a signature declares, by name: all but the first `skipped` arguments and what is injected."""
    hints = typing.get_type_hints(function, include_extras=True)
    arguments = list(inspect.signature(function).parameters.values())[skipped:]
    read = [_parameter(one, hints[one.name]) for one in arguments if one.name not in ("draw", "arithmetic")]
    return {parameter.name: parameter for parameter in read}


def _parameter(argument: inspect.Parameter, hint: Any) -> Parameter:
    import pydantic

    per_model = typing.get_origin(hint) is Annotated and hint.__metadata__[-1] == _PER_MODEL
    annotation = typing.get_args(typing.get_args(hint)[0])[0] if per_model else hint
    adapter = pydantic.TypeAdapter(annotation)
    required = argument.default is inspect.Parameter.empty
    return Parameter(
        name=argument.name.rstrip("_"),
        argument=argument.name,
        annotation=annotation,
        per_model=per_model,
        required=required,
        default=None if required else argument.default,
        description=adapter.json_schema().get("description", ""),
        adapter=adapter,
    )


def methods() -> Mapping[str, Method]:
    """Every known method by name: the files of `mergec/ops/methods`, then installed plugins.

    A plugin is an entry point of group `mergec.methods` that names a module which declares methods.
    """
    for name in _own():
        _import(name)
    _load_installed()
    return dict(sorted(_METHODS.items()))


def _own() -> list[str]:
    """The names of the methods that have a file here."""
    from mergec.ops import methods as folder

    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__))


def _import(name: str) -> None:
    importlib.import_module(f"mergec.ops.methods.{name}")


def _load_installed() -> None:
    for entry_point in importlib.metadata.entry_points(group="mergec.methods"):
        entry_point.load()


def find_method(name: str, also: Sequence[str] = ()) -> Method:
    """The method of that name; raises UsageError (E200) with the nearest name, which may be one of `also`.

    Of the methods that have a file here only the one asked for is imported.
    """
    if name in _own():
        _import(name)
        _load_installed()
        return _METHODS[name]
    known = methods()
    if name not in known:
        raise UsageError("E200", f"unknown merge method {name!r}", did_you_mean(name, [*known, *also]))
    return known[name]


def load_plugin(path: Path) -> None:
    """Import a Python file that declares methods (`--plugin file.py`)."""
    spec = importlib.util.spec_from_file_location(f"mergec_plugin_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError("E502", f"no plugin file {path}", "give a Python file, such as --plugin my_method.py")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except MergecError:
        raise
    except Exception as error:  # a plugin is a program of its own and may raise anything
        what = f"the plugin {path} cannot be loaded: {type(error).__name__}: {error}"
        raise UsageError("E502", what, f"does `python {path}` run?") from error
