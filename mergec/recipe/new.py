"""Texts made from a method's signature: a commented recipe to start from, and its page of help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergec.errors import count
from mergec.ops.registry import Method, Parameter, find_method
from mergec.ops.step import Step
from mergec.ops.step import steps as known_steps
from mergec.recipe.expand import expansion_lines
from mergec.recipe.experts import KEYS, MOE, moe
from mergec.recipe.flow import flow
from mergec.recipe.format import format_text
from mergec.recipe.schema import ExpertEntry, Recipe
from mergec.recipe.settings import expectation
from mergec.recipe.steps import PIPELINE, SUMMARY

_EXAMPLES: dict[str, Any] = {"weight": 0.5, "density": 0.5, "t": 0.5, "scale": 1.0}
_EXAMPLES |= {"aggregate": "mean", "window_size": 0.3}  # what is done without them
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


_EXPERTS = """\
# Make a mixture of experts: each MLP from a dense model of its own, all else from the base. docs/moe.md says more.
base_model: path/to/base  # a llama, mistral, qwen2 or qwen3 model; it gives all that is no MLP
experts:
  - source_model: path/to/model-1  # of the base's type and size; its MLPs become the first expert of each layer
    positive_prompts:              # texts that should be routed to it
      - "Prove that there are infinitely many primes."
      - "What is 3 + 4?"
    residual_scale: 1.0  # what the last matrix of its MLPs is multiplied by
    noise_scale: 0.0     # how much gaussian noise is added to its MLPs
  - source_model: path/to/model-2
    positive_prompts: ["def main():", "Write a function that"]
    negative_prompts: ["Write a poem"]  # texts that should be routed to others
gate_mode: hidden     # or hidden_avg, cheap_embed, random, uniform_random
experts_per_token: 2  # how many experts a token is sent to
dtype: bfloat16       # what inputs are cast to, and what the result is stored as
"""


def recipe_text(name: str) -> str:
    """A complete, commented recipe for a method; raises UsageError for an unknown one.

    It gives every parameter its default, or an example where there is none.
    """
    if name == PIPELINE:
        return _pipeline_text()
    if name == MOE:
        return format_text(_EXPERTS, "moe.yml")
    if name in known_steps()["post"]:
        return _pass_recipe(name)
    method = find_method(name, also=[PIPELINE, MOE, *known_steps()["post"]])
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
    named, steps = recipe_text("ties"), expansion_lines(find_method("ties"), {})
    lines = [line for line in named.splitlines() if not line.startswith(("#", "merge_method", "  ", "parameters"))]
    tail = "\n".join(line for line in lines if not line.startswith(("models", "base_model")))
    return format_text("\n".join([f"{_PIPELINE_HEAD}{steps[1]}", *steps[2:], tail]), "pipeline.yml")


def _pass_recipe(name: str) -> str:
    """A recipe of task arithmetic with a pass after it."""
    one = known_steps()["post"][name]
    lines = recipe_text("task_arithmetic").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("parameters"))
    end = next(number for number, line in enumerate(lines) if line.startswith("dtype"))
    body = ["post:", f"  - {name}:"]
    body += [f"      {_entry(parameter)}  # {_comment(parameter)}" for parameter in one.parameters.values()]
    text = "\n".join([f"# {one.doc.partition(chr(10))[0]}", *lines[2:start], *body, *lines[end:]])
    return format_text(text, f"{name}.yml")


def _entry(parameter: Parameter) -> str:
    return f"{parameter.name}: {flow(_EXAMPLES.get(parameter.name, parameter.default))}"


def _comment(parameter: Parameter) -> str:
    values = expectation(parameter)
    return parameter.description if values in ("a number", "true or false") else f"{parameter.description}; {values}"


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
    lines += ["", "parameters", *_parameter_lines(method.parameters)]
    pipeline = expansion_lines(method, {})
    if pipeline:
        lines += ["", "as a pipeline", *(f"  {line}" for line in pipeline)]
    return "\n".join(lines)


def pass_text(one: Step) -> str:
    """What `mergec methods NAME` prints for a pass."""
    lines = [f"{one.way}  a pass over what a method made, listed under 'post:'", "", one.doc]
    return "\n".join([*lines, *(["", "parameters"] if one.parameters else []), *_parameter_lines(one.parameters)])


def vocabulary_text() -> str:
    """What `mergec methods pipeline` prints: every step, what it takes and leaves, its parameters."""
    lines = [f"{PIPELINE}  {SUMMARY}", "", "steps, each with what it takes and what it leaves"]
    for ways in known_steps().values():
        for one in ways.values():
            lines += ["", f"{one.label:<16}  {one.takes.words} -> {one.leaves.words}"]
            lines += [f"  {one.doc.partition(chr(10))[0]}", *_parameter_lines(one.parameters)]
    return "\n".join(lines)


def experts_text() -> str:
    """What `mergec methods moe` prints: what is made, and the keys of a recipe that are about it."""
    method = moe()
    lines = [f"{method.name} (version {method.version})  {method.paper}", "", method.doc, "", "keys of the recipe"]
    for model, names in ((Recipe, ("experts", *KEYS)), (ExpertEntry, tuple(ExpertEntry.model_fields))):
        width = max(map(len, names))
        lines += [f"  {name:<{width}}  {model.model_fields[name].description}" for name in names]
        lines += ["", "keys of an expert"] * (model is Recipe)
    return "\n".join(lines)


def _parameter_lines(parameters: Mapping[str, Parameter]) -> list[str]:
    lines, width = [], max(map(len, parameters), default=0)
    for parameter in parameters.values():
        scope = "per model" if parameter.per_model else "shared"
        default = "required" if parameter.required else f"default {flow(parameter.default)}"
        lines += [
            f"  {parameter.name:<{width}} {expectation(parameter)}; {default}; {scope}",
            f"  {'':<{width}} {parameter.description}",
        ]
    return lines
