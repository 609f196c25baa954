"""Vocabularies: each row of the result against a merge done token by token in float64, and the traps of the peers."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import furthest, write_adapter
from checkpoints import write_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tensors_of
from recipes_fixtures import SHAPES, write_model
from recipes_fixtures import mergec as command
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import Tensor
from vocabularies import ids_of, pair_tokenizer, word_tokenizer, write_llama

import mergec
from mergec.compiler.align import Alignment, Numbered, Target
from mergec.compiler.models import Model
from mergec.compiler.source import Embedded
from mergec.compiler.text import plan_text
from mergec.errors import Place, RecipeError
from mergec.io.checkpoint import Checkpoint
from mergec.io.tensors import TensorRef
from mergec.keys import plan_hash, plan_keys
from mergec.ops.registry import methods
from mergec.planfile import read_plan
from mergec.recipe.schema import TokenEntry

WORDS = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(17))]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CHAT = (AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True))


def merge(folder: Path, models: Sequence[str], out: str = "out", method: str = "linear", **more: Any) -> Path:
    """A merge of models below a folder; returns the result's."""
    recipe = write_recipe(folder, method, [folder / one for one in models], **{"parameters": {"weight": 1.0}, **more})
    mergec.compile(recipe, workers=1).run(folder / out)
    return folder / out


def rows_of(folder: Path, name: str = EMBEDDING) -> dict[str, Tensor]:
    """The row of each token, in float64."""
    tensor = tensors_of(folder)[name].double()
    return {token: tensor[number] for token, number in ids_of(folder).items() if number < len(tensor)}


def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def oracle(models: Sequence[Mapping[str, Tensor]], base: int | None, tokens: Sequence[str]) -> dict[str, Tensor]:
    """The mean of the models' rows, where one that lacks a token has the default's: written down token by token."""
    result = {}
    for token in tokens:
        owners = [rows[token] for rows in models if token in rows]
        default = sum(owners) / len(owners) if owners else torch.zeros(16).double()
        if base is not None and token in models[base]:
            default = models[base][token]
        rows = [rows.get(token, default) for rows in models]
        result[token] = sum(rows) / len(rows)
    return result


