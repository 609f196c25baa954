"""Steps: declared once, chained by what they take and leave, and the same as the methods that name them."""

from __future__ import annotations

import harness
import pytest

from mergec.graph import Graph
from mergec.ops import registry, steps
from mergec.ops.registry import Name, methods
from mergec.ops.step import Deltas, Elected, Merged, Models, Rooted, Steps, Trimmed, path_to
from mergec.ops.step import steps as known

NAMED = sorted(name for name, method in methods().items() if method.steps is not None)


def test_what_a_step_is_follows_from_its_signature() -> None:
    ranked = known()["trim"]["ranked"]
    assert ranked is steps.trim_ranked
    assert (ranked.choice, ranked.way, ranked.label, ranked.first) == ("keep", "ranked", "trim: ranked", "keep")
    assert (ranked.takes, ranked.leaves) == (Deltas, Trimmed)
    assert list(ranked.settings) == ["density", "epsilon", "window_size"]
    assert ranked.takes_draw
    assert (list(steps.elect.here), list(steps.elect.settings), steps.elect.first) == (
        ["by", "zero_sign"],
        ["weight", "scope"],
        "by",
    )
    assert steps.diff.first == ""


def test_every_step_says_what_it_does() -> None:
    for ways in known().values():
        for step in ways.values():
            assert step.doc.partition("\n")[0].endswith((".", "base", "needed."))
            assert all(parameter.description for parameter in step.parameters.values())


@pytest.mark.parametrize("name", NAMED)
def test_every_method_that_is_a_list_of_steps_hands_on_its_parameters_and_fits_together(name: str) -> None:
    method = methods()[name]
    uses = method.steps.uses  # type: ignore[union-attr]
    handed_on = {value for use in uses for value in use.arguments.values() if isinstance(value, Name)}
    assert handed_on | {"int8_mask"} == set(method.parameters) | {"int8_mask"}
    kind: type = Rooted if method.base == "origin" else Models
    for use in uses:
        assert issubclass(kind, use.step.takes)
        kind = use.step.leaves
    assert kind is Merged


@pytest.mark.parametrize(
    ("found", "wanted", "names"),
    [
        (Rooted, Deltas, ["diff"]),
        (Rooted, Elected, ["diff", "elect"]),
        (Rooted, Trimmed, ["diff", "trim"]),
        (Trimmed, Deltas, []),
        (Models, Merged, ["fuse"]),
        (Deltas, Models, None),
        (Models, Deltas, None),
        (Elected, Trimmed, None),
    ],
)
def test_the_way_from_one_kind_of_values_to_another(found: type, wanted: type, names: list[str] | None) -> None:
    assert path_to(found, wanted) == names


def test_random_steps_of_one_pipeline_draw_from_streams_of_their_own() -> None:
    tensors = harness.family((50, 50), models=1)
    nodes = harness.loads(Graph(), tensors)
    twice = Steps(steps.diff(), trim(), trim(), steps.fuse_sum(weight=(1.0,)))
    root = twice.run(nodes[0], nodes[1:], registry.Draw(0, ""), registry.Arithmetic())
    kept = (harness.run(root, tensors) != tensors[0]).double().mean().item()
    assert 0.2 < kept < 0.3


def trim() -> object:
    return steps.trim_random(density=(0.5,))
