"""Expand: a named method as the steps it is a name for, written as a recipe would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergec.ops.registry import Method, Name, Parameter
from mergec.ops.step import Steps, Use
from mergec.recipe.flow import flow
from mergec.recipe.steps import PIPELINE


def expand(method: Method, shared: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `merge_method`, `steps` and `parameters` that stand for a method and its shared settings.

    Nothing else of the recipe changes, and it gives the same plan. None for a method that is no list of steps.
    """
    if not isinstance(method.steps, Steps) or method.name == PIPELINE:
        return None
    taken: set[str] = set()
    steps = [_entry(use, method, shared, taken) for use in method.steps.uses]
    handed_on = {value for use in method.steps.uses for value in use.arguments.values() if isinstance(value, Name)}
    left = {name: value for name, value in shared.items() if name in handed_on - taken}
    return {"merge_method": PIPELINE, "steps": steps, **({"parameters": left} if left or shared else {})}


def expansion_lines(method: Method, shared: Mapping[str, Any]) -> list[str]:
    """The same as lines of YAML."""
    expanded = expand(method, shared)
    if expanded is None:
        return []
    lines = [f"merge_method: {PIPELINE}", "steps:", *(f"  - {_step_text(one)}" for one in expanded["steps"])]
    if "parameters" in expanded:
        lines.append(f"parameters: {flow(expanded['parameters'])}")
    return lines


def _entry(use: Use, method: Method, shared: Mapping[str, Any], taken: set[str]) -> str | dict[str, Any]:
    """A step with what must stand in it; a setting of the same name and default is left where it stands."""
    step = use.step
    entry: dict[str, Any] = {step.choice: step.way} if step.choice else {}
    by_argument = {parameter.argument: parameter for parameter in step.parameters.values()}
    for argument, value in use.arguments.items():
        parameter = by_argument[argument]
        if not isinstance(value, Name):
            entry[parameter.name] = value
        elif not _is_same(parameter, method.parameters[value], step.settings):
            taken.add(value)
            default = method.parameters[value].default
            given = _complete(shared[value], default) if value in shared else default
            if given != parameter.default or parameter.required:
                entry[parameter.name] = given
    if not entry:
        return step.name
    return {step.name: entry[step.first] if list(entry) == [step.first] else entry}


def _is_same(parameter: Parameter, declared: Parameter, settings: Mapping[str, Parameter]) -> bool:
    if parameter.name != declared.name or parameter.name not in settings:
        return False
    return declared.required or (not parameter.required and parameter.default == declared.default)


def _complete(setting: Any, default: Any) -> Any:
    """A setting with a value for every tensor, as the method's default is not the step's."""
    choices = setting if isinstance(setting, list) else [setting]
    if not all(isinstance(one, dict) for one in choices) or any(one.get("filter") in (None, "*") for one in choices):
        return setting
    return [*choices, {"value": default}]


def _step_text(entry: str | dict[str, Any]) -> str:
    if isinstance(entry, str):
        return entry
    ((name, value),) = entry.items()
    return f"{name}: {flow(value)}"