def assert_rows(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for token, row in expected.items():
        torch.testing.assert_close(found[token], row, rtol=1e-6, atol=1e-8, msg=lambda text, token=token: token + text)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """`base`, `a` with two tokens more, `b` with the words in another order and one of its own."""
    write_llama(tmp_path / "base", word_tokenizer(WORDS, eos_token="</s>"), 20, 0)
    write_llama(tmp_path / "a", word_tokenizer(WORDS, CHAT, eos_token="</s>"), 22, 1)
    write_llama(tmp_path / "b", word_tokenizer([*WORDS[:3], *WORDS[:2:-1], "own"]), 21, 2)
    return tmp_path


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
@pytest.mark.parametrize(("source", "base"), [("union", True), ("union", False), ("base", True), ("b", False)])
def test_rows_are_those_of_their_tokens(source: str, base: bool, name: str, three: Path) -> None:
    models = ["base", "a", "b"]
    named = {"base_model": three / "base"} if base else {}
    out = merge(three, models, tokenizer_source=str(three / source) if source == "b" else source, **named)
    tokens = {"base": WORDS, "b": [*WORDS, "own"]}.get(source, [*WORDS, "own", "<|im_start|>", "<|im_end|>"])
    assert list(dict(sorted(ids_of(out).items(), key=lambda item: item[1]))) == (
        [*WORDS[:3], *WORDS[:2:-1], "own"] if source == "b" else tokens
    )
    assert_rows(rows_of(out, name), oracle([rows_of(three / one, name) for one in models], 0 if base else None, tokens))


def test_a_union_is_loaded_by_transformers_with_the_ids_of_its_rows(three: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = merge(three, ["base", "a"], tokenizer_source="union")
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    (ids,) = tokenizer("w3 <|im_start|>w4", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [6, 20, 7]
    a = rows_of(three / "a")
    torch.testing.assert_close(model.get_input_embeddings().weight[ids][1].double(), a["<|im_start|>"])
    assert model.config.vocab_size == len(tokenizer) == 22
    assert tokenizer.added_tokens_decoder[20].special
    assert tokenizer.eos_token == "</s>"


def test_new_tokens_are_numbered_in_the_recipes_order(three: Path) -> None:
    one = ids_of(merge(three, ["base", "a", "b"], "one", tokenizer_source="union"))
    other = ids_of(merge(three, ["base", "b", "a"], "other", tokenizer_source="union"))
    assert (one["own"], one["<|im_start|>"], one["<|im_end|>"]) == (20, 21, 22)
    assert one == other  # plain tokens come before added ones


def test_the_plan_and_explain_say_whence_rows_come(three: Path) -> None:
    tokens = {"w1": {"source": "./a", "force": True}, "nought": {"source": {"kind": "zero"}}}
    (three / "recipe.yml").write_text(
        "merge_method: linear\nbase_model: ./base\nmodels: [{model: ./base}, {model: ./a}, {model: ./b}]\n"
        f"parameters: {{weight: 1}}\ntokenizer: {json.dumps({'source': 'union', 'tokens': tokens})}\n"
    )
    called = command("plan", three / "recipe.yml")
    begin = called.out.index("rows by token: lm_head.weight, model.embed_tokens.weight\n")
    assert called.out[begin:].split("\n\n")[0].splitlines()[1:] == [
        "  ./a     21  its own",
        "  ./a     1   of ./a: asked for",
        "  ./a     1   of ./b: only one to have it",
        "  ./a     1   zero: asked for",
        "  ./b     20  its own",
        "  ./b     1   of ./a: asked for",
        "  ./b     2   of ./a: only one to have it",
        "  ./b     1   zero: asked for",
        "  ./base  19  its own",
        "  ./base  1   of ./a: asked for",
        "  ./base  1   of ./b: only one to have it",
        "  ./base  2   of ./a: only one to have it",
        "  ./base  1   zero: asked for",
    ]
    explained = command("explain", three / "recipe.yml", HEAD).out
    assert "rows by token\n  ./a     21  its own\n" in explained
    added = "'own' 20, '<|im_start|>' 21, '<|im_end|>' 22 and 1 more"
    assert f"tokenizer: that of ./base, with 4 tokens added: {added}" in called.out
    plan = mergec.compile(three / "recipe.yml")
    rows = json.loads(plan.to_json())["rows"]
    assert {"tensor": HEAD, "model": "./b", "rule": "asked for", "of": ["./a"], "rows": 1} in rows
    assert all(
        sum(one["rows"] for one in rows if one["model"] == model) == 2 * 24 for model in ("./base", "./a", "./b")
    )
    assert read_plan(plan.to_json()).rows == plan.rows


def test_text_of_a_plan_with_other_tokens(golden: Any, tmp_path: Path) -> None:
    for number, label in enumerate(("base", "a", "b")):
        write_model(tmp_path / label, shapes={**SHAPES, EMBEDDING: (8 + number, 4), HEAD: (8 + number, 4)}, seed=label)
        words = [*"hgfedcba"[number:], *(f"{label}{i}" for i in range(number))]
        document = {"model": {"vocab": {word: row for row, word in enumerate(words)}}}
        (tmp_path / label / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "recipe.yml").write_text(
        "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
        "parameters: {weight: 0.5, density: 0.5}\ntokenizer: {tokens: {new: {source: {kind: zero}}}}\n"
    )
    plan = mergec.compile(tmp_path / "recipe.yml", workers=1)
    assert plan_text(plan).replace(str(tmp_path), "FOLDER") == golden("union")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_of_any_vocabularies(data: st.DataObject) -> None:
    """Indices of a union against the rules, written down token by token; a row is known by its model and number."""
    letters = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
    models = {label: data.draw(letters) for label in "xyz"}
    base = data.draw(st.sampled_from(["x", None]))
    forced = data.draw(st.sets(st.sampled_from("abcdefgh"))) & {one for words in models.values() for one in words}
    order = list(dict.fromkeys(word for words in models.values() for word in words))
    padding = data.draw(st.integers(0, 2))
    rows = {label: len(words) + padding for label, words in models.items()}
    numbered = {
        label: Numbered({w: n for n, w in enumerate(words)}, frozenset(range(len(words))), rows[label])
        for label, words in models.items()
    }
    target = Target({word: number for number, word in enumerate(order)}, len(order), len(order))
    entries = {word: TokenEntry(force=True) for word in forced}
    alignment = Alignment(target, numbered, {label: label for label in models}, entries, base)
    tables = {label: {EMBEDDING: TensorRef("f", EMBEDDING, "float32", (rows[label], 2), 0, 0)} for label in models}
    made, problems = alignment.apply(tables, {label: opened(label, tables[label]) for label in models})
    assert not problems
    for label, words in models.items():
        source = made[label][EMBEDDING]
        found = sources_of(source, label, rows[label])
        for number, word in enumerate(order):
            owners = [one for one in models if word in models[one]]
            default = ["x"] if base and "x" in owners else owners
            expected = [label] if word in words and word not in forced else default
            assert found[number] == [(one, models[one].index(word)) for one in expected], (label, word)


def opened(label: str, tensors: dict[str, TensorRef]) -> Model:
    return Model(label, Place("r.yml", 1, 1), "", Checkpoint("", (), tensors, {}, {}))


def sources_of(source: Any, label: str, size: int) -> list[list[tuple[str, int]]]:
    """For each row the models and rows that it is the mean of."""
    if not isinstance(source, Embedded):
        return [[(label, number)] for number in range(size)]
    indices = []
    for text in source.rows:
        index: list[int] = []
        for run in text.split():
            start, sign, length = run.partition("+") if "+" in run else ("", "", run[1:])
            index += range(int(start), int(start) + int(length)) if sign else [-1] * int(length)
        indices.append(index)
    rows = zip(*indices, strict=True)
    return [[(slot, row) for slot, row in zip(source.slots, one, strict=True) if row >= 0] for one in rows]


# traps


def test_padding_rows_stay_with_a_source(tmp_path: Path) -> None:
    """Trap 5: 152064 rows with 151665 tokens stay 152064, in a nested config too."""
    for number, label in enumerate(("base", "a")):
        write_llama(tmp_path / label, word_tokenizer(WORDS, CHAT[: 2 * number]), 28, number)
    out = merge(tmp_path, ["base", "a"], tokenizer_source="union")
    base, a, found = (tensors_of(tmp_path / one)[EMBEDDING].double() for one in ("base", "a", "out"))
    assert found.shape == (28, 16)
    torch.testing.assert_close(found[22:], (base[22:] + a[22:]) / 2)
    torch.testing.assert_close(found[20], a[20])  # a token there: the base's row is padding
    found = tensors_of(merge(tmp_path, ["base", "a"], "of base", tokenizer_source=str(tmp_path / "base")))[EMBEDDING]
    torch.testing.assert_close(found[20:22].double(), base[20:22])  # where `a` has tokens that the result has not
    torch.testing.assert_close(found[22:].double(), (base[22:] + a[22:]) / 2)
    config = json.loads((tmp_path / "base/config.json").read_text())
    nested = {"architectures": config["architectures"], "model_type": "x", "text_config": config | {"vocab_size": 9}}
    (tmp_path / "base/config.json").write_text(json.dumps(nested))
    out = merge(tmp_path, ["base", "a"], "nested", tokenizer={"pad_to_multiple_of": 1})
    assert tensors_of(out)[EMBEDDING].shape == (22, 16)  # told so
    assert json.loads((out / "config.json").read_text())["text_config"]["vocab_size"] == 22


def test_a_tokenizer_larger_than_the_matrix_is_passed_over_with_a_word(tmp_path: Path) -> None:
    """Trap 6: no read past the rows; the tokens are taken out of the result's tokenizer."""
    pairs = [("a", "b"), ("ab", "c"), ("b", "c")]
    for number, label in enumerate(("base", "a")):
        write_llama(tmp_path / label, pair_tokenizer("abcdef", pairs, CHAT), 8, number)
    recipe = write_recipe(
        tmp_path, "linear", [tmp_path / "base", tmp_path / "a"], parameters={"weight": 1.0}, tokenizer_source="union"
    )
    plan = mergec.compile(recipe)
    (first, _) = plan.warnings
    assert "3 tokens of" in first
    assert "past the 8 rows of its embedding, and are passed over: '<|im_end|>', '<|im_start|>', 'bc'" in first
    plan.run(tmp_path / "out")
    assert ids_of(tmp_path / "out") == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "ab": 6, "abc": 7}
    assert tensors_of(tmp_path / "out")[EMBEDDING].shape == (8, 16)


def test_a_token_past_one_models_rows_is_that_of_another(tmp_path: Path) -> None:
    """One tokenizer beside a model that was resized for it and beside its base, which was not."""
    for number, label in enumerate(("base", "a")):
        tokenizer = word_tokenizer(WORDS, CHAT, eos_token="<|im_end|>")
        write_llama(tmp_path / label, tokenizer, 20 + 2 * number, number)
    out = merge(tmp_path, ["base", "a"], tokenizer_source="union")
    assert ids_of(out) == ids_of(tmp_path / "a")
    a, found = rows_of(tmp_path / "a"), rows_of(out)
    for token in ("<|im_start|>", "<|im_end|>"):
        torch.testing.assert_close(found[token], a[token])
    tokenizer = loaded(out)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 20)
    assert tokenizer.added_tokens_decoder[21].special


def test_a_token_of_the_recipe_has_the_flags_of_the_model_that_has_it(tmp_path: Path) -> None:
    write_llama(tmp_path / "base", word_tokenizer(WORDS), 20, 0)
    write_llama(tmp_path / "a", word_tokenizer(WORDS, CHAT), 22, 1)
    tokenizer = {"source": str(tmp_path / "base"), "tokens": {"<|im_end|>": {}, "plain": {"source": {"kind": "zero"}}}}
    out = merge(tmp_path, ["base", "a"], tokenizer=tokenizer)
    decoder = loaded(out).added_tokens_decoder
    assert [(number, one.content, one.special) for number, one in decoder.items() if number] == [
        (20, "<|im_end|>", True),
        (21, "plain", False),
    ]
    torch.testing.assert_close(rows_of(out)["<|im_end|>"], rows_of(tmp_path / "a")["<|im_end|>"])


def test_a_row_that_is_not_finite_is_found_wherever_it_goes(three: Path) -> None:
    tensors = tensors_of(three / "b")
    tensors[EMBEDDING][4] = float("nan")
    save_file(tensors, three / "b/model.safetensors", {"format": "pt"})
    with pytest.raises(mergec.RunError, match=r"E413.*embed_tokens.weight of \S*/b/model.safetensors"):
        merge(three, ["base", "b"], tokenizer_source="base", base_model=three / "base")


def test_pieces_past_the_matrix_are_taken_out_of_a_unigram(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -3.0), ("abc", -4.0)]
    for number, label in enumerate(("base", "a")):
        made = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=0)), unk_token="<unk>", pad_token="<pad>"
        )
        write_llama(tmp_path / label, made, 4, number)
    out = merge(tmp_path, ["base", "a"], tokenizer_source="base", base_model=tmp_path / "base")
    assert ids_of(out) == {"<unk>": 0, "a": 1, "b": 2, "ab": 3}  # nor is <pad> asked for and so added again


