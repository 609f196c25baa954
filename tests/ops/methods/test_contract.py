"""What every merge method owes its user: exactness, shapes, determinism, parameters that do something."""

from __future__ import annotations

from typing import Any

import harness
import oracle
import pytest
import torch
from torch import Tensor

import mergec
from mergec.errors import RecipeError
from mergec.ops.registry import find_method, methods

ALL = sorted(name for name, one in methods().items() if not one.makes_artifact)  # the others: test_artifacts.py
TRIMMING = [name for name in ALL if "density" in methods()[name].parameters]
DRAWING = [name for name in ALL if methods()[name].takes_draw]
WITH_BASE = [name for name in ALL if methods()[name].base != "input"]

# A value for every parameter of any method, in none of its defaults ...
VALUES: dict[str, Any] = {
    "weight": [0.7313, 0.4517, 0.2891],
    "density": [0.5, 0.3, 0.8],
    "gamma": [0.05, 0.1, 0.02],
    "epsilon": [0.1, 0.15, 0.05],
    "t": 0.37,
    "scale": 0.3,
    "lambda": 1.25,
    "cutoff": 0.2,
    "common_share": 0.6,
    "iterations": 40,
    "learning_rate": 1e-3,
    "select_topk": 0.4,
    "eps": 1e-8,
    "max_iter": 10,
    "tol": 1e-5,
    "r": 0.1,
    "alpha": 0.2,
    "mask_lambda": [0.4, 0.5, 0.6],
    "quantile": 0.7,
    "pcb_ratio": 0.3,
    "scope": "tensor",
}
# ... and one that must give another result; the exception is documented to change nothing.
OTHER: dict[str, Any] = {
    "weight": [0.7313, 0.5, 0.6],
    "density": [0.5, 0.35, 0.8],
    "gamma": [0.05, 0.2, 0.02],
    "epsilon": [0.08, 0.05, 0.05],
    "t": 0.38,
    "scale": 0.31,
    "lambda": 1.3,
    "elect": "count",
    "filter_wise": True,
    "filter": "reference",
    "cutoff": 0.3,
    "consensus": "sum",
    "as_matrix": False,
    "vectors": "base",
    "rank_ratio": 0.2,
    "common_share": 0.2,
    "iterations": 30,
    "learning_rate": 2e-3,
    "select_topk": 0.5,
    "eps": 0.5,
    "max_iter": 0,
    "tol": 0.5,
    "r": 0.3,
    "alpha": 0.3,
    "normalize_weights": False,
    "nuslerp_flatten": False,
    "nuslerp_row_wise": True,
    "keep_count": "reference",
    "zero_sign": "minus",
    "aggregate": "max",
    "window_size": [0.05, 0.1, 0.2],
    "mask_lambda": [0.6, 0.5, 0.6],
    "agreement": 3,
    "quantile": 0.5,
    "pcb_ratio": 0.5,
}
WITHOUT_EFFECT = {"int8_mask": True, "scope": "model"}  # over one tensor, the model is the tensor

SHAPES = [(), (1,), (5,), (0,), (0, 3), (4, 1), (6, 8), (1, 7), (3, 2, 5), (2, 3, 1, 4)]
HALVES = {torch.bfloat16, torch.float16}
FACTORED = {"tsv", "iso_cts"}  # vectors of a float32 decomposition are decomposed again


def values_of(name: str, table: dict[str, Any] = VALUES) -> dict[str, Any]:
    """The values a method has parameters for: a list has one per model, and its first is that of a shared parameter."""
    return {key: value_of(name, key, value) for key, value in table.items() if key in methods()[name].parameters}


def value_of(name: str, parameter: str, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    method = methods()[name]
    return value[: method.models[1]] if method.parameters[parameter].per_model else value[0]


def inputs_of(name: str, tensors: list[Tensor]) -> list[Tensor]:
    """As many of a base and its fine-tunes as a method takes."""
    method = methods()[name]
    count = len(tensors) - 1 if method.models[1] is None else method.models[1]
    return tensors[: count + 1] if method.base != "input" else tensors[1 : count + 1]


def rescales_of(name: str) -> list[Any]:
    rescale = find_method(name).parameters.get("rescale")
    if rescale is None:
        return [None]
    return [False, True] if "inverse_prob" not in str(rescale.schema) else [False, True, "l1"]


CASES = [(name, rescale) for name in ALL for rescale in rescales_of(name)]


def test_the_oracle_knows_every_method() -> None:
    assert set(oracle.METHODS) == set(ALL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "rescale"), CASES)
