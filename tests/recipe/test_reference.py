"""Models named by mappings: read as the text that means the same, each mistake at its own key."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes_fixtures import mergec, write_family

import mergec as package
from mergec.keys import plan_hash
from mergec.recipe.canon import canonical_text
from mergec.recipe.reference import reference_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("org/name@main", "org/name@main"),
        ({"model": "org/name"}, "org/name"),
        ({"model": {"path": "org/name", "revision": "v1"}}, "org/name@v1"),
        ({"model": {"path": "a"}, "lora": {"path": "b", "revision": "v2"}}, "a+b@v2"),
        ({"model": "a", "lora": None}, "a"),
    ],
)
def test_a_mapping_is_the_text_that_means_the_same(value: object, text: str) -> None:
    assert reference_text(value) == text


def test_a_mapping_may_stand_wherever_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_family(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").rename("a+b@c")
    Path("plain.yml").write_text(
        "merge_method: ties\nbase_model: base\nmodels: [{model: a+b@c}, {model: b}]\n"
        "parameters: {weight: 1, density: 0.5}\ntokenizer_source: base\n"
    )
    Path("mapped.yml").write_text(
        "merge_method: ties\nbase_model: {model: {path: base}}\n"
        "models: [{model: {model: {path: a+b@c}}}, {model: {model: b}}]\n"
        "parameters: {weight: 1, density: 0.5}\ntokenizer_source: base\n"
    )
    plain, mapped = (package.compile(f"{name}.yml") for name in ("plain", "mapped"))
    assert plan_hash(plain) == plan_hash(mapped)
    assert mergec("diff", "plain.yml", "mapped.yml").code == 0
    assert canonical_text(Path("mapped.yml").read_text(), "r.yml") == canonical_text(
        Path("plain.yml").read_text(), "r.yml"
    )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{pth: a}", "2:19: error[E106]: unknown key 'pth' in a model's reference; hint: known here: lora, model"),
        (
            "{pth: a}",
            "2:18: error[E106]: a model's reference has no 'model'; hint: write `model: {model: {path: PATH}}`",
        ),
        (
            "{model: {pat: a}}",
            "2:27: error[E106]: unknown key 'pat' in a model's reference; hint: did you mean 'path'?",
        ),
        (
            "{model: {pat: a}}",
            "2:19: error[E106]: 'model' of a model's reference has no 'path'; hint: write {path: PATH}",
        ),
        ("{model: [a]}", "2:19: error[E106]: 'model' of a model's reference is neither text nor a mapping"),
        ("{model: a, lora: {path: b, revision: 3}}", "2:45: error[E106]: a revision is text; hint: quote it"),
        ("{model: a, override_architecture: X}", "2:29: error[E106]: 'override_architecture' has no meaning here"),
    ],
)
def test_each_mistake_is_said_at_its_key(written: str, said: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {written}}}]\n")
    called = mergec("check", recipe)
    assert called.code == 2
    assert any(line.startswith(f"{recipe}:{said}") for line in called.err.splitlines()), called.err
