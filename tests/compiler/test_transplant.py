"""A model with another model's tokenizer: rows copied by what tokens stand for, new ones by textbook formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import write_adapter
from checkpoints import contents
from interrupts import run_until_killed
from models import tensors_of
from recipes_fixtures import mergec
from safetensors.torch import save_file
from vocabularies import ids_of, pair_tokenizer, word_tokenizer, write_llama

from mergec.api import adopt
from mergec.compiler.schedule import Options
from mergec.compiler.transplant import Wanted, compile_transplant
from mergec.execute.run import run
from mergec.ops.transplant import pursue

OWN = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(20))]
THEIRS = ["<none>", "<begin>", *(f"w{number}" for number in range(12, 0, -1)), *(f"new{number}" for number in range(9))]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and a donor of other tokens; w1 to w12 are both's, and the beginning of a text goes by its role."""
    write_llama(tmp_path / "model", word_tokenizer(OWN, bos_token="<s>", eos_token="</s>"), 23, seed=1)
    write_llama(tmp_path / "donor", word_tokenizer(THEIRS, bos_token="<begin>"), 25, seed=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tables(name: str = EMBEDDING) -> tuple[Any, Any]:
    return tuple(tensors_of(Path(one))[name].double().numpy() for one in ("model", "donor"))  # type: ignore[return-value]


def made(*arguments: object, out: str = "out") -> dict[str, torch.Tensor]:
    called = mergec("tokens", "model", "donor", out, *arguments, "--device", "cpu")
    assert called.code == 0, called.err
    return tensors_of(Path(out))


def shared() -> list[tuple[str, str]]:
    """Tokens of the model and of the donor that stand for the same."""
    return [("<unk>", "<none>"), ("<s>", "<begin>"), *((f"w{number}",) * 2 for number in range(1, 13))]  # type: ignore[list-item]


def points(name: str = EMBEDDING) -> tuple[Any, Any]:
    """Rows of shared tokens in the donor's order: the model's and the donor's."""
    own, theirs = tables(name)
    mine, donors = ids_of(Path("model")), ids_of(Path("donor"))
    pairs = sorted((donors[other], mine[one]) for one, other in shared())
    return own[[one for _, one in pairs]], theirs[[other for other, _ in pairs]]


def textbook_pursuit(target: Any, rows: Any, k: int) -> tuple[list[int], Any]:
    """Orthogonal matching pursuit as books have it: take the best, solve least squares over all that were taken."""
    taken: list[int] = []
    rest, found = target, np.zeros(0)
    for _ in range(k):
        scores = np.abs(rows @ rest)
        scores[taken] = -1
        taken.append(int(scores.argmax()))
        found = np.linalg.lstsq(rows[taken].T, target, rcond=None)[0]
        rest = target - found @ rows[taken]
    return taken, found


@pytest.mark.parametrize(
    "method", ["omp", "common_interpolation", "landmark_pca", "subword", "mean", "zero", "randn", "john_hewitt"]
)
def test_rows_of_tokens_that_both_have_are_the_models_and_the_rest_is_untouched(method: str, here: Path) -> None:
    found = made("-a", method, "-k", 3)
    own, mine, theirs = tensors_of(Path("model")), ids_of(Path("model")), ids_of(Path("out"))
    assert theirs == ids_of(Path("donor"))
    for name in (EMBEDDING, HEAD):
        assert found[name].shape == (len(THEIRS), 16)
        for one, other in shared():
            assert torch.equal(found[name][theirs[other]], own[name][mine[one]])
    assert all(torch.equal(found[name], own[name]) for name in own.keys() - {EMBEDDING, HEAD})
    assert all(one.isfinite().all() for one in found.values())


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_pursuit_is_that_of_the_textbook(name: str, here: Path) -> None:
    found = made("-a", "omp", "-k", 4)[name].double().numpy()
    own, theirs = points(name)
    donor, numbers = tables(name)[1], ids_of(Path("donor"))
    for token in (token for token in THEIRS if token.startswith("new")):
        taken, coefficients = textbook_pursuit(donor[numbers[token]], theirs, 4)
        np.testing.assert_allclose(found[numbers[token]], coefficients @ own[taken], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("scheme", ["distance_proportional", "barycentric", "least_squares"])
def test_interpolation_is_the_formula(scheme: str, cosine: bool, here: Path) -> None:
    found = made("-a", "common_interpolation", "-k", 4, "-w", scheme, *(["-c"] if cosine else []))[EMBEDDING].numpy()
    own, theirs = points()
    donor, numbers = tables()[1], ids_of(Path("donor"))
    for token in (token for token in THEIRS if token.startswith("new")):
        target = donor[numbers[token]]
        far = np.linalg.norm(theirs - target, axis=1)
        if cosine:
            far = 1 - theirs @ target / np.linalg.norm(theirs, axis=1) / np.linalg.norm(target)
        near = far.argsort(kind="stable")[:4]
        if scheme == "distance_proportional":
            weights = 1 - far[near] if cosine else 1 / far[near]
            weights = weights / weights.sum()
        elif scheme == "least_squares":
            weights = np.linalg.lstsq(theirs[near].T, target, rcond=None)[0]
        else:  # the conditions of Lagrange
            gram, ones = theirs[near] @ theirs[near].T, np.ones((4, 1))
            system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])
            weights = np.linalg.lstsq(system, np.append(theirs[near] @ target, 1), rcond=None)[0][:4]
        np.testing.assert_allclose(found[numbers[token]], weights @ own[near], rtol=2e-4, atol=1e-5)


