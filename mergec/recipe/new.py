"""Texts made from a method's signature: a commented recipe to start from, and its page of help."""

from __future__ import annotations

from typing import Any

from mergec.errors import count
from mergec.ops.registry import Method, Name, Parameter, find_method
from mergec.ops.step import Steps
from mergec.recipe.settings import expectation
from mergec.recipe.steps import PIPELINE

_EXAMPLES: dict[str, Any] = {"weight": 0.5, "density": 0.5, "t": 0.5}
_SKIPPED = ("int8_mask",)
_PIPELINE_HEAD = """\
# Do what is listed under 'steps:'; these are the steps of ties. `mergec methods NAME` prints those of other methods.
merge_method: pipeline
base_model: path/to/base
models:
  - model: path/to/model-1
    parameters: {weight: 0.5, density: 0.5}  # settings that no step sets itself
  - model: path/to/model-2
    parameters: {weight: 0.5, density: 0.5}
"""


def recipe_text(name: str) -> str:
    """A complete, commented recipe for a method; raises UsageError for an unknown one.

    It gives every parameter its default, or an example where there is none.
    """
    if name == PIPELINE:
        return _pipeline_text()
    method = find_method(name, also=[PIPELINE])
    own = [p for p in method.parameters.values() if p.per_model and p.name not in _SKIPPED]
    shared = [p for p in method.parameters.values() if not p.per_model and p.name not in _SKIPPED]
    low, high = method.models
    where = "a folder, a .safetensors file, or a Hugging Face id"
    lines = [(f"merge_method: {method.name}", "how the tensors are combined")]
    if method.base == "origin":
        lines.append(("base_model: path/to/base", where))
    elif method.base == "optional":
        lines.append(("# base_model: path/to/base", "optional: merge the deltas from it, not the models"))
    lines.append(("models:", ""))
    for number in range(max(low, 2) if high is None else low):
        first = number == 0
        lines.append((f"  - model: path/to/model-{number + 1}", where if first else ""))
        lines += [("    parameters:", "")] * bool(own)
        lines += [(f"      {_entry(parameter)}", _comment(parameter) if first else "") for parameter in own]
    lines += [("parameters:", "")] * bool(shared)
    lines += [(f"  {_entry(parameter)}", _comment(parameter)) for parameter in shared]
    lines.append(("dtype: bfloat16", "what inputs are cast to, and what the result is stored as"))
    if method.takes_draw:
        lines.append(("seed: 0", "another seed drops other entries"))
    if method.base == "origin":
        lines.append(("tokenizer_source: base", "whose tokenizer is copied"))
    width = max(len(text) for text, _ in lines)
    body = [f"{text:<{width}}  # {comment}" if comment else text for text, comment in lines]
    return "\n".join([f"# {method.summary}", f"# {method.paper}", *body]) + "\n"


def _pipeline_text() -> str:
    """A recipe whose steps are those of TIES."""
    named, steps = recipe_text("ties"), steps_text(find_method("ties"))
    lines = [line for line in named.splitlines() if not line.startswith(("#", "merge_method", "  ", "parameters"))]
    tail = "\n".join(line for line in lines if not line.startswith(("models", "base_model")))
    return f"{_PIPELINE_HEAD}{steps.partition(chr(10))[2]}{tail}\n"


def _entry(parameter: Parameter) -> str:
    value = _EXAMPLES.get(parameter.name, parameter.default)
    return f"{parameter.name}: {_yaml(1.0 if value is None else value)}"


def _comment(parameter: Parameter) -> str:
    values = expectation(parameter)
    return parameter.description if values in ("a number", "true or false") else f"{parameter.description}; {values}"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def method_text(method: Method) -> str:
    """What `mergec methods NAME` prints: the documentation, the models it takes, its parameters."""
    low, high = method.models
    models = count(low, "model") if low == high else f"{low} or more models"
    base = {"origin": " and a base_model", "optional": " and, optionally, a base_model"}.get(method.base, "")
    lines = [
        f"{method.name} (version {method.version})  {method.paper}",
        "",
        method.doc,
        "",
        f"takes {models}{base}",
    ]
    lines += ["", "parameters"]
    width = max(map(len, method.parameters), default=0)
    for parameter in method.parameters.values():
        scope = "per model" if parameter.per_model else "shared"
        default = "required" if parameter.required else f"default {_yaml(parameter.default)}"
        lines += [
            f"  {parameter.name:<{width}} {expectation(parameter)}; {default}; {scope}",
            f"  {'':<{width}} {parameter.description}",
        ]
    if method.steps is not None:
        lines += ["", "as a pipeline", *(f"  {line}" for line in steps_text(method).splitlines())]
    return "\n".join(lines)


def steps_text(method: Method) -> str:
    """The steps a method is a name for, as they stand in a recipe.

    What the steps leave open - a setting of the same name and default - is read from `parameters:` as before; the
    others carry the method's own default, to be changed there.
    """
    assert isinstance(method.steps, Steps)
    lines = ["merge_method: pipeline", "steps:"]
    for use in method.steps.uses:
        step = use.step
        given = {} if not step.choice else {step.choice: step.way}
        for parameter in step.parameters.values():
            value = use.arguments.get(parameter.argument, parameter.default)
            if isinstance(value, Name):
                own = method.parameters[value]
                if own.required or (value == parameter.name and own.default == parameter.default):
                    continue
                value = own.default
            if value != parameter.default:
                given[parameter.name] = value
        entries = ", ".join(f"{name}: {_yaml(value)}" for name, value in given.items())
        lines.append(f"  - {step.name}: {{{entries}}}" if entries else f"  - {step.name}")
    return "\n".join(lines) + "\n"