def test_result_is_the_formula_in_float64_rounded_once(name: str, rescale: Any, dtype: torch.dtype) -> None:
    flags = ("normalize", "normalize_weights", "filter_wise", "elect", "filter", "consensus", "nuslerp_flatten")
    flags += ("keep_count", "aggregate", "agreement")
    for flag in [None, *(key for key in flags if key in methods()[name].parameters)]:
        values = values_of(name) | ({} if rescale is None else {"rescale": rescale})
        if flag in OTHER:
            values[flag] = OTHER[flag]
        elif flag:
            values[flag] = not methods()[name].parameters[flag].default
        tensors = inputs_of(name, harness.family((23, 131), dtype, seed=len(name)))
        found = harness.merged(name, tensors, values)
        exact = torch.from_numpy(harness.expected(name, tensors, values))
        assert_close(name, found, exact, tensors)


def assert_close(name: str, found: Tensor, exact: Tensor, tensors: list[Tensor]) -> None:
    """Half types: the exact result rounded, or its neighbour; else a few rounding errors of the largest operand."""
    assert found.dtype == tensors[0].dtype
    largest = max(exact.abs().max().item(), *(one.abs().max().item() for one in tensors))
    unit = 1e-13 if found.dtype == torch.float64 else torch.finfo(torch.float32).eps
    if found.dtype in HALVES:
        off = harness.ulps(found, exact.to(found.dtype)) > 1
        assert not (off & ((found.double() - exact).abs() > 8 * unit * largest)).any()
        assert (found == exact.to(found.dtype)).double().mean() > 0.99
    else:
        assert (found.double() - exact).abs().max().item() <= (16 if name in FACTORED else 8) * unit * largest


@pytest.mark.parametrize("name", ALL)
def test_result_does_not_depend_on_where_tiles_are_cut(name: str) -> None:
    values = values_of(name) | ({"rescale": "l1"} if "rescale" in methods()[name].parameters else {})
    for dtype in (torch.float32, torch.bfloat16):
        tensors = inputs_of(name, harness.family((61, 83), dtype))
        whole = harness.merged(name, tensors, values)
        for tile in (7, 64, 1000, 4096) if dtype == torch.float32 else (64, 1000):
            assert torch.equal(harness.merged(name, tensors, values, tile=tile), whole), (dtype, tile)
    tensors = inputs_of(name, harness.family((3, 29)))
    assert torch.equal(harness.merged(name, tensors, values, tile=1), harness.merged(name, tensors, values))


@pytest.mark.parametrize("name", ["model_stock", "della", "ties", "slerp"])
def test_compat_arithmetic_does_not_depend_on_where_tiles_are_cut(name: str) -> None:
    values = values_of(name) | ({"rescale": True} if "rescale" in methods()[name].parameters else {})
    tensors = inputs_of(name, harness.family((61, 83), torch.bfloat16))
    whole = harness.merged(name, tensors, values, mergekit=True)
    for tile in (7, 1000):
        assert torch.equal(harness.merged(name, tensors, values, mergekit=True, tile=tile), whole)