def test_the_peer_finds_the_same_combinations(here: Path) -> None:
    from mergekit.tokensurgeon.omp import batch_omp

    found = made("-a", "omp", "-k", 3)[EMBEDDING]
    own, theirs = (torch.from_numpy(one).float() for one in points())
    donor, numbers = torch.from_numpy(tables()[1]).float(), ids_of(Path("donor"))
    rows = [numbers[token] for token in THEIRS if token.startswith("new")]
    taken, coefficients = batch_omp(donor[rows], theirs, 3)
    expected = torch.bmm(coefficients.unsqueeze(1), own[taken])[:, 0]
    torch.testing.assert_close(found[rows], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("scheme", ["distance_proportional", "barycentric", "least_squares"])
def test_the_peer_interpolates_alike(scheme: str, cosine: bool, here: Path) -> None:
    from mergekit.tokensurgeon import WeightingScheme, common_interp_approximate
    from mergekit.tokensurgeon.common_interpolation import DistanceMetric

    found = made("-a", "common_interpolation", "-k", 4, "-w", scheme, *(["-c"] if cosine else []))[EMBEDDING]
    own, theirs = (torch.from_numpy(one).float() for one in points())
    donor, numbers = torch.from_numpy(tables()[1]).float(), ids_of(Path("donor"))
    rows = [numbers[token] for token in THEIRS if token.startswith("new")]
    metric = DistanceMetric.COSINE if cosine else DistanceMetric.EUCLIDEAN
    taken, weights = common_interp_approximate(donor[rows], theirs, 4, metric, WeightingScheme(scheme))
    expected = torch.bmm(weights.unsqueeze(1), own[taken])[:, 0]
    torch.testing.assert_close(found[rows], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["mean", "sum", "first_last"])
def test_the_peer_takes_the_same_pieces(method: str, here: Path) -> None:
    from mergekit.tokensurgeon.subword import SubwordMethod, subword_approximate

    tokenizer = pair_tokenizer("abcd", [("a", "b"), ("c", "d")])
    write_llama(here / "model", tokenizer, 6, seed=3)
    new = ["abc", "abcd", "dcba"]
    merges = [("a", "b"), ("ab", "c"), ("abc", "d"), ("d", "c"), ("b", "a"), ("dc", "ba")]
    write_llama(here / "donor", pair_tokenizer("abcd", merges), 10, seed=4)
    found, numbers = made("-a", "subword", "-s", method), ids_of(Path("donor"))
    for name in (EMBEDDING, HEAD):
        own = tensors_of(Path("model"))[name]
        expected = subword_approximate(own, list(new), name == HEAD, tokenizer, SubwordMethod(method))
        torch.testing.assert_close(found[name][[numbers[token] for token in new]], expected)


@pytest.mark.parametrize(
    ("method", "weights", "of_head"),
    [
        ("mean", [1 / 2, 1 / 2], [1 / 2, 1 / 2]),
        ("sum", [1, 1], [1, 1]),
        ("weighted_mean", [1 / 3, 2 / 3], [2 / 3, 1 / 3]),
        ("first_last", [0, 1], [1, 0]),
    ],
)
def test_subwords_are_those_of_the_models_tokenizer(method: str, weights: Any, of_head: Any, here: Path) -> None:
    write_llama(here / "model", pair_tokenizer("abcd", [("a", "b"), ("c", "d")]), 6, seed=3)
    write_llama(here / "donor", pair_tokenizer("abcd", [("a", "b"), ("c", "d"), ("ab", "cd")]), 7, seed=4)
    found, mine = made("-a", "subword", "-s", method), ids_of(Path("model"))
    for name, one in ((EMBEDDING, weights), (HEAD, of_head)):
        own = tensors_of(Path("model"))[name].double()
        expected = one[0] * own[mine["ab"]] + one[1] * own[mine["cd"]]
        torch.testing.assert_close(found[name][ids_of(Path("out"))["abcd"]].double(), expected)


def test_prefixes_are_copied_where_asked_and_only_in_the_tensor_named(here: Path) -> None:
    write_llama(here / "model", pair_tokenizer("abcd", [("a", "b")]), 5, seed=3)
    write_llama(here / "donor", pair_tokenizer("abcd", [("a", "b"), ("ab", "c")]), 6, seed=4)
    found, own = made("-a", "zero", "-pm", "lm_head"), tensors_of(Path("model"))
    new, prefix = ids_of(Path("out"))["abc"], ids_of(Path("model"))["ab"]
    assert torch.equal(found[HEAD][new], own[HEAD][prefix])
    assert found[EMBEDDING][new].eq(0).all()


def test_transformers_loads_the_result_with_the_donors_ids(here: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made("-k", 3)
    model, tokenizer = (one.from_pretrained("out") for one in (AutoModelForCausalLM, AutoTokenizer))
    config = json.loads(Path("out/config.json").read_text())
    assert config["vocab_size"] == len(THEIRS)
    assert config["bos_token_id"] == json.loads(Path("donor/config.json").read_text())["bos_token_id"]
    found = model(**tokenizer("w3 new1 w5", return_tensors="pt")).logits
    assert found.shape[-1] == len(THEIRS)
    assert found.isfinite().all()


def test_tied_models_stay_tied(here: Path) -> None:
    write_llama(here / "model", word_tokenizer(OWN, bos_token="<s>"), 23, seed=1, tied=True)
    found = made("-k", 3)
    assert HEAD not in found


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(here: Path) -> None:
    plan = compile_transplant("model", "donor", Wanted(k=3, new_vocab_noise=0.1), Options(workers=1)).plan
    run(plan, "whole", device="cpu")
    run_until_killed(adopt(plan), Path("out"), 3)  # the header, the head, then the embedding
    assert not Path("out").exists()
    called = mergec("tokens", "model", "donor", "out", "-k", 3, "-nvn", 0.1, "--workers", 1, "--device", "cpu")
    assert "1 kept from an interrupted run" in called.out
    assert contents(Path("out")) == contents(Path("whole"))
    assert mergec("verify", "out").code == 0


@pytest.mark.parametrize("method", ["omp", "common_interpolation", "landmark_pca", "john_hewitt"])
def test_bytes_are_equal_for_any_workers(method: str, here: Path) -> None:
    wanted = Wanted(approximation=method, k=3)  # type: ignore[arg-type]
    for name, workers in (("one", 1), ("two", 2)):
        run(compile_transplant("model", "donor", wanted, Options(workers=workers)).plan, name, device="cpu")
    assert contents(Path("one")) == contents(Path("two"))


def test_what_was_done_is_said(here: Path) -> None:
    called = mergec("tokens", "model", "donor", "out", "-k", 3, "--device", "cpu")
    assert f"{EMBEDDING}: 14 rows copied, 9 by omp" in called.out
    called = mergec("tokens", "model", "donor", "other", "-k", 3, "--json", "--device", "cpu")
    found = json.loads(called.out.splitlines()[-1])["tensors"][0]
    counts = {"copied": 14, "by_byte": 0, "by_prefix": 0, "approximated": 9, "approximation": "omp", "zero": 0}
    assert found == {"tensor": HEAD, **counts}
    assert "tokens, omp" in mergec("tokens", "model", "donor", "third", "-k", 3, "--plan").out
    assert not Path("third").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda: None,
            "error[E712]: 'model' and 'donor' share 14 tokens, and 64 of them make up a new one",
        ),
        (lambda: [path.unlink() for path in Path("donor").glob("tokenizer*")], "error[E710]: 'donor' has no tokenizer"),
    ],
)
def test_what_cannot_be_done_is_said(change: Any, said: str, here: Path) -> None:
    change()
    called = mergec("tokens", "model", "donor", "out")
    assert called.code == 2
    assert said in called.err
    assert not Path("out").exists()


