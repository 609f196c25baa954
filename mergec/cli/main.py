"""`mergec`: the group of commands, and the one door at which errors become lines and exit codes."""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from mergec.errors import MergecError, RecipeError, count

INTERRUPTED = 130
# command -> module of mergec.cli that defines it; a module is imported only when its command runs
_COMMANDS = {
    "new": ("recipes", "print a commented recipe for a method"),
    "check": ("recipes", "say everything that is wrong with a recipe, reading headers only"),
    "plan": ("plans", "show what a run would do: graphs, files, bytes, memory"),
    "explain": ("plans", "show how one tensor is made, and where each setting comes from"),
    "diff": ("diff", "say which tensors a change of a recipe changes, and by which settings"),
    "run": ("runs", "merge"),
    "moe": ("runs", "make a mixture of experts: run, for who knows mergekit-moe"),
    "materialize": ("runs", "make the dense model of one task of a merge artifact"),
    "lock": ("locks", "write down the exact inputs of a recipe in mergec.lock"),
    "status": ("locks", "say whether recipe, inputs and output are what the lock says"),
    "verify": ("locks", "check every byte of a merge against its lock"),
    "push": ("push", "send a merge to the Hugging Face hub, after every byte was checked"),
    "methods": ("recipes", "list the merge methods, or explain one"),
    "fmt": ("texts", "lay out recipes in the one canonical way, comments kept"),
    "canon": ("texts", "print what a recipe says, in one order and spelling"),
    "git": ("texts", "make git's diffs show what recipes mean"),
    "import": ("imports", "turn a recipe of mergekit's into one of mergec's, comments kept"),
    "schema": ("recipes", "print the JSON Schema of the recipe language"),
    "extract-lora": ("extract", "make the adapter that takes a base closest to a fine-tuned model"),
    "tokens": ("tokens", "give a model another model's tokenizer"),
    "inspect": ("plans", "show what a checkpoint's headers say"),
}


class _Lazy(click.Group):
    """A group whose help needs none of its commands' modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"mergec.cli.{_COMMANDS[cmd_name][0]}")
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(module, f"{name}_" if iskeyword(name) else name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS:
            from mergec.cli.peer_flags import answer_to_tool
            from mergec.errors import near

            if known := answer_to_tool(args[0]):
                raise known
            known_here = f"known here: {', '.join(sorted(_COMMANDS))}"
            raise click.UsageError(f"no command '{args[0]}'; {near(args[0], _COMMANDS) or known_here}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mergec", message="mergec %(version)s")
def cli() -> None:
    """Compile and run merge recipes for neural-network checkpoints."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 the run failed, 2 recipe or usage wrong, 130 interrupted."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    gc.disable()  # a plan is a million small values without cycles, and so are modules: looking for cycles is waste
    try:
        code = _run(argv)
        if code == INTERRUPTED:  # a worker may still be in torch, which ends badly when the interpreter is taken away
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        gc.freeze()  # nor is there any use in a last look at all that torch has made, half a second long
        sys.exit(code)
    except BrokenPipeError:  # the reader of a pipe went away: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _as_interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _run(argv: list[str] | None) -> int:
    try:
        result = cli.main(argv, prog_name="mergec", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except RecipeError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        errors = sum(problem.is_error for problem in error.problems)
        click.echo(f"{count(errors, 'error')}; no weights were read", err=True)
        return error.exit_code
    except MergecError as error:
        click.echo(f"mergec: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.ctx and error.ctx.info_name:
            from mergec.cli.peer_flags import answer

            arguments = sys.argv[1:] if argv is None else argv
            if known := answer(error.ctx.info_name, error.option_name, arguments):
                click.echo(f"mergec: {known}", err=True)
                return known.exit_code
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
