"""Commands about locks: lock, status, verify."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mergec.cli.options import RECIPE, listed, plugin_option
from mergec.cli.progress import bytes_read


@click.command()
@RECIPE
@click.option("--verify", is_flag=True, help="Read the inputs again, also those whose digests are remembered.")
@click.option("--json", "as_json", is_flag=True, help="Print what was locked as JSON.")
@plugin_option
def lock(recipe: Path, verify: bool, as_json: bool) -> int:
    """Write down in mergec.lock, beside RECIPE, the exact inputs it reads and the tensors it makes."""
    from mergec.compiler.compile import compile_recipe
    from mergec.errors import count, size_text
    from mergec.lock import input_digests, locked_recipe, write_locked

    plan = compile_recipe(recipe)
    for warning in plan.warnings:
        click.echo(warning, err=True)
    with bytes_read(sum(source.file_bytes for source in plan.files)) as report:
        locked = locked_recipe(plan, input_digests(plan, report, verify))
    path = write_locked(recipe, locked)
    if as_json:
        click.echo(locked.model_dump_json(indent=2, exclude_none=True))
        return 0
    size = sum(source.file_bytes for source in plan.files)
    files = f"{count(len(plan.files), 'input file')} of {size_text(size)}"
    click.echo(f"{path}: {recipe.name}, {files}, {count(len(plan.outputs), 'tensor')}, plan {locked.plan[:12]}")
    return 0


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(out: Path, as_json: bool) -> int:
    """Check every byte of the merge in the folder OUT against its mergec.lock."""
    from mergec.errors import count, size_text
    from mergec.io import verify as verifying

    found = output_lock(out)
    with bytes_read(sum(made.bytes for made in (found.files or {}).values())) as report:
        faults = verifying.verify(out, found, report)
    if as_json:
        click.echo(json.dumps([asdict(fault) for fault in faults], indent=2))
        return 1 if faults else 0
    files, tensors = found.files or {}, found.made.tensors
    if not faults:
        size = size_text(sum(made.bytes for made in files.values()))
        click.echo(f"{out}: {count(len(tensors), 'tensor')} in {count(len(files), 'file')} as they were made, {size}")
        return 0
    for (file, what), names in _grouped((fault.file, fault.what, fault.tensor) for fault in faults).items():
        click.echo(f"{out / file}: {', '.join(listed(names, len(tensors)))}{' ' if names else ''}{what}")
    return 1


def _grouped(rows: Iterable[tuple[str, str, str | None]]) -> dict[tuple[str, str], list[str]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for file, what, tensor in rows:
        groups.setdefault((file, what), []).extend([tensor] if tensor else [])
    return groups


@click.command()
@click.argument("subject", metavar="[RECIPE|OUT]", required=False, type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read the inputs again, also those whose digests are remembered.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@plugin_option
def status(subject: Path | None, verify: bool, as_json: bool) -> int:
    """Say whether a recipe, its inputs and its output are what the lock says.

    Of a RECIPE, the lock beside it is compared and the output below merged/; of an OUT, its own lock. Without an
    argument, every recipe of the mergec.lock in this folder. Exit code 1 if something is not clean.
    """
    from mergec.compiler.status import statuses

    with bytes_read() as report:
        found = statuses(subject or Path(), report, verify)
    if as_json:
        click.echo(json.dumps([{"states": one.states, **asdict(one)} for one in found], indent=2))
    else:
        for one in found:
            click.echo(_status_text(one))
    return 1 if any(one.findings for one in found) else 0


def _status_text(status: Any) -> str:
    """A line of states, then a line per finding with the tensors it concerns, folded."""
    lines = [f"{status.subject}: {', '.join(status.states)}"]
    for one in status.findings:
        lines.append(f"  {one.what}")
        lines += [f"    {line}" for line in listed(one.tensors, status.tensors)] if one.tensors else []
    return "\n".join(lines)


def output_lock(out: Path) -> Any:
    """The lock of a merge. Raises InputError (E620, E621), or UsageError (E622) where it is one of recipes."""
    from mergec.errors import UsageError
    from mergec.io.lockfile import LOCK_NAME, read_lock

    found = read_lock(out / LOCK_NAME)
    if found.files is None:
        raise UsageError(
            "E622", f"{out / LOCK_NAME} locks recipes, not the output of a merge", "name the folder of a merge"
        )
    return found
