"""Layers drawn at random: the same for a seed everywhere, spelled out by canon, by the weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from recipes_fixtures import mergec, write_family

import mergec as package
from mergec.keys import plan_hash
from mergec.recipe.canon import canonical_text
from mergec.recipe.document import parse
from mergec.recipe.load import read_recipe

TEXT = """\
merge_method: passthrough
shuffle:
  models:
    - {model: a, weight: 3}
    - {model: b}
  layers: LAYERS
seed: 7
"""


def layers_of(text: str) -> list[tuple[str, int]]:
    """The model and the layer of each layer of the result."""
    recipe, problems = read_recipe(parse(text, "r.yml"))
    assert recipe is not None, problems
    sources = [one.sources[0] for one in recipe.slices]
    return [(one.model, layer) for one in sources for layer in range(*one.layer_range)]


def test_layers_keep_their_numbers_and_come_by_the_weights() -> None:
    found = layers_of(TEXT.replace("LAYERS", "4000"))
    assert [layer for _, layer in found] == list(range(4000))
    shares = Counter(model for model, _ in found)
    assert 0.72 < shares["a"] / 4000 < 0.78


def test_a_seed_gives_the_same_layers_always_and_another_gives_others() -> None:
    text = TEXT.replace("LAYERS", "12")
    assert "".join(model for model, _ in layers_of(text)) == "aabbbbaaaaaa"
    assert layers_of(text) != layers_of(text.replace("seed: 7", "seed: 8"))


def test_fully_random_layers_are_of_any_number() -> None:
    found = [layer for _, layer in layers_of(TEXT.replace("LAYERS", "1000\n  full_random: true"))]
    assert len(set(found)) > 500
    assert set(found) <= set(range(1000))
    assert found != sorted(found)


def test_the_canonical_text_spells_the_slices_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_family(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("r.yml").write_text(TEXT.replace("LAYERS", "2"))
    Path("spelled.yml").write_text(canonical_text(Path("r.yml").read_text(), "r.yml"))
    assert "shuffle" not in Path("spelled.yml").read_text()
    assert "layer_range" in Path("spelled.yml").read_text()
    assert plan_hash(package.compile("r.yml")) == plan_hash(package.compile("spelled.yml"))
    assert mergec("run", "r.yml", "out", "--device", "cpu").code == 0
    Path("other.yml").write_text(Path("r.yml").read_text().replace("weight: 3", "weight: 4"))
    assert "shuffle" in mergec("diff", "r.yml", "other.yml").out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("passthrough", "linear", "r.yml:1:15: error[E131]: 'shuffle' stacks the layers that are drawn as they are"),
        ("model: a", "model: nowhere", "r.yml:4:15: error[E300]: no model 'nowhere'"),
        ("weight: 3", "weight: 0", "r.yml:4:26: error[E103]: found 0 for 'weight', expected a number"),
        (
            "weight: 3",
            "wieght: 3",
            "r.yml:4:18: error[E101]: unknown key 'wieght' in a model of a shuffle; hint:",
        ),
        (
            "layers: 2",
            "layers: 5",
            "r.yml:6:11: error[E115]: found layers: 5, and 'b' has 2 layers; hint: expected at most 2",
        ),
        ("seed: 7", "models: [{model: a}]", "r.yml:7:1: error[E110]: found 'models' beside 'shuffle'"),
    ],
)
def test_mistakes_are_said_where_they_stand(
    old: str, new: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_family(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("r.yml").write_text(TEXT.replace("LAYERS", "2").replace(old, new))
    called = mergec("check", "r.yml")
    assert called.code == 2
    assert said in called.err