def test_a_donor_that_is_the_model_rotated_gives_the_models_rows_back(here: Path) -> None:
    """Landmark PCA; 14 shared rows span 13 dimensions around their mean, so new rows are put among those."""
    names = [f"w{number}" for number in range(30)]
    write_llama(here / "model", word_tokenizer(names), 30, seed=1)
    write_llama(here / "donor", word_tokenizer([*names[:24], *(f"new{n}" for n in range(6))]), 30, seed=1)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    moved = tensors_of(Path("donor"))
    own = moved[EMBEDDING].clone()
    moved[EMBEDDING] = (own.double() @ torch.from_numpy(rotation) + 3).float()
    save_file(moved, here / "donor" / "model.safetensors", {"format": "pt"})
    torch.testing.assert_close(made("-a", "landmark_pca")[EMBEDDING], own, rtol=1e-4, atol=1e-5)


def test_landmark_pca_is_procrustes_between_principal_components(here: Path) -> None:
    found = made("-a", "landmark_pca")[EMBEDDING].double().numpy()
    own, theirs = points()
    donor, numbers = tables()[1], ids_of(Path("donor"))
    left, right = theirs - theirs.mean(0), own - own.mean(0)
    before, after = (np.linalg.svd(one)[2][:13].T for one in (left, right))
    turned, _, back = np.linalg.svd((left @ before).T @ (right @ after))
    for token in (token for token in THEIRS if token.startswith("new")):
        target = (donor[numbers[token]] - theirs.mean(0)) @ before @ turned @ back @ after.T + own.mean(0)
        np.testing.assert_allclose(found[numbers[token]], target, rtol=1e-4, atol=1e-5)


