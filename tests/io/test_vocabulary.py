"""Vocabularies: tokens and numbers as transformers has them, and errors for files that are broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken as Flagged
from vocabularies import ids_of, pair_tokenizer, word_tokenizer

from mergec.errors import InputError
from mergec.io.vocabulary import AddedToken, Vocabulary, read_vocabulary

WORDS = ("<unk>", "</s>", "hello", "world")


def read(folder: Path) -> Vocabulary | None:
    return read_vocabulary("a", {path.name: str(path) for path in sorted(folder.iterdir())})


def found(folder: Path) -> Vocabulary:
    vocabulary = read(folder)
    assert vocabulary is not None
    return vocabulary


def write(folder: Path, **files: Any) -> Path:
    """Files called after keyword arguments: `tokenizer_json=...` is tokenizer.json."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        data = content if isinstance(content, (str, bytes)) else json.dumps(content)
        (folder / f"{stem}.{suffix}").write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def test_tokens_have_the_numbers_that_transformers_gives_them(tmp_path: Path) -> None:
    flagged = Flagged("<|im_start|>", special=True, lstrip=True)
    word_tokenizer(WORDS, ["ünï 雪", flagged], eos_token="</s>").save_pretrained(tmp_path)
    vocabulary = found(tmp_path)
    assert vocabulary.ids == ids_of(tmp_path)
    assert vocabulary.added["<|im_start|>"] == AddedToken("<|im_start|>", 5, lstrip=True, special=True)
    assert vocabulary.added["ünï 雪"].normalized
    assert list(vocabulary.tokens.items())[-2:] == [(4, "ünï 雪"), (5, "<|im_start|>")]
    assert (vocabulary.kind, vocabulary.size, len(vocabulary)) == ("WordLevel", 6, 6)
    assert vocabulary.special == {"unk_token": "<unk>", "eos_token": "</s>"}


def test_merges_of_byte_pairs(tmp_path: Path) -> None:
    pair_tokenizer("abc", [("a", "b"), ("ab", "c")]).save_pretrained(tmp_path)
    vocabulary = found(tmp_path)
    assert vocabulary.ids == ids_of(tmp_path) == {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}
    assert (vocabulary.kind, vocabulary.merges) == ("BPE", (("a", "b"), ("ab", "c")))
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["model"]["merges"] = ["a b", "ab c"]  # as they were written before
    write(tmp_path, tokenizer_json=document)
    assert found(tmp_path).merges == vocabulary.merges


def test_unigram_numbers_its_pieces_in_order(tmp_path: Path) -> None:
    model = {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁a", -1.5], ["b", -2.0]], "unk_id": 0}
    write(tmp_path, tokenizer_json={"model": model, "added_tokens": [{"id": 0, "content": "<unk>", "special": True}]})
    assert found(tmp_path).ids == {"<unk>": 0, "▁a": 1, "b": 2}
    assert list(found(tmp_path).added) == ["<unk>"]


def test_holes_between_numbers_are_rows_without_a_token(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_json={"model": {"vocab": {"a": 0, "b": 3}}})
    vocabulary = found(tmp_path)
    assert (vocabulary.size, len(vocabulary), list(vocabulary.tokens)) == (4, 2, [0, 3])


def test_files_of_older_tokenizers(tmp_path: Path) -> None:
    decoder = {"3": {"content": "<pad>", "special": True}}
    config = {"added_tokens_decoder": decoder, "pad_token": {"content": "<pad>"}, "eos_token": "b"}
    both = write(tmp_path / "both", vocab_json={"a": 0, "b": 1}, merges_txt="a b\n", tokenizer_config_json=config)
    write(both, added_tokens_json={"<x>": 2}, special_tokens_map_json={"eos_token": "a", "unk_token": "a"})
    vocabulary = found(both)
    assert vocabulary.ids == {"a": 0, "b": 1, "<x>": 2, "<pad>": 3}
    assert [(one.content, one.special) for one in vocabulary.added.values()] == [("<x>", False), ("<pad>", True)]
    assert vocabulary.special == {"eos_token": "b", "unk_token": "a", "pad_token": "<pad>"}
    assert vocabulary.kind == "BPE"
    assert found(write(tmp_path / "bert", vocab_txt="[UNK]\na\u2028b\n")).ids == {"[UNK]": 0, "a\u2028b": 1}


def test_an_added_token_that_is_out_of_date_is_passed_over(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {"0": {"content": "other"}, "1": {"content": "a"}}}
    write(tmp_path, tokenizer_json={"model": {"vocab": {"a": 0}}}, tokenizer_config_json=config)
    assert found(tmp_path).ids == {"a": 0}


def piece(text: str) -> bytes:
    """A piece of a SentencePiece model: its text, its score, its type."""
    body = b"\x0a" + bytes([len(text.encode())]) + text.encode() + b"\x15\x00\x00\x80\x3f" + b"\x18\x01"
    return b"\x0a" + bytes([len(body)]) + body


def test_pieces_of_a_sentencepiece_model(tmp_path: Path) -> None:
    model = piece("<unk>") + piece("▁wörd") + b"\x12\x02ab"
    write(tmp_path, tokenizer_model=model, tokenizer_config_json={"tokenizer_class": "LlamaTokenizer"})
    assert found(tmp_path).ids == {"<unk>": 0, "▁wörd": 1}


def test_templates(tmp_path: Path) -> None:
    document = {"model": {"vocab": {"a": 0}}}
    write(tmp_path, tokenizer_json=document, tokenizer_config_json={"chat_template": "{{ x }}"})
    assert found(tmp_path).templates == {"default": "{{ x }}"}
    entries = [{"name": "default", "template": "{{ y }}"}, {"name": "tool_use", "template": "{{ z }}"}, 5]
    write(tmp_path, tokenizer_config_json={"chat_template": entries})
    assert found(tmp_path).templates == {"default": "{{ y }}", "tool_use": "{{ z }}"}


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_json={"model": {"vocab": {"a": 0}}})
    assert found(tmp_path) is found(tmp_path)
    write(tmp_path, tokenizer_json={"model": {"vocab": {"b": 0}}})
    assert found(tmp_path).ids == {"b": 0}