def in_memory(name: str, tensors: list[Tensor], values: dict[str, Any], **options: Any) -> Tensor:
    """The same merge through the public function for state dicts."""
    method = methods()[name]
    base = {"w": tensors[0]} if method.base != "input" else None
    models = {str(i): {"w": one} for i, one in enumerate(tensors[1:] if base else tensors)}
    shared = {key: value for key, value in values.items() if not isinstance(value, list)}
    own = {
        model: {key: value[number] for key, value in values.items() if isinstance(value, list)}
        for number, model in enumerate(models)
    }
    return mergec.merge(name, models, base=base, parameters=shared, model_parameters=own, **options)["w"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_shape_is_kept_from_0_to_4_axes_and_for_empty_tensors(name: str, shape: tuple[int, ...]) -> None:
    tensors = inputs_of(name, harness.family(shape, seed=3))
    for extra in [{}] + [{"filter_wise": True}] * ("filter_wise" in methods()[name].parameters):
        values = values_of(name) | extra
        found = in_memory(name, tensors, values)
        assert found.shape == shape
        if found.numel():
            assert_close(name, found, torch.from_numpy(harness.expected(name, tensors, values)), tensors)


@pytest.mark.parametrize("name", WITH_BASE)
@pytest.mark.parametrize("rescale", [False, True, "l1"])
def test_models_equal_to_the_base_give_the_base(name: str, rescale: Any) -> None:
    values = values_of(name) | ({"rescale": rescale} if "rescale" in methods()[name].parameters else {})
    base = harness.family((9, 40))[0]
    tensors = inputs_of(name, [base] * 4)
    torch.testing.assert_close(in_memory(name, tensors, values), base, rtol=2e-7, atol=0)


@pytest.mark.parametrize("name", WITH_BASE)
def test_all_zero_base_and_models_stay_zero(name: str) -> None:
    tensors = inputs_of(name, [torch.zeros(6, 7)] * 4)
    assert not in_memory(name, tensors, values_of(name)).any()


@pytest.mark.parametrize("name", ["linear", "passthrough"])
def test_identical_models_average_to_themselves(name: str) -> None:
    model = harness.family((9, 40))[0]
    tensors = inputs_of(name, [model] * 4)
    values = values_of(name) | ({"scale": 1.0} if name == "passthrough" else {})
    torch.testing.assert_close(in_memory(name, tensors, values), model, rtol=2e-7, atol=0)


@pytest.mark.parametrize(("name", "parameter"), [(n, p) for n in ALL for p in methods()[n].parameters])
def test_every_parameter_reaches_the_kernel(name: str, parameter: str) -> None:
    declared = methods()[name].parameters[parameter]
    values = values_of(name)
    if parameter == "rescale":
        values["rescale"], other = True, "none"
    elif parameter == "normalize":
        other = not declared.default
    elif parameter in WITHOUT_EFFECT:
        other = WITHOUT_EFFECT[parameter]
    else:
        assert parameter in OTHER, f"give the new parameter {parameter!r} of {name} a value in OTHER"
        other = value_of(name, parameter, OTHER[parameter])
    if parameter == "nuslerp_row_wise":
        values["nuslerp_flatten"] = False
    tensors = inputs_of(name, harness.family((50,) if parameter == "vectors" else (20, 50), noise=0.5))
    if parameter == "zero_sign":  # votes that cancel out
        values["weight"], tensors = 1.0, [(3 * one).round() for one in tensors]
    before = in_memory(name, tensors, values)
    after = in_memory(name, tensors, values | {parameter: other})
    assert torch.equal(before, after) == (parameter in WITHOUT_EFFECT)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [(n, p.name) for n in ALL for p in methods()[n].parameters.values() if p.per_model and p.name != "scale"],
)
def test_per_model_parameters_are_not_handed_to_the_wrong_model(name: str, parameter: str) -> None:
    tensors = inputs_of(name, harness.family((20, 50), noise=0.5))
    values = values_of(name)
    values.setdefault(parameter, value_of(name, parameter, OTHER[parameter]))
    for slot in range(len(values[parameter])):
        changed = list(values[parameter])
        changed[slot] *= 0.8
        after = values | {parameter: changed}
        assert_close(
            name, in_memory(name, tensors, after), torch.from_numpy(harness.expected(name, tensors, after)), tensors
        )


@pytest.mark.parametrize(
    "name",
    [n for n in WITH_BASE if "weight" in methods()[n].parameters and methods()[n].base == "origin"],
)
def test_weights_of_zero_give_the_base_bit_for_bit(name: str) -> None:
    tensors = inputs_of(name, harness.family((9, 40), torch.bfloat16))
    assert torch.equal(in_memory(name, tensors, values_of(name) | {"weight": 0.0}), tensors[0])


@pytest.mark.parametrize("name", TRIMMING)
def test_density_of_zero_gives_the_base_bit_for_bit(name: str) -> None:
    tensors = inputs_of(name, harness.family((9, 40), torch.bfloat16))
    assert torch.equal(in_memory(name, tensors, values_of(name) | {"density": 0.0}), tensors[0])


ANY_NUMBER = [name for name in ALL if methods()[name].models[1] is None and name != "opcm"]  # one after the other


@pytest.mark.parametrize("name", [name for name in ANY_NUMBER if not methods()[name].takes_draw])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_order_of_the_models_does_not_matter(name: str, dtype: torch.dtype) -> None:
    tensors = inputs_of(name, harness.family((20, 50), dtype))
    values, offset = values_of(name), 1 if methods()[name].base != "input" else 0
    order = [2, 0, 1]
    shuffled = {key: [value[i] for i in order] if isinstance(value, list) else value for key, value in values.items()}
    moved = [*tensors[:offset], *(tensors[offset + i] for i in order)]
    left, right = in_memory(name, tensors, values), in_memory(name, moved, shuffled)
    if dtype == torch.float64:
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)
    else:
        assert (harness.ulps(left, right) > 1).sum() == 0


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_left_as_they_were(name: str) -> None:
    tensors = inputs_of(name, harness.family((9, 40)))
    copies = [one.clone() for one in tensors]
    result = in_memory(name, tensors, values_of(name))
    assert all(torch.equal(one, copy) for one, copy in zip(tensors, copies, strict=True))
    assert all(result.data_ptr() != one.data_ptr() for one in tensors)