@pytest.mark.parametrize("method", ["linear", "ties", "slerp", "karcher", "model_stock"])
def test_a_token_that_nobody_has_a_row_for_is_finite(method: str, tmp_path: Path) -> None:
    """Trap 7."""
    write_llama(tmp_path / "base", word_tokenizer(WORDS), 20, 0)
    write_llama(tmp_path / "a", word_tokenizer([*WORDS[:3], *WORDS[:2:-1]], CHAT), 20, 1)  # its own tokens have no row
    models = ["a"] if method == "slerp" else ["base", "a"]
    models = ["base", "a", "b"] if method == "model_stock" else models
    if "b" in models:
        write_llama(tmp_path / "b", word_tokenizer(WORDS), 20, 2)
    settings = {"slerp": {"t": 0.5}, "karcher": {}, "model_stock": {}}.get(method, {"weight": 0.5})
    tokens = {"nought": {"source": {"kind": "zero"}}}
    base = {} if method in ("linear", "karcher") else {"base_model": tmp_path / "base"}
    out = merge(tmp_path, models, method=method, parameters=settings, tokenizer={"tokens": tokens}, **base)
    found = rows_of(out)
    assert all(torch.isfinite(row).all() for row in found.values())
    assert found["nought"].tolist() == [0] * 16


