"""A model with another model's tokenizer: rows copied by what tokens stand for, new ones by textbook formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import contents
from models import tensors_of
from recipes_fixtures import mergec
from vocabularies import ids_of, pair_tokenizer, word_tokenizer, write_llama

from mergec.compiler.schedule import Options
from mergec.compiler.transplant import Wanted, compile_transplant
from mergec.execute.run import run

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


@pytest.mark.parametrize("method", ["omp", "common_interpolation", "subword", "mean", "zero", "randn"])
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


@pytest.mark.parametrize("method", ["omp", "common_interpolation"])
def test_bytes_are_equal_for_any_workers(method: str, here: Path) -> None:
    wanted = Wanted(approximation=method, k=3)  # type: ignore[arg-type]
    for name, workers in (("one", 1), ("two", 2)):
        run(compile_transplant("model", "donor", wanted, Options(workers=workers)), name, device="cpu")
    assert contents(Path("one")) == contents(Path("two"))


def test_what_was_done_is_said(here: Path) -> None:
    called = mergec("tokens", "model", "donor", "out", "-k", 3, "--device", "cpu")
    assert f"{EMBEDDING}: 14 rows copied, 9 by omp of 3" in called.out
    called = mergec("tokens", "model", "donor", "other", "-k", 3, "--json", "--device", "cpu")
    assert json.loads(called.out.splitlines()[-1])["notes"][0].endswith("14 rows copied, 9 by omp of 3")
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