def test_a_model_without_tokenizer_has_none(tmp_path: Path) -> None:
    assert read(write(tmp_path, config_json={})) is None


BROKEN = {
    "no JSON": ({"tokenizer_json": "{"}, "E350", "it is not JSON"),
    "a list": ({"tokenizer_json": []}, "E350", "it is not a JSON object"),
    "too deep": ({"tokenizer_json": "[" * 100_000}, "E350", "nested too deeply"),
    "empty": ({"tokenizer_json": {}}, "E350", "it has no model with a vocab"),
    "words for numbers": ({"tokenizer_json": {"model": {"vocab": {"a": "0"}}}}, "E350", "does not map each token"),
    "below zero": ({"tokenizer_json": {"model": {"vocab": {"a": -1}}}}, "E350", "does not map each token"),
    "no scores": ({"tokenizer_json": {"model": {"vocab": ["a"]}}}, "E350", "not a list of tokens with scores"),
    "one number twice": (
        {"tokenizer_json": {"model": {"vocab": {"a": 0, "b": 0}}}},
        "E350",
        "'a' and 'b' both have the number 0",
    ),
    "no content": (
        {"tokenizer_json": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}},
        "E350",
        "expected content and id",
    ),
    "two numbers": (
        {"tokenizer_json": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "a"}]}},
        "E350",
        "'a' has the number 0 in the vocab, 1 as added",
    ),
    "decoder": (
        {"tokenizer_json": {"model": {"vocab": {"a": 0}}}, "tokenizer_config_json": {"added_tokens_decoder": {"x": 1}}},
        "E350",
        "does not map numbers to tokens",
    ),
    "kind": ({"tokenizer_json": {"model": {"type": "Magic", "vocab": {}}}}, "E351", "of the kind 'Magic'"),
    "pieces": (
        {"tokenizer_model": b"\x0a\xff", "tokenizer_config_json": {"tokenizer_class": "LlamaTokenizer"}},
        "E350",
        "it is no SentencePiece model",
    ),
    "shifted pieces": (
        {"tokenizer_model": piece("a"), "tokenizer_config_json": {"tokenizer_class": "XLMRobertaTokenizer"}},
        "E351",
        "of the class XLMRobertaTokenizer, whose numbers may be shifted",
    ),
    "tiktoken": ({"qwen_tiktoken": "YQ== 0"}, "E351", "the tokenizer of 'a' is qwen.tiktoken, which is not read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_errors(case: str, tmp_path: Path) -> None:
    files, code, what = BROKEN[case]
    with pytest.raises(InputError, match=re.escape(what)) as caught:
        read(write(tmp_path, **files))
    assert (caught.value.code, bool(caught.value.hint) or case == "kind") == (code, True)


def test_a_tokenizer_of_which_a_lock_knows_the_digest_alone_is_not_read() -> None:
    with pytest.raises(InputError, match="known by its digest alone"):
        read_vocabulary("a", {"tokenizer.json": "sha256:00"})


def test_reading_needs_no_heavy_library() -> None:
    code = (
        "import sys, mergec.io.vocabulary; print({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