def test_a_shuffled_tokenizer_gives_the_same_rows(tmp_path: Path) -> None:
    """Trap 9: as many rows in another order are not averaged row by row."""
    write_llama(tmp_path / "base", word_tokenizer(WORDS), 20, 0)
    write_llama(tmp_path / "a", word_tokenizer(WORDS), 20, 1)
    shuffled = WORDS[:1] + random.Random(0).sample(WORDS[1:], 19)
    write_llama(tmp_path / "mixed", word_tokenizer(shuffled), 20, 1)
    tensors = tensors_of(tmp_path / "mixed")
    for name in (EMBEDDING, HEAD):
        tensors[name] = tensors[name][[WORDS.index(word) for word in shuffled]].contiguous()
    save_file(tensors, tmp_path / "mixed/model.safetensors", {"format": "pt"})
    straight = merge(tmp_path, ["base", "a"], "straight", "linear")
    found = merge(tmp_path, ["base", "mixed"], "found", "linear", tokenizer_source="union")
    for name, tensor in tensors_of(straight).items():
        assert torch.equal(tensors_of(found)[name], tensor), name


def test_other_numbers_without_a_word_on_tokens_are_a_warning(three: Path) -> None:
    tensors = tensors_of(three / "b")
    for name in (EMBEDDING, HEAD):
        tensors[name] = tensors[name][:20].clone()
    save_file(tensors, three / "b/model.safetensors", {"format": "pt"})
    (three / "recipe.yml").write_text(
        "merge_method: linear\nmodels: [{model: ./base}, {model: ./b}]\nparameters: {weight: 1}\n"
    )
    (warning,) = mergec.compile(three / "recipe.yml").warnings
    assert warning.partition("recipe.yml:")[2] == (
        "2:35: warning[W351]: './b' has other numbers for 16 tokens than './base', such as 3 for 'w16' and not 19, and "
        "rows are merged by number; hint: tokenizer_source: union, or base, merges them token by token"
    )
    (three / "b/tokenizer.json").write_text("{}")  # nothing is said of what cannot be read
    assert mergec.compile(three / "recipe.yml").warnings == ()