def test_rows_of_hewitt_have_the_mean_and_covariance_of_the_models(here: Path) -> None:
    words = [*THEIRS, *(f"more{number}" for number in range(6000))]
    write_llama(here / "donor", word_tokenizer(words, bos_token="<begin>"), len(words), seed=2)
    own = tables()[0]
    found = made("-a", "john_hewitt")[EMBEDDING].double().numpy()[-6000:]
    deviation = own.std(0).max()
    np.testing.assert_allclose(found.mean(0), own.mean(0), atol=6 * deviation / 6000**0.5)
    np.testing.assert_allclose(np.cov(found.T), np.cov(own.T, ddof=0), atol=8 * deviation**2 / 6000**0.5)


def test_noise_and_scale_are_of_rows_that_are_made_alone(here: Path) -> None:
    plain, scaled = made("-a", "mean"), made("-a", "mean", "-nvs", 2, out="scaled")
    noisy = made("-a", "mean", "-nvn", 0.5, "--seed", 3, out="noisy")
    new = [number for token, number in ids_of(Path("out")).items() if token.startswith("new")]
    old = [number for number in range(len(THEIRS)) if number not in new]
    torch.testing.assert_close(scaled[EMBEDDING][new], 2 * plain[EMBEDDING][new])
    assert torch.equal(scaled[EMBEDDING][old], plain[EMBEDDING][old])
    assert torch.equal(noisy[EMBEDDING][old], plain[EMBEDDING][old])
    assert 0.35 < float((noisy[EMBEDDING] - plain[EMBEDDING])[new].std()) < 0.65


