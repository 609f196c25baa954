"""Options of mergekit's given to mergec: each is answered, and the page of the docs says the same."""

# ruff: noqa: E501 - a message is one line

from __future__ import annotations

import importlib
from pathlib import Path

import click
import pytest
from recipes_fixtures import mergec

from mergec.cli.main import cli
from mergec.cli.peer_flags import FLAGS, NOT_HERE, TOOLS, tables

PAGE = Path(__file__).parents[2] / "docs/coming-from-mergekit.md"
SCRIPTS = {
    "mergekit-yaml": "run_yaml",
    "mergekit-multi": "multimerge",
    "mergekit-pytorch": "merge_raw_pytorch",
    "mergekit-moe": "moe",
    "mergekit-extract-lora": "extract_lora",
    "mergekit-tokensurgeon": "tokensurgeon",
    "mergekit-layershuffle": "layershuffle",
    "bakllama": "bakllama",
    "mergekit-legacy": "legacy",
}
OWN = {
    name: {word for one in cli.get_command(None, name).params for word in (*one.opts, *one.secondary_opts)}  # type: ignore[union-attr,arg-type]
    for name in ("run", "moe", "extract-lora", "tokens")
}


def test_the_page_has_the_table() -> None:
    """Made anew by: python -c 'from mergec.cli.peer_flags import tables; print(tables(), end="")'."""
    assert PAGE.read_text(encoding="utf-8").endswith("\n\n" + tables())


@pytest.mark.parametrize("tool", SCRIPTS)
def test_every_option_of_the_peer_has_a_row(tool: str) -> None:
    pytest.importorskip("mergekit")
    command = importlib.import_module(f"mergekit.scripts.{SCRIPTS[tool]}").main
    options = {
        word for one in command.params if isinstance(one, click.Option) for word in (*one.opts, *one.secondary_opts)
    }
    known = {name for flag in FLAGS if flag.tool in ("", tool) for name in flag.names}
    assert options - known == set()


def test_every_command_of_the_peer_has_a_row() -> None:
    from importlib.metadata import distribution

    pytest.importorskip("mergekit")
    installed = {one.name for one in distribution("mergekit").entry_points if one.group == "console_scripts"}
    assert installed - {tool.name for tool in TOOLS} == set()


@pytest.mark.parametrize("command", OWN)
def test_every_option_is_answered_by_every_command(command: str) -> None:
    known = {tool.name for tool in TOOLS}
    for flag in FLAGS:
        assert flag.tool in known | {""}
        for name in flag.names:
            if name in OWN[command] or name == "--verbosity":
                continue
            called = mergec(command, "a", "b", "c", name)
            assert called.code == 2
            if flag.is_same and not flag.tool:
                assert "No such option" in called.err  # it has its name here, and not for this command
                continue
            assert called.err.startswith("mergec: error[E726]: "), (command, name, called.err)
            assert f"{name} is an option of mergekit, not of mergec {command}; hint: " in called.err


@pytest.mark.parametrize("flag", [one for one in FLAGS if one.is_same], ids=lambda one: one.names[0])
def test_what_is_the_same_is_there(flag: object) -> None:
    for name in flag.names:  # type: ignore[attr-defined]
        commands = next((one.commands for one in TOOLS if one.name == flag.tool), ("run",))  # type: ignore[attr-defined]
        assert name in OWN[commands[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run r.yml --cuda", "--cuda is an option of mergekit, not of mergec run; hint: --device cuda; the default, auto, takes a GPU where one is"),
        ("run r.yml --random-seed=3", "--random-seed is an option of mergekit, not of mergec run; hint: --seed N, or seed: in the recipe; with random_order: mergekit in it that tool's numbers are drawn"),
        ("run r.yml out -j8", "-j is an option of mergekit, not of mergec run; hint: --workers N"),
        ("run r.yml --max-rank 3", "--max-rank is an option of mergekit, not of mergec run; hint: in mergec extract-lora: --rank N or --max-rank N, by default 32 (there 128)"),
        ("run r.yml out --allow-crimes --quiet --lora-merge-dtype float16", "--allow-crimes and --lora-merge-dtype are options of mergekit, not of mergec run; hint: --allow-crimes: not needed: tensors are lined up by name; mergec check says what does not fit; --lora-merge-dtype: lora_merge_dtype: DTYPE in the recipe"),
        ("extract-lora a b c --sv-epsilon 0.1", "--sv-epsilon is an option of mergekit, not of mergec extract-lora; hint: not here: all matrices have the rank of --rank, or their own if it is smaller"),
        ("tokens a b c --magikarp", "--magikarp is an option of mergekit, not of mergec tokens; hint: not here: every row of a token counts"),
        ("run r.yml out --full-random", "--full-random is an option of mergekit, not of mergec run; hint: full_random: true under shuffle: in the recipe"),
        ("mergekit-layershuffle out", "mergekit-layershuffle is a command of mergekit; hint: shuffle: in a recipe does what that command, which fails at its start, is for"),
        ("mergekit-moe r.yml out", "mergekit-moe is a command of mergekit; hint: mergec moe RECIPE OUT, or mergec run, of the same file"),
    ],
)  # fmt: skip
def test_what_is_said(arguments: str, message: str) -> None:
    called = mergec(*arguments.split())
    assert called.err == f"mergec: error[E726]: {message}; docs/coming-from-mergekit.md has all\n"
    assert (called.code, called.out) == (2, "")


def test_other_mistakes_are_answered_as_ever() -> None:
    called = mergec("run", "r.yml", "--workrs", "3")
    assert "No such option '--workrs'. Did you mean '--workers'?" in called.err
    assert any(flag.here.startswith(NOT_HERE) for flag in FLAGS)