@pytest.mark.parametrize("name", ALL)
def test_passing_through_shares_no_memory_with_its_input(name: str) -> None:
    """Where the merge is one input as it is, the result is still a tensor of its own."""
    tensors = inputs_of(name, harness.family((9, 40)))
    one = {"t": 0.0, "density": 0.0, "weight": [1.0, 0.0, 0.0]}
    values = values_of(name, one)
    result = in_memory(name, tensors, values)
    assert all(result.data_ptr() != tensor.data_ptr() for tensor in tensors)


@pytest.mark.parametrize("name", DRAWING)
def test_equal_seeds_give_equal_bits_and_others_do_not(name: str) -> None:
    tensors = inputs_of(name, harness.family((40, 60)))
    values = values_of(name)
    first, again = (in_memory(name, tensors, values, seed=7) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, in_memory(name, tensors, values, seed=8))


@pytest.mark.parametrize("name", DRAWING)
def test_randomness_does_not_depend_on_the_global_generator(name: str) -> None:
    tensors = inputs_of(name, harness.family((40, 60)))
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        results.append(in_memory(name, tensors, values_of(name)))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*results)


def kept_by(name: str, tensors: list[Tensor], slot: int, tensor: str) -> Tensor:
    """Which entries of one model's delta survive: the others weigh nothing."""
    weight = [0.0, 0.0, 0.0]
    weight[slot] = 1.0
    values = {"weight": weight, "density": 0.5, "rescale": False, "normalize": False}
    return harness.merged(name, tensors, values, name_of_tensor=tensor) != tensors[0]


@pytest.mark.parametrize("name", DRAWING)
def test_masks_differ_between_tensors_and_between_models(name: str) -> None:
    base, model = harness.family((60, 60), models=1)
    tensors = [base, model, model, model]
    masks = [kept_by(name, tensors, slot, tensor) for slot in (0, 1, 2) for tensor in ("w", "v")]
    for i, left in enumerate(masks):
        assert 0.4 < left.double().mean() < 0.6
        for right in masks[:i]:
            assert 0.4 < (left == right).double().mean() < 0.6


def test_masks_are_keyed_by_the_step_that_draws_them() -> None:
    """dare_linear and dare_ties trim by one step, so their masks are equal; della trims by another one."""
    base, model = harness.family((60, 60), models=1)
    masks = {name: kept_by(name, [base, model, model, model], 0, "w") for name in DRAWING}
    assert torch.equal(masks["dare_linear"], masks["dare_ties"])
    assert 0.4 < (masks["dare_linear"] == masks["della_linear"]).double().mean() < 0.6


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_a_tensor_merged_alone_or_among_others_is_the_same(name: str) -> None:
    """Randomness from a running generator would depend on which tensors came before."""
    one, two = harness.family((30, 30), models=1, seed=1), harness.family((10, 10), models=1, seed=2)
    parameters = {"weight": 1.0, "density": 0.5}
    alone = mergec.merge(name, [{"w": one[1]}], base={"w": one[0]}, parameters=parameters)
    both = mergec.merge(name, [{"a": two[1], "w": one[1]}], base={"a": two[0], "w": one[0]}, parameters=parameters)
    assert torch.equal(alone["w"], both["w"])


@pytest.mark.parametrize("name", [n for n in ALL if "normalize" in methods()[n].parameters])
def test_weights_that_sum_to_zero_are_refused_where_their_sum_divides(name: str) -> None:
    tensors = inputs_of(name, harness.family((4, 4)))
    values = values_of(name) | {"weight": [0.5, -0.25, -0.25], "normalize": True}
    with pytest.raises(RecipeError, match=r"E206.*sum to zero"):
        in_memory(name, tensors, values)
    assert in_memory(name, tensors, values | {"normalize": False}).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_integers_are_copied_and_never_averaged(name: str) -> None:
    tensors = inputs_of(name, [torch.tensor([1, 2**53 + 1, -7])] * 4)
    found = in_memory(name, tensors, values_of(name))
    assert found.dtype == torch.int64
    assert torch.equal(found, tensors[0])