def test_points_in_the_span_of_others_add_nothing() -> None:
    """More points than dimensions, and two alike: the target is met, and no coefficient runs away."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(12, 4, generator=generator)
    rows[7] = rows[3]
    targets = torch.randn(9, 4, generator=generator)
    chosen, coefficients = pursue(targets, rows, 10)
    assert all(len(set(one)) == 10 for one in chosen.tolist())
    torch.testing.assert_close(torch.bmm(coefficients[:, None], rows[chosen].double())[:, 0].float(), targets)
    assert coefficients.abs().max() < 100


def test_tokens_of_bytes_have_rows_of_their_own_and_stand_for_letters_where_asked(here: Path) -> None:
    write_llama(here / "model", word_tokenizer(["<unk>", "<0x41>", "A", "<0x42>"]), 4, seed=1)
    write_llama(here / "donor", word_tokenizer(["<unk>", "A", "B", "<0x41>"]), 4, seed=2)
    own, plain = tensors_of(Path("model")), made("-a", "zero")
    assert torch.equal(plain[EMBEDDING][[1, 3]], own[EMBEDDING][[2, 1]])
    assert plain[EMBEDDING][2].eq(0).all()
    matched = made("-a", "zero", "-bm", "embed", out="matched")
    assert torch.equal(matched[EMBEDDING][2], own[EMBEDDING][3])
    assert matched[HEAD][2].eq(0).all()


def test_biases_of_heads_follow_their_tokens(here: Path) -> None:
    stored = tensors_of(Path("model"))
    biases = {"lm_head.bias": torch.arange(23.0), "final_logits_bias": torch.arange(23.0)[None]}
    save_file(stored | biases, here / "model" / "model.safetensors", {"format": "pt"})
    found, mine, theirs = made("-a", "mean"), ids_of(Path("model")), ids_of(Path("out"))
    assert found["lm_head.bias"].shape == (23,)
    assert found["final_logits_bias"].shape == (1, 23)
    assert found["lm_head.bias"][theirs["w3"]] == found["final_logits_bias"][0, theirs["w3"]] == mine["w3"]
    assert found["lm_head.bias"][theirs["new1"]] == 0


def test_generation_stops_where_the_donors_does(here: Path) -> None:
    write_llama(here / "donor", word_tokenizer(THEIRS, bos_token="<begin>", pad_token="w5"), 25, seed=2)
    for name, end in (("model", 2), ("donor", [7, 8])):
        (here / name / "generation_config.json").write_text(json.dumps({"eos_token_id": end, "top_k": 5}))
    made("-a", "zero")
    assert json.loads(Path("out/generation_config.json").read_text()) == {"eos_token_id": [7, 8], "top_k": 5}
    assert json.loads(Path("out/config.json").read_text())["pad_token_id"] == THEIRS.index("w5")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-a", "opm"), "no approximation 'opm'; did you mean 'omp'?"),
        (("-a", "stb"), "'stb' is not here: a dense basis of tokens"),
        (("-k", 0), "0 is not in the range x>=1"),
        (("--magikarp",), "--magikarp is an option of mergekit, not of mergec tokens"),
    ],
)
def test_options_that_cannot_be_meant_are_said(arguments: tuple[object, ...], said: str, here: Path) -> None:
    called = mergec("tokens", "model", "donor", "out", *arguments)
    assert called.code == 2
    assert said in " ".join(called.err.split())


def test_models_that_are_computed_or_have_no_rows_of_floats_are_refused(here: Path) -> None:
    write_adapter(here / "model", here / "a")
    assert "error[E713]: 'model+a' is computed from" in mergec("tokens", "model+a", "donor", "out").err
    stored = tensors_of(Path("model"))
    stored[EMBEDDING] = stored[EMBEDDING].to(torch.int8)
    save_file(stored, here / "model" / "model.safetensors", {"format": "pt"})
    called = mergec("tokens", "model", "donor", "out", "-k", 3)
    assert f"error[E711]: {EMBEDDING} of 'model' has a row per token, and is int8" in called.err
    called = mergec("tokens", "donor", "model", "out", "-k", 3)
    assert f"error[E711]: {EMBEDDING} of 'model' has a row per token, and is int8" in called.err
