"""Numbers other implementations gave for one small example, recorded once: a base and three deltas, w 2x3 and b 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from torch import Tensor

import mergec
from mergec.graph import Graph
from mergec.ops import elect, rescale, trim
from mergec.ops.opcm import merge_orthogonal
from mergec.ops.registry import Draw

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "goldens.json").read_text())


def dictionary(values: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(rows) for name, rows in values.items()}


BASE = dictionary(GOLDENS["inputs"]["base"])
DELTAS = {label: dictionary(delta) for label, delta in GOLDENS["inputs"]["task_vectors"].items()}
MODELS = {label: {name: BASE[name] + delta[name] for name in BASE} for label, delta in DELTAS.items()}


def merged_delta(method: str, labels: str, parameters: dict[str, Any], weights: list[float]) -> dict[str, Tensor]:
    models = {label: MODELS[label] for label in labels}
    own = {label: {"weight": weight} for label, weight in zip(labels, weights, strict=True)} if weights else {}
    merged = mergec.merge(method, models, base=BASE, parameters=parameters, model_parameters=own)
    return {name: merged[name] - BASE[name] for name in BASE}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Any]) -> None:
    for name, rows in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("golden", "density", "weights"),
    [
        ("ties_density_0.5_delta", 0.5, [1, 1, 1]),
        ("ties_density_1_delta", 1.0, [1, 1, 1]),
        ("ties_density_0.5_weights_1_2_-1_delta", 0.5, [1, 2, -1]),
    ],
)
def test_ties(golden: str, density: float, weights: list[float]) -> None:
    """Weights come before the election of signs: the third golden tells that from the other order."""
    assert_equal(merged_delta("ties", "ABC", {"density": density}, weights), GOLDENS[golden])


@pytest.mark.parametrize("label", ["A", "B", "C"])
def test_trim(label: str) -> None:
    node = harness.loads(Graph(), [DELTAS[label]["w"]], "delta")[0]
    found = harness.run(trim.trim_magnitude(node, 0.5), [DELTAS[label]["w"]])
    assert found.tolist() == GOLDENS["trimmed_density_0.5"][label]


@pytest.mark.parametrize(("density", "golden"), [(0.2, "topk20"), (0.5, "topk50")])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_trim_by_a_threshold_of_the_model(density: float, golden: str, number: int) -> None:
    parameters = {"density": density, "scope": "model", "keep_count": "reference"}
    found = merged_delta("ties", "ABC"[number], parameters, [1])
    assert flat(found) == pytest.approx(GOLDENS["ties_reference_trimmed"][golden][number], abs=1e-6)


def flat(tensors: dict[str, Tensor]) -> list[float]:
    """All entries, tensors by name: how the reference looks at a model."""
    return [float(value) for name in sorted(tensors) for value in tensors[name].flatten()]


@pytest.mark.parametrize(
    ("golden", "parameters"),
    [
        ("topk50_mass_dis-mean", {"density": 0.5}),
        ("topk50_mass_dis-sum", {"density": 0.5, "normalize": False}),
        ("topk50_mass_dis-sum", {"density": 0.5, "aggregate": "sum"}),
        ("topk50_mass_dis-max", {"density": 0.5, "aggregate": "max", "zero_sign": "majority"}),
        ("topk50_normfrac_dis-mean", {"density": 0.5, "elect": "normfrac", "zero_sign": "majority"}),
        ("topk50_normmass_dis-mean", {"density": 0.5, "elect": "normmass"}),
        ("notrim_mass_dis-mean", {}),
    ],
)
def test_ties_over_the_model(golden: str, parameters: dict[str, Any]) -> None:
    found = merged_delta("ties", "ABC", {"scope": "model", "keep_count": "reference", **parameters}, [1, 1, 1])
    assert flat(found) == pytest.approx(GOLDENS["ties_reference"][golden], abs=1e-6)


@pytest.mark.parametrize(
    ("gamma", "golden"),
    [(0.0, "breadcrumbs_density_0.5_gamma_0_A"), (0.2, "breadcrumbs_density_0.5_gamma_0.2_A")],
)
def test_breadcrumbs(gamma: float, golden: str) -> None:
    assert_equal(merged_delta("breadcrumbs", "A", {"density": 0.5, "gamma": gamma}, [1]), GOLDENS[golden])


@pytest.mark.parametrize("name", ["w", "b"])
def test_della_chances_and_what_they_divide(name: str) -> None:
    golden = GOLDENS["della_density_0.7_epsilon_0.07_B"][name]
    delta = DELTAS["B"][name]
    _, chance = trim.trim_ranked(harness.loads(Graph(), [delta], "delta")[0], 0.7, 0.07, 0, Draw(0, "test.1"))
    assert chance is not None
    chances = harness.run(chance, [delta])
    torch.testing.assert_close(chances, torch.tensor(golden["keep_prob"]).view_as(delta))
    kept = delta * torch.tensor(golden["mask"]).view_as(delta)
    torch.testing.assert_close(rescale.rescale_ranked.kernel(kept, chances), torch.tensor(golden["out"]).view_as(delta))


def test_della_and_dare_with_one_l1_factor() -> None:
    delta = DELTAS["B"]["w"]
    before = (delta.abs().sum().item(),)
    della, dare = GOLDENS["della_density_0.7_epsilon_0.07_B"], GOLDENS["dare_mask_B_density_0.5"]
    for kept, expected in (
        (delta * torch.tensor(della["w"]["mask"]), della["w_l1"]),
        (torch.tensor(dare["no_rescale"]), dare["l1_rescaled"]),
    ):
        found = rescale.rescale_l1.kernel(kept, before, (kept.abs().sum().item(),))
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def test_slerp() -> None:
    found = mergec.merge("slerp", {"B": MODELS["B"]}, base=MODELS["A"], parameters={"t": 0.5})
    torch.testing.assert_close(found["w"], torch.tensor(GOLDENS["slerp_t_0.5_A_B"]["w"]), rtol=0, atol=1e-6)


def test_fr_as_in_the_code_for_language_models_and_for_classifiers() -> None:
    reference = {"filter": "reference", "cutoff": 0.1, "consensus": "sum", "lambda": 1.1}
    assert_equal(merged_delta("fr", "ABC", reference, [0.8, 0.8, 0.8]), GOLDENS["fr_language_models"])
    reference = {"filter": "reference", "cutoff": 0.3, "vectors": "base"}
    assert_equal(merged_delta("fr", "ABC", reference, [0.5, 0.5, 0.5]), GOLDENS["fr_classifiers"])


@pytest.mark.parametrize(
    ("method", "golden", "labels", "parameters"),
    [
        ("tsv", "tsv_AB", "AB", {}),
        ("tsv", "tsv_AB_vectors_base", "AB", {"rank_ratio": 0.5, "vectors": "base"}),
        ("tsv", "tsv_AB_lossless", "AB", {"rank_ratio": 1.0}),
        ("tsv", "tsv_ABC", "ABC", {}),  # a third of two singular values is none
        ("iso_c", "iso_c_ABC", "ABC", {}),
    ],
)
def test_merges_by_singular_values(method: str, golden: str, labels: str, parameters: dict[str, Any]) -> None:
    for name, rows in GOLDENS[golden].items():
        found = merged_delta(method, labels, parameters, [])[name]
        torch.testing.assert_close(found, torch.tensor(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "golden", "parameters"),
    [("tsv", "tsv", {}), ("iso_cts", "iso_cts_common_share_0.5", {"common_share": 0.5})],
)
def test_merges_of_two_4x5_matrices(method: str, golden: str, parameters: dict[str, Any]) -> None:
    models = [{"w": torch.tensor(rows)} for rows in GOLDENS["two_4x5"]["inputs"]]
    found = mergec.merge(method, models, base={"w": torch.zeros(4, 5)}, parameters=parameters)["w"]
    torch.testing.assert_close(found, torch.tensor(GOLDENS["two_4x5"][golden]), rtol=0, atol=1e-5)


def test_magmax_takes_the_last_of_equal_changes() -> None:
    assert_equal(merged_delta("magmax", "ABC", {}, []), GOLDENS["magmax"])


def test_consensus_of_two_tasks() -> None:
    expected = torch.tensor(GOLDENS["consensus"]["delta"])
    found = merged_delta("consensus", "ABC", {"mask_lambda": 0.4, "agreement": 2}, [])["w"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_trust_region_over_the_model() -> None:
    found = merged_delta("trust_region", "ABC", {"quantile": 0.5}, [])
    assert_equal(found, GOLDENS["trust_region_quantile_0.5"])


@pytest.mark.parametrize(("share", "golden"), [(0.5, "select_topk_0.5"), (1.0, "select_topk_1")])
def test_sce(share: float, golden: str) -> None:
    found = merged_delta("sce", "ABC", {"select_topk": share}, [])["w"]
    torch.testing.assert_close(found, torch.tensor(GOLDENS["sce"][golden]), rtol=0, atol=1e-6)


def test_fr_of_half_precision_models_drifts_no_more_than_rounding() -> None:
    """The reference takes deltas and spectra in float16; ours are exact and rounded once."""
    half = {label: {"w": model["w"].half()} for label, model in MODELS.items()}
    parameters = {"filter": "reference", "cutoff": 0.1, "consensus": "sum", "lambda": 1.1, "weight": 0.8}
    found = mergec.merge("fr", half, base={"w": BASE["w"].half()}, parameters=parameters)["w"] - BASE["w"].half()
    torch.testing.assert_close(found.float(), torch.tensor(GOLDENS["fr_fp16"]["w"]), rtol=0, atol=2e-3)


def test_expo_is_task_arithmetic_with_a_weight_above_1() -> None:
    found = merged_delta("task_arithmetic", "A", {}, [1.1])["w"]
    torch.testing.assert_close(found, torch.tensor(GOLDENS["expo_alpha_0.1_A"]["delta"]), rtol=0, atol=1e-6)


def test_opcm_before_and_after_it_is_scaled() -> None:
    golden = GOLDENS["opcm_AB_alpha_0.5"]
    expected = torch.tensor(golden["delta_w"])
    deltas = [DELTAS[label]["w"] for label in "AB"]
    found = merge_orthogonal.kernel(*deltas, alpha=0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    merged = merged_delta("opcm", "AB", {"scope": "tensor"}, [])["w"]
    norm = (deltas[0].norm() + deltas[1].norm()) / 2
    torch.testing.assert_close(merged, expected * norm / expected.norm(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("golden", "labels", "weight", "alpha"),
    [
        ("svc_alpha_1_task_arithmetic_0.5", "ABC", 0.5, 1.0),
        ("svc_alpha_0_task_arithmetic_1", "ABC", 1.0, 0.0),
        ("svc_alpha_1_twice_A", "AD", 1.0, 1.0),
    ],
)
def test_svc_after_task_arithmetic(golden: str, labels: str, weight: float, alpha: float) -> None:
    models = {label: MODELS[label.replace("D", "A")] for label in labels}
    post = [{"svc": {"alpha": alpha}}]
    made = mergec.merge("task_arithmetic", models, base=BASE, parameters={"weight": weight}, post=post)["w"] - BASE["w"]
    torch.testing.assert_close(made, torch.tensor(GOLDENS[golden]["out"]), rtol=0, atol=1e-5)


def test_wudi() -> None:
    assert_equal(merged_delta("wudi", "ABC", {"iterations": 300}, []), GOLDENS["wudi_300_iterations_ABC"])


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_model_stock_has_one_ratio_per_tensor_at_any_scale(scale: float) -> None:
    base = {name: torch.zeros_like(value).double() for name, value in BASE.items()}
    models = [{name: delta.double() * scale for name, delta in DELTAS[label].items()} for label in "AB"]
    found = mergec.merge("model_stock", models, base=base)
    golden = GOLDENS["model_stock_A_B"]
    for name in BASE:
        expected = torch.tensor(golden["delta"][name]).double()
        torch.testing.assert_close(found[name] / scale, expected, rtol=0, atol=1e-6)
        mean = (models[0][name] + models[1][name]) / 2
        torch.testing.assert_close(
            found[name], mean * golden["ratio"][name], rtol=1e-6 / abs(golden["ratio"][name]), atol=0
        )


@pytest.mark.parametrize("ratio", ["0.2", "0.3", "0.34"])
def test_pcb_over_the_model(ratio: str) -> None:
    """The authors' function on the flat deltas, where no entry at odds with the others takes part."""
    found = merged_delta("pcb", "ABC", {"pcb_ratio": float(ratio)}, [])
    assert flat(found) == pytest.approx(GOLDENS["pcb_ratio"][ratio], abs=1e-6)