def test_tokenizers_of_different_kinds_are_a_warning(three: Path) -> None:
    word_tokenizer([f"▁{word}" for word in WORDS]).save_pretrained(three / "a")
    models = [three / "base", three / "a"]
    recipe = write_recipe(three, "linear", models, parameters={"weight": 1.0}, tokenizer_source="union")
    (warning,) = mergec.compile(recipe).warnings
    assert "/a' shares 0 of its 20 tokens with" in warning
    assert "W352" in warning


# tied heads, other tensors with a row per token


def test_tied_heads_stay_tied(tmp_path: Path) -> None:
    write_llama(tmp_path / "base", word_tokenizer(WORDS), 20, 0, tied=True)
    write_llama(tmp_path / "a", word_tokenizer(WORDS, CHAT), 22, 1, tied=True)
    out = merge(tmp_path, ["base", "a"], tokenizer_source="union")
    assert HEAD not in tensors_of(out)
    assert tensors_of(out)[EMBEDDING].shape == (22, 16)


def test_the_head_of_a_tied_model_has_the_rows_of_its_embedding(tmp_path: Path) -> None:
    write_llama(tmp_path / "base", word_tokenizer(WORDS), 20, 0, tied=True)
    write_llama(tmp_path / "a", word_tokenizer([*WORDS[:3], *WORDS[:2:-1]]), 20, 1)
    out = merge(tmp_path, ["base", "a"], tokenizer_source="union")
    expected = oracle([rows_of(tmp_path / "base"), rows_of(tmp_path / "a", HEAD)], None, WORDS)
    assert_rows(rows_of(out, HEAD), expected)


def test_biases_of_a_head_are_found_by_their_length(tmp_path: Path) -> None:
    for label, words in (("base", WORDS), ("a", [*WORDS[:3], *WORDS[:2:-1]])):
        write_llama(tmp_path / label, word_tokenizer(words), 20, len(words))
        tensors = load_file(tmp_path / label / "model.safetensors")
        numbers = torch.tensor([WORDS.index(word) for word in words], dtype=torch.float32)
        tensors |= {"lm_head.bias": numbers, "final_logits_bias": numbers[None].clone()}
        save_file(tensors, tmp_path / label / "model.safetensors", {"format": "pt"})
    found = tensors_of(merge(tmp_path, ["base", "a"], tokenizer_source="union"))
    assert found["lm_head.bias"].tolist() == list(range(20))
    assert found["final_logits_bias"].tolist() == [list(range(20))]


