"""Torch that is imported in part: no merge asks for the rest, and the bytes are those of all of torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import any_method
from recipes_fixtures import write_model

import mergec
from mergec.execute import start
from mergec.ops.registry import methods

ALL = sorted(name for name, one in methods().items() if not one.makes_artifact)

MERGE = """
import json, sys
from pathlib import Path
import mergec
from mergec.execute.start import Waiting, import_torch

plans = [mergec.compile(Path(name)) for name in sys.argv[1:]]
assert "torch" not in sys.modules
import_torch(plans[0])
before = [name for name, module in sys.modules.items() if isinstance(module, Waiting)]
for name, plan in zip(sys.argv[1:], plans):
    plan.run(f"{name}.out", device="cpu")
after = [name for name, module in sys.modules.items() if isinstance(module, Waiting)]
print(json.dumps([before, after]))
"""
ASK = """
from types import SimpleNamespace
from mergec.execute.start import Waiting, import_torch

import_torch(SimpleNamespace(nodes=()))
import torch

assert type(torch.func) is Waiting
assert torch.vmap(lambda x: 2 * x)(torch.ones(2)).tolist() == [2, 2]
assert type(torch.func) is not Waiting
import torch.nn.quantized.dynamic
print(torch.quantization.QConfig.__name__, torch.compiler.is_compiling(), hasattr(torch.export, "__path__"))
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models base, a, b and c in the current folder."""
    monkeypatch.chdir(tmp_path)
    for model in ("base", "a", "b", "c"):
        write_model(tmp_path / model, seed=model)
    return tmp_path


def recipe_of(name: str) -> Path:
    """A recipe of a method over models in the current folder, in a folder of its own."""
    folder = Path(name).resolve()
    folder.mkdir()
    return any_method(folder, name, folder.parent)


def digest(folder: str) -> str:
    return hashlib.sha256(Path(folder, "model.safetensors").read_bytes()).hexdigest()


def test_every_method_makes_the_same_bytes_and_asks_for_nothing_that_waits(here: Path) -> None:
    recipes = [recipe_of(name) for name in ALL]
    before, after = json.loads(python(MERGE, *map(str, recipes)))
    assert before
    assert set(before) <= start.LATER
    assert after == before
    for recipe in recipes:
        mergec.compile(recipe).run("whole", device="cpu", force=True, rebuild=True)
        assert digest("whole") == digest(f"{recipe}.out"), recipe.parent.name


def test_what_waits_is_there_when_asked_for() -> None:
    assert python(ASK) == "QConfig False True\n"


@pytest.mark.parametrize(
    ("change", "nodes"),
    [
        ("start._TRIED = ('0.1.',)", ""),
        ("", "SimpleNamespace(op='prompt_states', op_class='states')"),
        (
            "OPS['theirs'] = SimpleNamespace(kernel=SimpleNamespace(__module__='theirs'))",
            "SimpleNamespace(op='theirs', op_class='map')",
        ),
    ],
    ids=["another release", "states", "an op of a plugin"],
)
def test_all_of_torch_is_imported_where_less_was_not_tried(change: str, nodes: str) -> None:
    code = f"""
import sys
from types import SimpleNamespace
from mergec.execute import start
from mergec.ops.op import OPS

{change}
start.import_torch(SimpleNamespace(nodes=[{nodes}]))
print(any(isinstance(module, start.Waiting) for module in sys.modules.values()))
"""
    assert python(code) == "False\n"
