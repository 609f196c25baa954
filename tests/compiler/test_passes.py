"""Rewrites remove work and leave every bit where it was."""

from __future__ import annotations

from typing import Any

import harness
import pytest
import torch

from mergec.compiler.passes import PASSES, rewrite
from mergec.graph import Graph, walk
from mergec.ops.basic import cast, diff, weigh
from mergec.ops.fuse import average, fuse_deltas
from mergec.ops.registry import methods

TENSORS = harness.family((30, 40))
FEW = TENSORS[:2]

# method, settings, how many tensors are read after the rewrite, an op that must be gone
REWRITTEN: list[tuple[str, dict[str, Any], int, str]] = [
    ("task_arithmetic", {"weight": 1.0}, 4, "weigh"),
    ("task_arithmetic", {"weight": [0.5, 0.0, 0.25]}, 3, ""),
    ("task_arithmetic", {"weight": [0.5, 0.0, 0.25], "normalize": True}, 3, ""),
    ("task_arithmetic", {"weight": 0.0}, 1, "fuse_sum"),
    ("ties", {"weight": 1.0, "density": 1.0}, 4, "trim"),
    ("ties", {"weight": [0.5, 0.0, 0.25], "density": 0.5}, 3, ""),
    ("ties", {"weight": [0.5, 0.0, 0.25], "density": 0.5, "elect": "count"}, 3, ""),
    ("ties", {"weight": 0.5, "density": [0.5, 0.0, 1.0]}, 3, ""),
    ("ties", {"weight": 0.5, "density": [0.5, 0.0, 1.0], "rescale": True}, 3, ""),
    ("ties", {"weight": 0.5, "density": 0.0}, 1, "elect"),
    ("breadcrumbs", {"weight": 0.5, "density": [0.5, 0.0, 1.0]}, 3, ""),
    ("breadcrumbs_ties", {"weight": 0.5, "density": [0.5, 0.0, 1.0], "rescale": "l1"}, 3, ""),
    ("dare_linear", {"weight": 0.5, "density": 1.0}, 4, "drop"),
    ("dare_linear", {"weight": 0.5, "density": [0.5, 0.0, 1.0]}, 3, ""),
    ("dare_ties", {"weight": 0.5, "density": [0.5, 0.0, 1.0], "rescale": "l1"}, 3, ""),
    ("della", {"weight": 0.5, "density": [0.5, 0.0, 1.0]}, 3, ""),
    ("della_linear", {"weight": [0.5, 0.0, 1.0], "density": 0.5, "rescale": "l1"}, 3, ""),
    ("linear", {"weight": [0.5, 0.0, 0.25, 0.0]}, 2, ""),
    ("linear", {"weight": [0.0, 1.0, 0.0, 0.0]}, 1, "average"),
    ("linear", {"weight": [0.0, 1.0, 0.0, 0.0], "normalize": False}, 1, "average"),
    ("slerp", {"t": 0.0}, 1, "combine"),
    ("slerp", {"t": 1.0}, 1, "combine"),
    ("nuslerp", {"weight": [1.0, 0.0]}, 2, "combine_deltas"),
    ("nuslerp", {"weight": [0.0, 2.0]}, 2, "combine_deltas"),
    ("passthrough", {"scale": 1.0}, 1, "scale"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "values", "read", "gone"), REWRITTEN)
def test_rewritten_is_bit_equal_and_reads_less(
    name: str, values: dict[str, Any], read: int, gone: str, dtype: torch.dtype
) -> None:
    count = {"slerp": 2, "passthrough": 1, "nuslerp": 3}.get(name, 4)
    tensors = harness.family((30, 40), dtype)[:count]
    plain = harness.build(name, tensors, values, rewritten=False)
    better = rewrite(plain)
    assert torch.equal(harness.run(better, tensors), harness.run(plain, tensors))
    order = walk(better)
    assert sum(node.op == "load" for node in order) == read
    assert gone not in {node.op for node in order}


def test_an_average_of_one_model_is_that_model() -> None:
    """Bit equal only up to the rounding of w * x / w, which is what goes away."""
    plain = harness.build("linear", TENSORS, {"weight": [0.0, 0.3, 0.0, 0.0]}, rewritten=False)
    better = rewrite(plain)
    assert torch.equal(harness.run(better, TENSORS), TENSORS[1])
    assert harness.ulps(harness.run(plain, TENSORS), TENSORS[1]).max() <= 1


