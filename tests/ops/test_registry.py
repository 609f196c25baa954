"""Ops and methods are declared once: what follows from the signature, and which declarations are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import mergec.ops.methods
from mergec.errors import UsageError
from mergec.graph import Node
from mergec.ops import op as op_module
from mergec.ops import registry
from mergec.ops.op import OPS, op
from mergec.ops.registry import Each, each, find_method, load_plugin, method, methods

HALF = each(0.5)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares is forgotten after it."""
    methods()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(op_module, "OPS", dict(OPS))


def test_every_file_in_the_folder_is_a_method_of_its_own_name() -> None:
    files = {path.stem for path in Path(mergec.ops.methods.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(methods())


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_says_what_it_computes(name: str) -> None:
    found = methods()[name]
    assert found.summary.endswith(".")
    assert "result = " in found.doc or name == "model_stock"
    assert found.paper
    assert all(parameter.description for parameter in found.parameters.values())


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_says_what_it_does_and_costs(name: str) -> None:
    assert OPS[name].__doc__
    scratch = OPS[name].scratch_bytes
    assert callable(scratch) or scratch >= 0


def test_parameters_come_from_the_signature() -> None:
    ties = methods()["ties"].parameters
    assert ties["weight"].per_model
    assert ties["weight"].required
    assert ties["density"].default == 1.0
    assert not ties["normalize"].per_model
    assert ties["lambda"].argument == "lambda_"
    assert ties["density"].schema["maximum"] == 1
    assert ties["elect"].schema["enum"] == ["sum", "count", "normmass", "normfrac"]


def test_a_mistyped_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'dare_ties'"):
        find_method("dare_tie")


def test_two_methods_of_one_name_are_refused(sandbox: None) -> None:
    def ties(base: Node, models: tuple[Node, ...]) -> Node:
        return base

    with pytest.raises(UsageError, match="E502"):
        method("here")(ties)


def test_two_ops_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two ops are called diff"):
        op("map", "weight -> weight", name="diff")(lambda values: values)


def test_a_plugin_file_adds_a_method(sandbox: None, tmp_path: Path) -> None:
    text = """
from mergec.ops.registry import method

@method("https://example.org")
def first_of_all(base, models):
    \"\"\"Take the first model.\"\"\"
    return models[0]
"""
    (tmp_path / "mine.py").write_text(text)
    load_plugin(tmp_path / "mine.py")
    assert find_method("first_of_all").summary == "Take the first model."


def test_a_missing_plugin_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no plugin file"):
        load_plugin(tmp_path / "absent.py")


def test_a_method_of_one_s_own_needs_one_declaration(sandbox: None) -> None:
    @method("https://example.org", version=3)
    def nudge(base: Node, models: tuple[Node, ...], *, share: Each[float] = HALF, strong_: bool = False) -> Node:
        """Nudge the base."""
        return base

    assert nudge.stream == "nudge.3"
    assert nudge.parameters["strong"].argument == "strong_"
    assert nudge.parameters["share"].per_model
    assert nudge.parameters["share"].validate("1e-3") == 0.001
    assert not nudge.takes_draw
