"""Options that several commands share, each declared once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import click

_MOST_GROUPS = 12
F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{letter}b": size for letter, size in list(_UNITS.items())[2:]}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)}


def parse_size(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """A number of bytes: 5GB (decimal), 5GiB (binary), 500M, 5B or 1000000."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-zA-Z]*)\s*", text)
    size = int(float(match[1]) * _UNITS.get(match[2].lower(), 0)) if match else 0
    if size <= 0:
        raise click.BadParameter(
            f"{text!r} is not a size; expected a number with a unit, such as 5GB, 512MiB or 1000000"
        )
    return size


def parse_overrides(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`key=value` pairs, with a dotted key and a YAML value."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, pairs, strict=True):
        if not equals or not all(key.split(".")):
            example = "parameters.density=0.3 or models.0.parameters.weight=1"
            raise click.BadParameter(f"{text!r} is not key=value, for example {example}")
    return tuple((key, value) for key, _, value in pairs)


RECIPE = click.argument("recipe", type=click.Path(path_type=Path))


def plan_options(command: F) -> F:
    """What every command that compiles a recipe takes."""
    options = [
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            callback=parse_overrides,
            help="Replace a value, e.g. parameters.density=0.3.",
        ),
        click.option("--seed", type=click.IntRange(min=0), help="Short for --set seed=N."),
        layout_options,
        plugin_option,
    ]
    return _with(command, options)


def layout_options(command: F) -> F:
    """What does not change a tensor: the files' sizes, workers, memory."""
    options = [
        click.option(
            "--shard-size",
            metavar="SIZE",
            callback=parse_size,
            help="Largest output file, e.g. 5GB or 5GiB.  [default: 5GB]",
        ),
        click.option("--workers", type=click.IntRange(min=1), help="Threads.  [default: one per core]"),
        click.option(
            "--max-memory",
            metavar="SIZE",
            callback=parse_size,
            help="Ceiling on what the merge allocates, e.g. 512MiB.",
        ),
        click.option("--allow-nonfinite", is_flag=True, help="Write NaN and infinity instead of failing."),
    ]
    return _with(command, options)


class RunFlags(NamedTuple):
    """How a plan is run and what is said of it; none of it changes a tensor."""

    device: str
    force: bool
    rebuild: bool
    compile: Literal["auto", "on", "off"]
    quiet: bool
    as_json: bool


def run_flags(values: dict[str, Any]) -> RunFlags:
    """What `run_options` declares, taken out of a command's values."""
    return RunFlags(**{name: values.pop(name) for name in RunFlags._fields})


def run_options(command: F) -> F:
    """What every command that writes a model takes; see `run_flags`."""
    options = [
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda (all GPUs), cuda:N or mps."),
        click.option("--force", is_flag=True, help="Move a folder that mergec did not make aside, to OUT.old."),
        click.option("--rebuild", is_flag=True, help="Compute every tensor, also those that are there already."),
        click.option(
            "--compile",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="Compile loops for this machine: where it pays, always, or never. Changes no byte.",
        ),
        click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
        click.option("--json", "as_json", is_flag=True, help="Print progress and the result as lines of JSON."),
    ]
    return _with(command, options)


def _with(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def plugin_option(command: F) -> F:
    return click.option(
        "--plugin",
        type=click.Path(path_type=Path),
        multiple=True,
        expose_value=False,
        callback=_load_plugins,
        is_eager=True,
        help="A Python file that declares merge methods.",
    )(command)


def _load_plugins(ctx: click.Context, param: click.Parameter, paths: tuple[Path, ...]) -> None:
    if paths:
        from mergec.ops.registry import load_plugin

        for path in paths:
            load_plugin(path)


def with_seed(overrides: tuple[tuple[str, str], ...], seed: int | None) -> tuple[tuple[str, str], ...]:
    return overrides if seed is None else (*overrides, ("seed", str(seed)))


def compile_options(values: dict[str, Any]) -> Any:
    """`Options` from the values of `plan_options`."""
    from mergec.compiler.schedule import DEFAULT_SHARD_BYTES, Options

    return Options(
        values["shard_size"] or DEFAULT_SHARD_BYTES, values["workers"], values["max_memory"], values["allow_nonfinite"]
    )


def listed(names: Sequence[str], total: int) -> list[str]:
    """Tensor names for people: folded, the first few groups, or that it is all of them."""
    from mergec.compiler.names import fold
    from mergec.errors import count

    if len(names) == total:
        return [f"all {count(total, 'tensor')}"]
    groups = fold(names)
    more = [f"and {count(len(groups) - _MOST_GROUPS, 'more group')}"] if len(groups) > _MOST_GROUPS else []
    return groups[:_MOST_GROUPS] + more