def test_pcb_of_too_few_entries_to_compete_is_the_base() -> None:
    """The authors' code divides 0 by 0 where one entry takes part."""
    assert not any(flat(merged_delta("pcb", "ABC", {"pcb_ratio": 0.1}, [])))


def test_mean_of_trimmed_deltas_without_election() -> None:
    """One model at a time: what remains of each, whose mean the reference takes."""
    parameters = {"density": 0.5, "scope": "model", "keep_count": "reference"}
    kept = [flat(merged_delta("ties", label, parameters, [1])) for label in "ABC"]
    mean = [sum(values) / 3 for values in zip(*kept, strict=True)]
    assert mean == pytest.approx(GOLDENS["ties_reference"]["topk50_mass_mean"], abs=1e-6)


def test_a_vote_of_zero_goes_to_the_majority() -> None:
    golden = GOLDENS["signs_without_trim"]
    votes = sum(torch.cat([DELTAS[label][name].flatten() for name in ("b", "w")]) for label in "ABC")
    assert isinstance(votes, Tensor)
    assert votes.sign().tolist() == golden["raw"]
    balance = elect.Balance()
    balance.update(votes)
    plus = elect.sign_by_majority.kernel(votes, balance.finish())
    assert (plus * 2.0 - 1).tolist() == golden["resolved"]


