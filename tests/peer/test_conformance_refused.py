"""What mergekit finds late or never, mergec refuses before a weight is read: by `check`, with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from differential import Recipe
from models import Family, tensors_of
from peer_recipes import merge, model, save_model, source, stack
from recipes_fixtures import mergec as command
from vocabularies import word_tokenizer, write_llama

from mergec.io.reader import Reader

Refused = Callable[[Recipe], str]


@pytest.fixture
def llama(family: Callable[..., Family]) -> Family:
    return family("llama", torch.float32)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """What `check` and `run` say of a recipe; neither may open a file to read weights."""

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("weights were opened")

    def check(recipe: Recipe) -> str:
        path = tmp_path / "r.yml"
        path.write_text(json.dumps(recipe))
        with monkeypatch.context() as patched:
            patched.setattr(Reader, "__init__", opened)
            checked, ran = command("check", path), command("run", path, tmp_path / "out")
        assert (checked.code, ran.code) == (2, 2), checked.out + checked.err
        assert "r.yml:1:" in checked.err + checked.out
        return checked.err + checked.out

    return check


def test_an_unknown_key(llama: Family, refused: Refused) -> None:
    assert "E101" in refused({**merge("linear", model(llama.a, weight=1)), "paramters": {}})


def test_an_unknown_parameter(llama: Family, refused: Refused) -> None:
    assert "did you mean 'weight'" in refused(merge("linear", model(llama.a, wieght=1)))


def test_an_unknown_method(llama: Family, refused: Refused) -> None:
    assert "E200" in refused(merge("tise", model(llama.a)))


@pytest.mark.parametrize(("first", "end", "code"), [(0, 9, "E115"), (2, 1, "E112"), (1, 1, "E112")])
def test_layers_beyond_the_model_or_the_wrong_way_round(
    first: int, end: int, code: str, llama: Family, refused: Refused
) -> None:
    assert code in refused(stack("passthrough", [source(llama.a, first, end)]))


def test_a_model_twice(llama: Family, refused: Refused) -> None:
    assert "E212" in refused(merge("linear", model(llama.a, weight=1), model(llama.a, weight=1)))


def test_a_slice_without_its_base(llama: Family, refused: Refused) -> None:
    recipe = stack("ties", [source(llama.a, 0, 3), source(llama.b, 0, 3)], base=llama.base, parameters={"weight": 1})
    assert "E111" in refused(recipe)


def test_weights_that_sum_to_zero(llama: Family, refused: Refused) -> None:
    assert "E206" in refused(merge("linear", model(llama.a, weight=0.5), model(llama.b, weight=-0.5)))


@pytest.mark.parametrize("density", [-0.1, 1.5])
def test_a_density_outside_of_0_to_1(density: float, llama: Family, refused: Refused) -> None:
    assert "E205" in refused(merge("ties", model(llama.a, weight=1, density=density), base=llama.base))


def test_an_epsilon_that_leaves_0_to_1(llama: Family, refused: Refused) -> None:
    assert "E206" in refused(merge("della", model(llama.a, weight=1, density=0.9, epsilon=0.2), base=llama.base))


def test_a_dtype_that_there_is_not(llama: Family, refused: Refused) -> None:
    assert "E104" in refused({**merge("linear", model(llama.a, weight=1)), "dtype": "bfloat"})


def test_an_unknown_tokenizer_source(llama: Family, refused: Refused) -> None:
    assert "E213" in refused({**merge("linear", model(llama.a, weight=1)), "tokenizer_source": "uion"})


def test_shapes_that_differ(llama: Family, refused: Refused, tmp_path: Path) -> None:
    tensors = tensors_of(llama.b)
    tensors["model.norm.weight"] = torch.ones(7)
    save_model(llama.b, tensors, tmp_path / "other")
    assert "E323" in refused(merge("linear", model(llama.a, weight=1), model(tmp_path / "other", weight=1)))


def test_vocabularies_that_differ_without_a_word_on_it(refused: Refused, tmp_path: Path) -> None:
    words = ["<unk>", *"abcdefg"]
    small = write_llama(tmp_path / "small", word_tokenizer(words), 8, 0)
    large = write_llama(tmp_path / "large", word_tokenizer([*words, "h"]), 9, 1)
    assert "E321" in refused(merge("linear", model(small, weight=1), model(large, weight=1)))


def test_a_tensor_that_one_model_lacks(llama: Family, refused: Refused, tmp_path: Path) -> None:
    tensors = tensors_of(llama.b)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_model(llama.b, tensors, tmp_path / "other")
    assert "E320" in refused(merge("linear", model(llama.a, weight=1), model(tmp_path / "other", weight=1)))


def test_a_tensor_that_no_module_takes(family: Callable[..., Family], refused: Refused) -> None:
    a = family("llava", torch.float32).a
    modules = {"text_decoder": {"models": [model(a)]}, "vision_tower": {"models": [model(a)]}}
    assert "E117" in refused({"merge_method": "passthrough", "modules": modules})


def test_a_model_that_is_not_there(llama: Family, refused: Refused, tmp_path: Path) -> None:
    assert "E300" in refused(merge("linear", model(llama.a, weight=1), model(tmp_path / "bb", weight=1)))


def test_a_folder_that_is_not_empty_is_left_alone(llama: Family, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "r.yml").write_text(json.dumps(merge("linear", model(llama.a, weight=1))))
    called = command("run", tmp_path / "r.yml", tmp_path / "out")
    assert called.code != 0
    assert "--force" in called.err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]