@pytest.mark.parametrize("source", ["union", "base", "truncate"])
@pytest.mark.parametrize("method", sorted(methods()))
def test_every_method_takes_rows_that_were_put_in_order(method: str, source: str, tmp_path: Path) -> None:
    """Trap 10: a method that breaks once embeddings are remapped."""
    low, _ = methods()[method].models
    labels = "abcd"[: max(low, 1)]
    for number, label in enumerate(("base", *labels)):
        shapes = {**SHAPES, EMBEDDING: (8 + number, 4), HEAD: (8 + number, 4)}
        write_model(tmp_path / label, shapes=shapes, seed=label)
        words = [*"abcdefgh"[::-1], *(f"{label}{i}" for i in range(number))] if number else "abcdefgh"
        document = {"model": {"vocab": {word: row for row, word in enumerate(words)}}}
        (tmp_path / label / "tokenizer.json").write_text(json.dumps(document))
    needed = {name: 0.5 for name, one in methods()[method].parameters.items() if one.required}
    (tmp_path / "recipe.yml").write_text(
        json.dumps(
            {
                "merge_method": method,
                **({} if method == "passthrough" else {"base_model": "base"}),
                "models": [{"model": label} for label in (["a"] if method == "passthrough" else labels)],
                "parameters": needed,
                "tokenizer_source": "union" if method == "passthrough" and source == "base" else source,
            }
        )
    )
    plan = mergec.compile(tmp_path / "recipe.yml", workers=1)
    plan.run(tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")[EMBEDDING]
    size = {"base": 8, "truncate": 8, "union": 8 + len(labels) * (len(labels) + 1) // 2}[source]
    assert len(found) == (9 if method == "passthrough" else size)
    assert found.isfinite().all()


def test_rules_take_rows_that_were_put_in_order(three: Path) -> None:
    rules = [{"match": HEAD, "copy": str(three / "b")}]
    out = merge(three, ["base", "b"], tokenizer_source="union", rules=rules)
    b = rows_of(three / "b", HEAD)
    assert_rows(rows_of(out, HEAD), {token: b[token] for token in [*WORDS, "own"]})


@pytest.mark.parametrize("source", ["union", "base", "truncate"])
def test_a_model_without_a_vocabulary_has_no_say_in_it(source: str, three: Path) -> None:
    (three / "tower").mkdir()
    save_file({"visual.patch.weight": torch.ones(4, 4)}, three / "tower/model.safetensors")
    (three / "tower/config.json").write_text("{}")
    rules = [{"match": "visual.*", "copy": str(three / "tower")}]
    more = {"base_model": three / "base"}
    out = merge(three, ["base", "a"], tokenizer_source=source, rules=rules, **more)
    found = tensors_of(out)
    assert found["visual.patch.weight"].tolist() == [[1.0] * 4] * 4
    assert len(found[EMBEDDING]) == {"union": 22, "base": 20, "truncate": 20}[source]
    with pytest.raises(RecipeError, match=r"E356.*which has no tensor with a row per token; hint: take one of"):
        merge(three, ["base", "a"], "no", tokenizer_source=str(three / "tower"), rules=rules, **more)


# ids in configs


def test_a_donors_ids_go_into_the_configs(tmp_path: Path) -> None:
    write_llama(tmp_path / "base", word_tokenizer(WORDS, eos_token="</s>"), 20, 0)
    write_llama(tmp_path / "a", word_tokenizer(WORDS[::-1], CHAT, eos_token="<|im_end|>"), 22, 1)
    for label, changed in (("base", {"x_token_id": 3, "y_token_id": [4, 5]}), ("a", {"eos_token_id": [21, 17]})):
        path = tmp_path / label / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    (tmp_path / "base/generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.5}')
    out = merge(tmp_path, ["base", "a"], tokenizer_source=str(tmp_path / "a"))
    config = json.loads((out / "config.json").read_text())
    assert (config["eos_token_id"], config["x_token_id"], config["y_token_id"]) == ([21, 17], 16, [15, 14])
    assert config["vocab_size"] == 22
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"eos_token_id": 2, "temperature": 0.5} | {
        "eos_token_id": json.loads((tmp_path / "a/generation_config.json").read_text())["eos_token_id"]
    }


# keys, bytes, memory


def test_another_order_of_tokens_is_another_key(three: Path) -> None:
    keys = {}
    for label, words in (("one", WORDS[:2:-1]), ("other", WORDS[3:])):
        word_tokenizer([*WORDS[:3], *words, "own"]).save_pretrained(three / "b")
        recipe = write_recipe(
            three, "linear", [three / "base", three / "b"], parameters={"weight": 1.0}, tokenizer_source="union"
        )
        keys[label] = plan_keys(mergec.compile(recipe))
    differing = {name for name in keys["one"] if keys["one"][name] != keys["other"][name]}
    assert differing == {EMBEDDING, HEAD}


def test_a_donor_of_rows_is_part_of_the_key(three: Path) -> None:
    shutil.copytree(three / "a", three / "c")
    keys = []
    for donor in ("a", "c"):
        tokens = {"w1": {"source": str(three / donor), "force": True}}
        models = [three / one for one in ("base", "a", "c")]
        recipe = write_recipe(three, "linear", models, parameters={"weight": 1.0}, tokenizer={"tokens": tokens})
        keys.append(plan_keys(mergec.compile(recipe))[EMBEDDING])
    assert keys[0] != keys[1]


def test_bytes_do_not_depend_on_tiles_workers_or_the_plans_way_through_json(three: Path) -> None:
    recipe = write_recipe(
        three,
        "ties",
        [three / "a", three / "b"],
        base_model=three / "base",
        parameters={"weight": 0.5, "density": 0.5},
        tokenizer={"source": "union", "pad_to_multiple_of": 32},
    )
    plan = mergec.compile(recipe, workers=1)
    plan.run(three / "one")
    small = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=16, workers=2))
    mergec.api.adopt(read_plan(mergec.compile(recipe).to_json())).run(three / "other")
    mergec.api.adopt(small).run(three / "small")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (three / "one" / name).read_bytes() == (three / "other" / name).read_bytes()
        assert (three / "one" / name).read_bytes() == (three / "small" / name).read_bytes()


