"""`@step`: declare a step of a pipeline once; what it takes, what it leaves and its parameters are its signature."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from mergec.graph import Node
from mergec.ops.basic import diff
from mergec.ops.registry import Arithmetic, Draw, Parameter, ParameterError, read_parameters


@dataclass(frozen=True)
class Working:
    """What a pipeline holds between two steps. A step takes one kind of it and leaves another; `words` name it."""

    words: ClassVar[str]


@dataclass(frozen=True)
class Models(Working):
    """The models as they are loaded, a weight each."""

    words = "models"
    models: tuple[Node, ...]


@dataclass(frozen=True)
class Rooted(Models):
    """Models and the base they were trained from."""

    words = "models and a base"
    base: Node


@dataclass(frozen=True)
class Deltas(Working):
    """What each model changed: a delta each, as far as the steps went."""

    words = "deltas"
    base: Node
    deltas: tuple[Node, ...]


@dataclass(frozen=True)
class Trimmed(Deltas):
    """Deltas of which a share was kept: what they were before, and by what chance, if chance decided.

    A chance is one number or one per entry, None where nothing was drawn.
    """

    words = "trimmed deltas"
    before: tuple[Node, ...]
    chance: tuple[float | Node | None, ...] | None


@dataclass(frozen=True)
class Elected(Working):
    """Deltas and the sign that was elected for each entry."""

    words = "deltas with an elected sign"
    base: Node
    deltas: tuple[Node, ...]
    sign: Node


@dataclass(frozen=True)
class Merged(Working):
    """The merged tensor, and for passes after the merge the base and what each model changed; None without a base."""

    words = "the merged tensor"
    result: Node
    base: Node | None = None
    deltas: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Step:
    """A step: a function from working values and typed parameters to working values.

    A step that can be done in several ways has a function for each, `trim_largest`, `trim_random`: `way` is the word
    for this one, `choice` what is chosen (`keep`). `here` are the parameters that stand in the step alone, `settings`
    those that may also stand under `parameters:`. The order of the models has no meaning to a `commutative` step.
    """

    name: str
    choice: str
    way: str
    takes: type[Working]
    leaves: type[Working]
    here: Mapping[str, Parameter]
    settings: Mapping[str, Parameter]
    apply: Callable[..., Working]
    takes_draw: bool
    takes_arithmetic: bool
    commutative: bool
    doc: str

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return {**self.here, **self.settings}

    @property
    def label(self) -> str:
        return f"{self.name}: {self.way}" if self.way else self.name

    @property
    def first(self) -> str:
        """The key that a plain value after the step's name stands for: `trim: largest` is `trim: {keep: largest}`."""
        return self.choice or next(iter(self.here), "")

    @property
    def stream(self) -> str:
        """What keys its random numbers, whichever method or recipe it is a step of."""
        return f"{self.name}.{self.way}"

    def __call__(self, **arguments: Any) -> Use:
        """The step with values for its parameters, to be listed in `Steps`; what is left out has its default."""
        return Use(self, arguments)


@dataclass(frozen=True)
class Use:
    """A step with values for its parameters, keyed by argument. `names` is what the recipe calls its parameters."""

    step: Step
    arguments: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)


class Steps:
    """A pipeline: steps in order. A method that returns them is a name for them."""

    def __init__(self, *uses: Use) -> None:
        self.uses = uses

    @property
    def takes_draw(self) -> bool:
        return any(use.step.takes_draw for use in self.uses)

    def run(self, base: Node | None, models: Sequence[Node], draw: Draw, arithmetic: Arithmetic) -> Node:
        """The node of the merged tensor. Equal steps of one pipeline draw from streams of their own."""
        working: Working = Models(tuple(models)) if base is None else Rooted(tuple(models), base)
        drawn: dict[str, int] = {}
        for use in self.uses:
            step, injected = use.step, dict[str, Any]()
            if step.takes_draw:
                drawn[step.stream] = drawn.get(step.stream, 0) + 1
                injected["draw"] = replace(draw, stream=f"{step.stream}.{drawn[step.stream]}")
            if step.takes_arithmetic:
                injected["arithmetic"] = arithmetic
            working = _applied(use, working, injected)
            if isinstance(working, Merged):
                working = rooted(working.result, base, models)
        assert isinstance(working, Merged)
        return working.result


def _applied(use: Use, working: Working, injected: Mapping[str, Any]) -> Working:
    try:
        return use.step.apply(working, **use.arguments, **injected)
    except ParameterError as error:
        error.parameter = use.names.get(error.parameter, error.parameter)
        raise


def rooted(result: Node, base: Node | None, models: Sequence[Node]) -> Merged:
    """A merged tensor with all that a pass after the merge may ask for."""
    return Merged(result, base, tuple(diff(model, base) for model in models) if base is not None else ())


def finish(result: Node, base: Node | None, models: Sequence[Node], passes: Sequence[Use]) -> Node:
    """What passes after the merge make of a merged tensor."""
    for use in passes:
        working = _applied(use, rooted(result, base, models), {})
        assert isinstance(working, Merged)
        result = working.result
    return result


_STEPS: dict[str, dict[str, Step]] = {}


def step(*, commutative: bool = True, **choice: str) -> Callable[[Callable[..., Working]], Step]:
    """Declare a step: `@step()` on `def diff`, or `@step(keep="largest")` on `def trim_largest`.

    Its first argument is what it takes, its return what it leaves. Other positional arguments say how it is done and
    stand in the step itself; keyword-only ones are settings, as those of a method.
    """
    chosen, way = next(iter(choice.items()), ("", ""))

    def declare(function: Callable[..., Working]) -> Step:
        hints = typing.get_type_hints(function)
        names = inspect.signature(function).parameters
        parameters = read_parameters(function, skipped=1)
        here = {p.name for p in parameters.values() if names[p.argument].kind is not inspect.Parameter.KEYWORD_ONLY}
        made = Step(
            name=function.__name__.removesuffix(f"_{way}"),
            choice=chosen,
            way=way,
            takes=hints[next(iter(names))],
            leaves=hints["return"],
            here={name: p for name, p in parameters.items() if name in here},
            settings={name: p for name, p in parameters.items() if name not in here},
            apply=function,
            takes_draw="draw" in names,
            takes_arithmetic="arithmetic" in names,
            commutative=commutative,
            doc=inspect.cleandoc(function.__doc__ or ""),
        )
        _STEPS.setdefault(made.name, {})[way] = made
        return made

    return declare


def steps() -> Mapping[str, Mapping[str, Step]]:
    """Every step by name and way, in the order of their declaration."""
    importlib.import_module("mergec.ops.steps")
    return _STEPS


def path_to(found: type[Working], wanted: type[Working]) -> list[str] | None:
    """The names of the fewest steps that make one kind of working values of another; None where none do."""
    pending, seen = deque([(found, list[str]())]), {found}
    while pending:
        kind, names = pending.popleft()
        if issubclass(kind, wanted):
            return names
        for ways in steps().values():
            for one in ways.values():
                if issubclass(kind, one.takes) and one.leaves not in seen:
                    seen.add(one.leaves)
                    pending.append((one.leaves, [*names, one.name]))
    return None
