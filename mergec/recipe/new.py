"""Texts made from a method's signature: a commented recipe to start from, and its page of help."""

from __future__ import annotations

from typing import Any

from mergec.ops.registry import Method, Parameter, find_method
from mergec.recipe.settings import expectation

_EXAMPLES: dict[str, Any] = {"weight": 0.5, "density": 0.5, "t": 0.5}
_SKIPPED = ("int8_mask",)


def recipe_text(name: str) -> str:
    """A complete, commented recipe for a method; raises UsageError for an unknown one.

    It gives every parameter its default, or an example where there is none.
    """
    method = find_method(name)
    lines = [f"# {method.summary}", f"# {method.paper}", f"merge_method: {method.name}"]
    if method.base == "origin":
        lines.append("base_model: path/to/base            # a folder, a .safetensors file, or a Hugging Face id")
    lines += ["models:"]
    own = [p for p in method.parameters.values() if p.per_model and p.name not in _SKIPPED]
    for number in range(max(method.models[0], 2) if method.models[1] is None else method.models[0]):
        lines.append(f"  - model: path/to/model-{number + 1}")
        if own:
            lines.append("    parameters:")
            lines += [f"      {_entry(parameter, commented=number == 0)}" for parameter in own]
    shared = [p for p in method.parameters.values() if not p.per_model and p.name not in _SKIPPED]
    if shared:
        lines.append("parameters:")
        lines += [f"  {_entry(parameter)}" for parameter in shared]
    lines.append("dtype: bfloat16                      # what the result is stored as")
    if method.takes_draw:
        lines.append("seed: 0                              # another seed drops other entries")
    lines.append("tokenizer_source: base               # whose tokenizer is copied" if method.base == "origin" else "")
    return "\n".join(line.rstrip() for line in lines if line) + "\n"


def _entry(parameter: Parameter, commented: bool = True) -> str:
    value = _EXAMPLES.get(parameter.name, parameter.default)
    text = f"{parameter.name}: {_yaml(1.0 if value is None else value)}"
    return f"{text:<30} # {parameter.description}; {expectation(parameter)}" if commented else text


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def method_text(method: Method) -> str:
    """What `mergec methods NAME` prints: the documentation, the models it takes, its parameters."""
    low, high = method.models
    models = f"{low}" if low == high else f"{low} or more"
    base = " and a base_model" if method.base == "origin" else ""
    lines = [
        f"{method.name} (version {method.version})  {method.paper}",
        "",
        method.doc,
        "",
        f"takes {models} model(s){base}",
    ]
    lines += ["", "parameters"]
    for parameter in method.parameters.values():
        scope = "per model" if parameter.per_model else "shared"
        default = "required" if parameter.required else f"default {_yaml(parameter.default)}"
        lines += [
            f"  {parameter.name:<10} {expectation(parameter)}; {default}; {scope}",
            f"  {'':<10} {parameter.description}",
        ]
    return "\n".join(lines)