@pytest.mark.parametrize("golden", ["density_0.5", "drop_rate_0.5"])
def test_dare_divides_what_it_kept_by_the_density(golden: str) -> None:
    """With the masks that were recorded: what is drawn is not theirs, what is done with it is."""
    expected = torch.tensor(GOLDENS["dare_divided"][golden])
    kept = DELTAS["B"]["w"] * (expected != 0)
    torch.testing.assert_close(rescale.rescale_by.kernel(kept, chance=0.5), expected, rtol=0, atol=1e-6)


def test_magnitude_pruning_divided_by_the_density_is_ties_of_one_model_of_weight_2() -> None:
    found = merged_delta("ties", "B", {"density": 0.5, "normalize": False}, [2])["w"]
    torch.testing.assert_close(found, torch.tensor(GOLDENS["magnitude_mask_0.5_B"]), rtol=0, atol=1e-6)


def test_model_stock_of_deltas_that_oppose_each_other() -> None:
    """The mean cosine of three deltas near -1/2: a ratio far below 0, as in mergekit."""
    found = merged_delta("model_stock", "ABC", {}, [])["w"]
    mean = (DELTAS["A"]["w"] + DELTAS["B"]["w"] + DELTAS["C"]["w"]) / 3
    torch.testing.assert_close(found, mean * GOLDENS["model_stock_three_ratio"], rtol=1e-5, atol=1e-5)


def test_iso_c_has_the_mean_of_the_singular_values_of_the_sum() -> None:
    mean = torch.tensor(GOLDENS["iso_c_singular_values_ABC"]).mean()
    found = torch.linalg.svdvals(merged_delta("iso_c", "ABC", {}, [])["w"])
    torch.testing.assert_close(found, mean.expand(2), rtol=0, atol=1e-5)
