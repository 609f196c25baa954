"""The command that sends a result to the hub: push."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from mergec.cli.progress import bytes_read


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--yes", is_flag=True, help="Send it; without, print what would be sent.")
@click.option("--private", is_flag=True, help="Make the repository private, if it has to be made.")
@click.option("--message", "-m", help="Message of the commit.  [default: the recipe's name and plan]")
@click.option("--force", is_flag=True, help="Replace the weights of a repository that mergec did not make.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def push(out: Path, repo: str, yes: bool, private: bool, message: str | None, force: bool, as_json: bool) -> int:
    """Send the merge in the folder OUT to the hub, as REPO (USER/NAME, or USER/NAME@BRANCH).

    Every byte is checked first, as by `mergec verify`. The files that the lock names are sent in one commit;
    weights of an earlier push that are not part of it are removed in the same commit.
    """
    from mergec.cli.locks import output_lock
    from mergec.errors import RunError, UsageError, count, size_text
    from mergec.io import push as pushing
    from mergec.io import verify as verifying

    lock = output_lock(out)
    files = pushing.files_of(out, lock)
    pushing.check_name(repo)
    size = sum(made.bytes for made in (lock.files or {}).values())
    with bytes_read(size) as report:
        faults = verifying.verify(out, lock, report)
    if faults:
        first = f"{faults[0].file}{f', {faults[0].tensor}' if faults[0].tensor else ''} {faults[0].what}"
        more = f" and {count(len(faults) - 1, 'more fault')}" if faults[1:] else ""
        raise RunError("E724", f"{out} is not what its lock says: {first}{more}", f"mergec verify {out} lists all")
    if not yes:
        for name in files:
            click.echo(name)
        what = f"{count(len(files), 'file')} of {size_text(size)} would be sent to {repo}, nothing was"
        raise UsageError("E723", what, "--yes sends them")
    said = message or f"mergec: {next(iter(lock.recipes))}, plan {lock.made.plan[:12]}"
    done = pushing.push(out, lock, repo, private=private, message=said, force=force, quiet=not sys.stderr.isatty())
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2))
        return 0
    click.echo(f"sent {out} to {repo}: {count(len(done.files), 'file')}, {size_text(size)}, commit {done.commit[:12]}")
    if done.removed:
        click.echo(f"removed there: {', '.join(done.removed)}")
    click.echo(done.url)
    return 0