def test_models_of_one_vocabulary_are_merged_as_without_a_word_on_it(tmp_path: Path) -> None:
    for number, label in enumerate(("base", "a")):
        write_llama(tmp_path / label, word_tokenizer(WORDS), 24, number)
    models = [tmp_path / "base", tmp_path / "a"]
    plain = mergec.compile(write_recipe(tmp_path, "linear", models, parameters={"weight": 1.0}))
    for source in ("union", str(tmp_path / "a"), "truncate"):
        recipe = write_recipe(tmp_path, "linear", models, parameters={"weight": 1.0}, tokenizer_source=source)
        assert plan_hash(mergec.compile(recipe)) == plan_hash(plain), source


def test_truncate_takes_the_rows_that_all_have(three: Path) -> None:
    out = merge(three, ["a", "b"], tokenizer_source="truncate")
    a, b, found = (tensors_of(three / one)[EMBEDDING].double() for one in ("a", "b", "out"))
    torch.testing.assert_close(found, (a[:21] + b[:21]) / 2)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 21
    assert max(ids_of(out).values()) == 20  # <|im_end|> of `a` has lost its row


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["lm_head"], "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
    ids=["lora", "dora", "saved"],
)
def test_rows_that_an_adapter_changes_are_put_in_order(config: dict[str, Any], three: Path) -> None:
    """`b` with the adapter has its words in another order than the base, `a` tokens that it lacks."""
    made = write_adapter(three / "b", three / "adapter", r=3, lora_alpha=6, **config)
    models = ["base", "a", f"b+{three}/adapter"]
    for source in ("union", "base"):
        out = merge(three, models, f"out-{source}", tokenizer_source=source, base_model=three / "base")
        for name in (EMBEDDING, HEAD):
            adapted = {token: made[name][number].double() for token, number in ids_of(three / "b").items()}
            rows = [rows_of(three / "base", name), rows_of(three / "a", name), adapted]
            expected = oracle(rows, 0, list(ids_of(out)))
            found = rows_of(out, name)
            for token, row in expected.items():
                torch.testing.assert_close(found[token], row, rtol=1e-5, atol=1e-6)
    assert furthest({HEAD: made[HEAD]}, tensors_of(three / "b")) > 0.01


def test_a_chat_adapter_goes_with_a_base_that_has_fewer_tokens(three: Path) -> None:
    """The new tokens' rows are those of the adapted model, bit for bit as a run of that model alone has them."""
    write_adapter(three / "a", three / "chat", r=4, lora_alpha=8, target_modules=["embed_tokens", "lm_head"])
    alone = merge(three, [f"a+{three}/chat"], "alone", "passthrough", parameters={})
    out = merge(three, ["base", f"a+{three}/chat"], tokenizer={"source": "union"}, parameters={"weight": 1.0})
    for name in (EMBEDDING, HEAD):
        adapted, found = rows_of(alone, name), rows_of(out, name)
        assert torch.equal(found["<|im_end|>"], adapted["<|im_end|>"])
        torch.testing.assert_close(found["w3"], (rows_of(three / "base", name)["w3"] + adapted["w3"]) / 2)


def test_an_adapter_may_bring_tokens_that_its_base_lacks(three: Path) -> None:
    """Saved modules with a row more for each token it was trained with, and its tokenizer."""
    saved = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    made = write_adapter(three / "a", three / "chat", **saved)
    word_tokenizer(WORDS, CHAT, eos_token="</s>").save_pretrained(three / "chat")
    out = merge(three, ["base", f"base+{three}/chat"], tokenizer={"source": "union"})
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 22
    for name in (EMBEDDING, HEAD):
        assert made[name].shape[0] == 22
        adapted = {token: made[name][number].double() for token, number in ids_of(three / "a").items()}
        assert_rows(rows_of(out, name), oracle([rows_of(three / "base", name), adapted], None, list(ids_of(out))))
    alone = merge(three, [f"base+{three}/chat"], "alone", "passthrough", parameters={})
    assert json.loads((alone / "config.json").read_text())["vocab_size"] == 22
    assert torch.equal(tensors_of(alone)[HEAD], made[HEAD])
    with pytest.raises(RecipeError, match="E321"):
        merge(three, ["base", f"base+{three}/chat"], "refused")


