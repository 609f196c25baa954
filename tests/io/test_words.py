"""What tokens stand for: the same words for other spellings, and no two tokens taken for one."""

from __future__ import annotations

import pytest

from mergec.io.vocabulary import AddedToken, Vocabulary
from mergec.io.words import Word, numbers_of, tokens_of


def vocabulary(tokens: list[str], added: tuple[AddedToken, ...] = (), **special: str) -> Vocabulary:
    ids = {token: number for number, token in enumerate(tokens)} | {one.content: one.id for one in added}
    return Vocabulary("tokenizer.json", "BPE", ids, {one.content: one for one in added}, special)


PIECES = vocabulary(["<unk>", "<0x41>", "<0xE2>", "A", "▁the", "▁", "é"])
LETTERS = vocabulary(["Ġthe", "Ġ", "A", "â", "Ã©", "Ċ"])


@pytest.mark.parametrize("token", [("▁the", "Ġthe"), ("▁", "Ġ"), ("A", "A"), ("<0xE2>", "â"), ("é", "Ã©")])
def test_a_token_is_the_same_word_however_it_is_written(token: tuple[str, str]) -> None:
    ours, theirs = (tokens_of(one)[one.ids[text]] for one, text in zip((PIECES, LETTERS), token, strict=True))
    assert ours.words == theirs.words


def test_the_token_of_a_byte_is_not_that_of_its_letter_but_its_twin() -> None:
    known = numbers_of(tokens_of(PIECES))
    assert known[Word(b"A")] == PIECES.ids["A"]
    assert known[Word(b"A", "byte")] == PIECES.ids["<0x41>"]
    assert list(Word(b"A").twins) == [Word(b"A", "byte")]
    assert list(Word(b"A", "byte").twins) == [Word(b"A")]
    assert list(Word(b"the").twins) == list(Word(b"", "bos_token").twins) == []


def test_special_tokens_go_by_every_role_and_then_by_their_text() -> None:
    end = AddedToken("<end>", 2, special=True)
    tokens = tokens_of(vocabulary(["a", "b"], (end,), bos_token="<end>", eos_token="<end>"))
    assert tokens[2].words == (Word(b"", "bos_token"), Word(b"", "eos_token"), Word(b"<end>", "added"))
    assert tokens[2].text == "<end>"
    assert numbers_of(tokens)[Word(b"", "eos_token")] == 2


def test_added_tokens_that_are_not_special_are_text() -> None:
    tokens = tokens_of(vocabulary(["a", "Ġb"], (AddedToken("  ", 2),)))
    assert tokens[2].words[0] == Word(b"  ")


def test_a_word_belongs_to_the_token_whose_closest_it_is() -> None:
    special = AddedToken("<s>", 0, special=True)
    tokens = tokens_of(vocabulary([], (special, AddedToken("<x>", 1, special=True)), bos_token="<s>"))
    assert numbers_of(tokens)[Word(b"<x>", "added")] == 1
    assert numbers_of(tokens)[Word(b"<s>", "added")] == 0


def test_prefixes_are_the_longest_first_and_never_only_space() -> None:
    assert list(Word(b" abc").prefixes) == [Word(b" ab"), Word(b" a")]
    assert list(Word(b"abc", "added").prefixes) == []


def test_bytes_that_are_no_text_have_none() -> None:
    tokens = tokens_of(LETTERS)
    assert [one.text for one in tokens.values()] == [" the", " ", "A", "", "é", "\n"]
