"""The Python interface: compile a recipe to a plan that can run itself, or merge state dicts in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergec import keys, plan, planfile
from mergec.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from mergec.artifact import LoadedArtifact
    from mergec.execute.compiled import Compile
    from mergec.execute.crew import Report
    from mergec.execute.run import Result


class Plan(plan.Plan):
    """A plan that can run itself."""

    def hash(self) -> str:
        """A digest of the result, known before it is made; see `mergec.keys.plan_hash`."""
        return keys.plan_hash(self)

    def to_json(self) -> str:
        """The whole plan as JSON."""
        return planfile.plan_json(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back; raises ValueError when it is not one of this format."""
        return adopt(planfile.read_plan(text))

    def run(
        self,
        out: str | Path,
        *,
        device: str = "auto",
        force: bool = False,
        rebuild: bool = False,
        compile: Compile = "auto",
        report: Report | None = None,
    ) -> Result:
        """Merge into the folder `out`; see `mergec.execute.run.run`."""
        from mergec.execute.run import run

        return run(self, out, device=device, force=force, rebuild=rebuild, compile=compile, report=report)


def compile(  # noqa: A001 - the verb of this package
    recipe: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    shard_bytes: int | None = None,
    workers: int | None = None,
    max_memory_bytes: int | None = None,
    allow_nonfinite: bool = False,
) -> Plan:
    """Compile a recipe file to a plan. Reads headers only; raises RecipeError with everything that is wrong.

    `overrides` replaces values of the recipe by dotted path: `{"parameters.density": 0.3}`.
    """
    import json

    from mergec.compiler.compile import compile_recipe
    from mergec.compiler.schedule import DEFAULT_SHARD_BYTES, Options

    options = Options(shard_bytes or DEFAULT_SHARD_BYTES, workers, max_memory_bytes, allow_nonfinite)
    written = [(dotted, json.dumps(value)) for dotted, value in (overrides or {}).items()]
    return adopt(compile_recipe(recipe, written, options))


def adopt(made: plan.Plan) -> Plan:
    """The same plan with the methods of this interface."""
    return Plan(**{part.name: getattr(made, part.name) for part in dataclasses.fields(made)})


def merge(
    method: str,
    models: Mapping[str, Mapping[str, Tensor]] | Sequence[Mapping[str, Tensor]],
    *,
    base: Mapping[str, Tensor] | None = None,
    parameters: Mapping[str, Any] | None = None,
    model_parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    out_dtype: str | None = None,
    compat: str | None = None,
    tensors: str = "strict",
    post: Sequence[Any] | None = None,
) -> dict[str, Tensor]:
    """Merge state dicts in memory with the ops, arithmetic and checks of a recipe.

    `models` are named state dicts (a sequence is named "0", "1", ...), in the order of a recipe's `models:`;
    `parameters` are its top-level settings, `model_parameters` those of single models, both in a recipe's form:
    numbers, gradients over layers, `{filter, value}` lists. `tensors` and `post` are as in a recipe: what is done
    with tensors that some models lack, and passes. Returns CPU tensors by name, shapes as the inputs'.
    Raises RecipeError for unknown methods, parameters and mismatched tensors.
    """
    from mergec.memory import merge_tensors

    named = models if isinstance(models, Mapping) else {str(number): one for number, one in enumerate(models)}
    return merge_tensors(
        method,
        named,
        base=base,
        parameters=parameters or {},
        model_parameters=model_parameters or {},
        settings={
            "seed": seed,
            "out_dtype": out_dtype,
            "compat": compat,
            "tensors": tensors,
            "post": post and list(post),
        },
    )


def load_artifact(folder: str | Path) -> LoadedArtifact:
    """Open a merge artifact: `.tasks`, `.router`, and `.for_task(name)`, a lazy mapping of tensor names to tensors.

    Reads headers only. Raises InputError (E640) where the folder is no artifact.
    """
    from mergec.artifact import LoadedArtifact

    return LoadedArtifact(Path(folder))


__all__ = ["Plan", "RecipeError", "compile", "load_artifact", "merge"]
