"""The command that merges: run."""

from __future__ import annotations

import gc
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergec.cli.options import (
    RunFlags,
    compile_options,
    layout_options,
    listed,
    plan_options,
    run_flags,
    run_options,
    with_seed,
)
from mergec.planfile import read_plan

if TYPE_CHECKING:
    from mergec.execute.reuse import Decision
    from mergec.execute.run import Result
    from mergec.plan import Plan


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", required=False, type=click.Path(path_type=Path))
@plan_options
@run_options
@click.option("--frozen", is_flag=True, help="Fail if recipe or inputs are not what mergec.lock beside RECIPE says.")
def run(
    recipe: Path,
    out: Path | None,
    overrides: tuple[tuple[str, str], ...],
    seed: int | None,
    frozen: bool,
    **values: Any,
) -> int:
    """Merge RECIPE into the folder OUT (by default merged/<recipe name>).

    RECIPE may also be a plan printed by `mergec plan --json`.
    """
    flags = run_flags(values)
    plan = _plan(recipe, with_seed(overrides, seed), values)
    if frozen:
        _check_frozen(recipe, plan)
    largest = max((one for one in plan.outputs if not one.is_part), key=lambda one: one.numel, default=None)
    explain = f"mergec explain {shlex.quote(str(recipe))} {largest.name if largest else ''}"
    next_steps = [("see how a tensor was made", explain)]
    return execute(plan, out, next_steps, flags)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", required=False, type=click.Path(path_type=Path))
@plan_options
@run_options
@click.pass_context
def moe(ctx: click.Context, /, **values: Any) -> Any:
    """Make the mixture of experts that RECIPE describes, in the folder OUT: as `mergec run` does.

    RECIPE is what mergekit-moe takes: a base_model, and experts with their source_model.
    """
    from mergec.errors import UsageError
    from mergec.recipe.load import read_document

    if "experts" not in read_document(values["recipe"], values["overrides"]).value:
        raise UsageError(
            "E700", f"{values['recipe']} has no 'experts'", "`mergec run` makes what other recipes describe"
        )
    return ctx.forward(run)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--task", required=True, metavar="NAME", help="Which of the artifact's tasks.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32", "float64"]),
    help="What floats are stored as.  [default: as in the artifact]",
)
@layout_options
@run_options
def materialize(
    artifact: Path,
    out: Path | None,
    task: str,
    dtype: str | None,
    **values: Any,
) -> int:
    """Make the dense model of one task of ARTIFACT, in the folder OUT (by default merged/<artifact>-<task>)."""
    from mergec.compiler.materialize import compile_task

    plan = compile_task(artifact, task, dtype, compile_options(values))
    return execute(plan, out, [], run_flags(values))


def execute(
    plan: Plan,
    out: Path | None,
    next_steps: list[tuple[str, str]],
    flags: RunFlags,
    *,
    is_model: bool = True,
) -> int:
    """Run a plan, say how it goes, what was made, and what to do with it, beside what all models are good for."""
    from mergec.cli.progress import show
    from mergec.execute.run import run as run_plan

    device, force, rebuild, loops, quiet, as_json = flags
    out = out or Path("merged") / plan.name
    _settle(plan, out, flags)
    if not quiet:
        for warning in plan.warnings:
            click.echo(warning, err=True)

    def notice(decision: Decision) -> None:
        if as_json:
            click.echo(json.dumps({"event": "decision", **vars(decision)}))
        elif not quiet:
            for line in _decision(decision, len(plan.outputs), out):
                click.echo(line, err=True)

    try:
        with show(plan, quiet=quiet, as_json=as_json) as report:
            result = run_plan(
                plan,
                out,
                device=device,
                force=force,
                rebuild=rebuild,
                compile=loops,
                report=report,
                notice=notice,
            )
    except KeyboardInterrupt:
        click.echo(f"interrupted; {out} was not touched, the same command goes on where this one stopped", err=True)
        return 130
    for remark in result.remarks:
        click.echo(remark, err=True)
    if as_json:
        click.echo(json.dumps({"event": "done", **vars(result)}, default=str))
    elif not quiet:
        click.echo(_summary(plan, result, [*next_steps, *(_uses(plan, result) if is_model else [])]))
    return 0