def test_an_adapter_with_more_rows_in_one_of_two_tensors_is_refused(three: Path) -> None:
    write_adapter(three / "a", three / "chat", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with pytest.raises(RecipeError, match=r"E343.*by one of 22 rows, and lm_head.weight keeps 20"):
        merge(three, [f"base+{three}/chat"], "out", "passthrough", parameters={})


@pytest.mark.parametrize("shape", [(), (21, 1), (3, 4)], ids=["one", "rows", "blocks"])
def test_float8_rows_are_put_in_order_as_what_they_stand_for(shape: tuple[int, ...], three: Path) -> None:
    tensors = load_file(three / "b" / "model.safetensors")
    scales = {name: torch.rand(shape) + 0.5 for name in (EMBEDDING, HEAD)}
    expected = {}
    for name, scale in scales.items():
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        grid = {(3, 4): lambda one: one.repeat_interleave(8, 0)[:21].repeat_interleave(4, 1)}.get(
            shape, lambda one: one
        )
        rows = tensors[name].double() * grid(scale).double()
        expected[name] = {token: rows[number] for token, number in ids_of(three / "b").items()}
    save_file({**tensors, **{f"{name}_scale_inv": one for name, one in scales.items()}}, three / "b/model.safetensors")
    config = json.loads((three / "b/config.json").read_text())
    scheme = {"quant_method": "fp8", "weight_block_size": [8, 4]}
    (three / "b/config.json").write_text(json.dumps({**config, "quantization_config": scheme}))
    out = merge(three, ["base", "b"], tokenizer_source="union", out_dtype="float32")
    for name in (EMBEDDING, HEAD):
        rows = [rows_of(three / "base", name), expected[name]]
        assert_rows(rows_of(out, name), oracle(rows, None, list(ids_of(out))))


def test_bytes_of_computed_rows_do_not_depend_on_tiles_or_workers(three: Path) -> None:
    write_adapter(three / "b", three / "adapter", r=3, target_modules=["embed_tokens", "lm_head", "q_proj"])
    recipe = write_recipe(
        three,
        "linear",
        [three / "base", f"{three}/b+{three}/adapter"],
        parameters={"weight": 1},
        tokenizer_source="union",
    )
    plan = mergec.compile(recipe, workers=1)
    plan.run(three / "one")
    small = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=16, workers=2))
    mergec.api.adopt(small).run(three / "small")
    name = "model.safetensors"
    assert (three / "one" / name).read_bytes() == (three / "small" / name).read_bytes()


@pytest.mark.parametrize(("options", "dtypes"), [({"lora_merge_dtype": "bfloat16"}, "bfloat16"), ({}, "float32")])
def test_computed_rows_are_rounded_where_the_recipe_says(options: dict[str, str], dtypes: str, three: Path) -> None:
    write_adapter(three / "b", three / "adapter", r=3, target_modules=["lm_head"])
    model = f"{three}/b+{three}/adapter"
    alone = merge(three, [f"b+{three}/adapter"], "alone", "passthrough", parameters={})
    recipe = write_recipe(
        three,
        "linear",
        [three / "base", model],
        parameters={"weight": 1},
        tokenizer_source=str(three / "base"),
        **options,
    )
    mergec.compile(recipe).run(three / "out")
    rounded = {token: row.to(getattr(torch, dtypes)).double() for token, row in rows_of(alone, HEAD).items()}
    assert_rows(rows_of(three / "out", HEAD), oracle([rows_of(three / "base", HEAD), rounded], None, WORDS))


def test_a_stage_gives_its_tokens_and_template_to_the_next(three: Path) -> None:
    (three / "recipe.yml").write_text(
        "name: ab\nmerge_method: linear\nmodels: [{model: ./base}, {model: ./a}]\nparameters: {weight: 1}\n"
        "tokenizer_source: union\nchat_template: chatml\n---\n"
        "merge_method: linear\nmodels: [{model: ab}, {model: ./b}]\nparameters: {weight: 1}\ntokenizer_source: ab\n"
    )
    with pytest.raises(RecipeError, match="E355"):
        mergec.compile(three / "recipe.yml")  # `b` is in another order than `ab`, so only plain tensors will do
    word_tokenizer(WORDS, CHAT).save_pretrained(three / "a")
    (three / "recipe.yml").write_text((three / "recipe.yml").read_text().replace("./b}", "./a}"))
    mergec.compile(three / "recipe.yml").run(three / "out")
    assert ids_of(three / "out") == ids_of(three / "a")
    assert "<|im_start|>" in (three / "out/chat_template.jinja").read_text()


def test_rows_of_a_stage_are_not_put_in_another_order(three: Path) -> None:
    (three / "recipe.yml").write_text(
        "name: ab\nmerge_method: linear\nmodels: [{model: ./base}, {model: ./b}]\nparameters: {weight: 1}\n"
        "tokenizer_source: base\nbase_model: ./base\n---\n"
        "merge_method: linear\nmodels: [{model: ab}, {model: ./a}]\nparameters: {weight: 1}\n"
        "tokenizer_source: union\n"
    )
    with pytest.raises(RecipeError, match=r"E355.*has one that a stage computes"):
        mergec.compile(three / "recipe.yml")
