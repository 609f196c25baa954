"""`mergec new METHOD` and the folder `recipes/`: the same texts, and recipes that hold once the paths do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recipes_fixtures import mergec, write_model

from mergec.ops.registry import methods
from mergec.recipe.new import method_text, recipe_text

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(name for name, method in methods().items() if method.build.__module__.startswith("mergec.ops.methods."))
OTHERS = ("pipeline", "svc", "consensus_mask", "moe")  # a list of steps, passes after a method, a mixture


def test_the_folder_holds_one_recipe_per_method() -> None:
    assert sorted(path.stem for path in RECIPES.iterdir()) == sorted([*NAMES, *OTHERS])


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_the_file_is_what_the_command_prints(name: str) -> None:
    called = mergec("new", name)
    assert (RECIPES / f"{name}.yml").read_text(encoding="utf-8") == called.out, (
        f"mergec new {name} > recipes/{name}.yml"
    )
    assert (called.code, called.err) == (0, "")


@pytest.mark.parametrize("name", [*NAMES, *OTHERS[:-1]])  # a mixture needs whole models: compiler/test_mixture.py
def test_the_recipe_holds_once_its_paths_do(name: str, tmp_path: Path) -> None:
    text = recipe_text(name)
    for path in set(re.findall(r"path/to/[\w-]+", text)):
        write_model(tmp_path / path, seed=path)
    (tmp_path / f"{name}.yml").write_text(text)
    called = mergec("check", tmp_path / f"{name}.yml")
    assert called.err == ""
    assert called.out.endswith("; no weights were read\n")
    assert called.code == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_stands_in_the_recipe_and_on_the_page(name: str) -> None:
    page, text = method_text(methods()[name]), recipe_text(name)
    for parameter in methods()[name].parameters.values():
        assert re.search(rf"^  {parameter.name} ", page, re.MULTILINE)
        assert parameter.description in page
        if parameter.name != "int8_mask":
            assert re.search(rf"^ +{parameter.name}: .*# {re.escape(parameter.description)}", text, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_comments_stand_in_one_column(name: str) -> None:
    body = [line for line in recipe_text(name).splitlines() if not line.startswith("#")]
    assert len({line.index(" # ") for line in body if " # " in line}) == 1
    assert all(line == line.rstrip() for line in body)