def _settle(plan: Plan, out: Path, flags: RunFlags) -> None:
    """Import torch if a plan needs it, while the first inputs are read, unless the device may not be there.

    From here on cycles are looked for again, among what the run makes alone.
    """
    from mergec.execute.devices import computes
    from mergec.execute.run import begin
    from mergec.execute.start import import_torch

    if computes(plan):
        if flags.device in ("auto", "cpu"):
            begin(plan, out, force=flags.force, rebuild=flags.rebuild)
        import_torch(plan)
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _plan(recipe: Path, overrides: tuple[tuple[str, str], ...], values: dict[str, Any]) -> Plan:
    from mergec.compiler.compile import compile_recipe
    from mergec.errors import UsageError

    if recipe.suffix != ".json":
        return compile_recipe(recipe, overrides, compile_options(values))
    if overrides or any(values.values()):
        raise UsageError(
            "E501", f"{recipe} is a plan, in which everything is decided", "give the options to `mergec plan`"
        )
    try:
        return read_plan(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError("E504", f"{recipe} is not a plan: {why}", "make one with `mergec plan --json`") from None


def _decision(decision: Decision, tensors: int, out: Path) -> list[str]:
    """What is taken over, and what is computed for which reason, where there is something to be taken over."""
    lines = []
    if decision.kept:
        lines.append(f"going on: {len(decision.kept):,} of {tensors:,} tensors were finished, and are as they were")
    if decision.reused or decision.computed:
        computed = sum(map(len, decision.computed.values()))
        lines.append(f"{computed:,} of {tensors:,} tensors are computed, {len(decision.reused):,} reused from {out}")
    for reason, names in decision.computed.items():
        lines += [f"  {reason}", *(f"    {line}" for line in listed(names, tensors))]
    return lines


def _check_frozen(recipe: Path, plan: Plan) -> None:
    """Refuse to run what the lock beside a recipe does not say (E623)."""
    from mergec.errors import RunError
    from mergec.lock import differences, input_digests, locked_recipe, read_locked

    locked = read_locked(recipe)
    found = differences(locked, locked_recipe(plan, input_digests(plan)))
    if found:
        what = "; ".join(
            f"{one.what} ({', '.join(listed(one.tensors, len(plan.outputs)))})" if one.tensors else one.what
            for one in found
        )
        hint = f"if that is meant: mergec lock {shlex.quote(str(recipe))}"
        raise RunError("E623", f"{recipe} is not what its lock says: {what}", hint)


def _summary(plan: Plan, result: Result, next_steps: list[tuple[str, str]]) -> str:
    """What was made, and what to do with it."""
    from mergec.errors import count, size_text

    if result.is_current:
        return f"{result.folder} is up to date: {count(result.tensors, 'tensor')}, every byte was checked"
    taken = [(result.kept, "kept from an interrupted run"), (result.reused, "reused")]
    kept = "".join(f"{number:,} {how}, " for number, how in taken if number)
    files = count(len(plan.shards), "file")
    size = size_text(result.written_bytes)
    lines = [
        f"made {result.folder}: {count(result.tensors, 'tensor')}, {kept}{size} in {files}, {result.seconds:.1f} s"
    ]
    if result.moved_aside:
        lines.append(f"what was there before is now in {result.moved_aside}")
    width = max(len(what) for what, _ in next_steps)
    return "\n".join([*lines, "try next", *(f"  {what:<{width}}  {command}" for what, command in next_steps)])


def _uses(plan: Plan, result: Result) -> list[tuple[str, str]]:
    """What every merged model is good for."""
    folder = shlex.quote(str(result.folder))
    load = f"AutoModelForCausalLM.from_pretrained({str(result.folder)!r})"
    commands = [("see what the result is", f"mergec inspect {folder}")]
    if any(output.is_part for output in plan.outputs):
        commands.append(("make a task's model", f"mergec materialize {folder} --task NAME"))
    return [*commands, ("load it in Python", f"from transformers import AutoModelForCausalLM; model = {load}")]