@pytest.mark.parametrize("name", sorted(name for name, one in methods().items() if not one.makes_artifact))
def test_rewriting_twice_changes_nothing_more(name: str) -> None:
    method = methods()[name]
    tensors = TENSORS if method.models[1] is None else TENSORS[: method.models[1] + (method.base != "input")]
    values = {"weight": [0.5, 0.0, 1.0, 2.0][: len(tensors) - (method.base != "input")], "density": 0.5, "t": 0.3}
    values = {key: value for key, value in values.items() if key in method.parameters}
    once = harness.build(name, tensors, values)
    assert rewrite(once) is once


def test_a_weight_of_zero_still_counts_in_a_divisor_that_does_not_look_at_deltas() -> None:
    """Dropping a model of density 0 with its weight would turn the mean of three into the mean of two."""
    values = {"weight": [1.0, 1.0, 2.0], "density": [1.0, 0.0, 1.0], "normalize": True}
    found = harness.merged("dare_linear", TENSORS, values)
    base, a, _, c = (one.double() for one in TENSORS)
    torch.testing.assert_close(found.double(), base + ((a - base) + 2 * (c - base)) / 4, rtol=1e-6, atol=1e-6)


def test_a_cast_is_dropped_only_where_nothing_is_cast() -> None:
    node = harness.loads(Graph(), [torch.ones(2)])[0]
    assert rewrite(cast(cast(node, dtype="float32"), dtype="float32")) is node
    narrowed = cast(cast(node, dtype="bfloat16"), dtype="float32")
    assert rewrite(narrowed) is narrowed


def test_a_slerp_that_is_not_at_an_end_is_kept() -> None:
    for t in (1e-12, 0.5, 2.0, -1.0):
        assert {node.op for node in walk(harness.build("slerp", FEW, {"t": t}))} >= {"gram", "combine"}


def test_equal_subgraphs_are_one_node() -> None:
    graph = Graph()
    base, model = harness.loads(graph, FEW)
    assert weigh(diff(model, base), weight=0.5) is weigh(diff(model, base), weight=0.5)
    assert weigh(diff(model, base), weight=1.0) is not weigh(diff(model, base), weight=2.0)


def test_one_and_true_and_minus_zero_are_not_the_same_attribute() -> None:
    graph = Graph()
    base, model = harness.loads(graph, FEW)
    delta = diff(model, base)
    made = [weigh(delta, weight=weight) for weight in (1, 1.0, True, 0.0, -0.0)]
    assert len({node.index for node in made}) == len(made)


def test_a_pass_that_changes_the_type_is_caught() -> None:
    node = cast(harness.loads(Graph(), [torch.ones(2)])[0], dtype="bfloat16")
    with pytest.raises(TypeError, match="a pass changed"):
        rewrite(node, {"wrong": lambda found: found.inputs[0] if found.op == "cast" else None})


def test_every_pass_has_a_case_here() -> None:
    """Leaving a rewrite out changes at least one of the graphs above: a new one needs a new case."""
    graphs = []
    for name, values, _, _ in REWRITTEN:
        tensors = TENSORS[: {"slerp": 2, "passthrough": 1, "nuslerp": 3}.get(name, 4)]
        graphs.append(harness.build(name, tensors, values, rewritten=False))
    for label in PASSES:
        others = {other: one for other, one in PASSES.items() if other != label}
        assert any(rewrite(graph, others) is not rewrite(graph) for graph in graphs), label


def test_average_keeps_its_last_model_when_every_weight_is_zero() -> None:
    models = harness.loads(Graph(), FEW)
    root = average(*models, weights=(0.0, 0.0), normalize=False)
    assert rewrite(root) is root
    assert not harness.run(root, FEW).any()


def test_a_factor_of_zero_is_not_mistaken_for_no_deltas() -> None:
    base, model = harness.loads(Graph(), FEW)
    root = rewrite(fuse_deltas(base, [diff(model, base)], [1.0], False, 0.0))
    assert torch.equal(harness.run(root, FEW), FEW[0])
