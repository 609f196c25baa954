"""Words: what a token of any tokenizer stands for - bytes of text, or a role - so that two can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from mergec.io.vocabulary import Vocabulary

_SPACE = "▁"  # how SentencePiece writes a space
_BYTE_SPACE = "Ġ"  # how byte-level encodings do


class Word(NamedTuple):
    """The bytes that a token stands for, or its role, such as `bos_token`, or the text of another added token."""

    data: bytes
    role: str = ""

    @property
    def text(self) -> str:
        """Its text; "" for a role, and for bytes that are no text by themselves."""
        try:
            return "" if self.role else self.data.decode()
        except UnicodeDecodeError:
            return ""

    @property
    def prefixes(self) -> Iterator[Word]:
        """The words that it begins with, the longest first; none that is only space."""
        if not self.role:
            shorter = (self.data[:end] for end in range(len(self.data) - 1, 0, -1))
            yield from (Word(data) for data in shorter if data.strip())


def words_of(vocabulary: Vocabulary) -> dict[Word, int]:
    """The numbers of a vocabulary's tokens by what they stand for; of two that stand for one thing the lower one's.

    A token is known by its role, if it has one; an added one by its text; others by their bytes, whether they are
    written as SentencePiece does (`▁the`, `<0x0A>`) or byte by byte (`Ġthe`).
    """
    roles = {token: role for role, token in reversed(list(vocabulary.special.items()))}
    is_bytes = _counts(vocabulary, _BYTE_SPACE) > _counts(vocabulary, _SPACE)
    found: dict[Word, int] = {}
    for token, number in sorted(vocabulary.ids.items(), key=lambda item: item[1]):
        if token in roles:
            word = Word(b"", roles[token])
        elif token in vocabulary.added:
            word = Word(token.encode(), "added")
        else:
            word = Word(_from_byte_level(token) if is_bytes else _from_pieces(token))
        found.setdefault(word, number)
    return found


def _counts(vocabulary: Vocabulary, mark: str) -> int:
    return sum(token.startswith(mark) for token in vocabulary.ids)


def _from_pieces(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace(_SPACE, " ").encode()


def _from_byte_level(token: str) -> bytes:
    known = _letters()
    return bytes(known[letter] for letter in token) if all(letter in known for letter in token) else token.encode()


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The letter that GPT-2's encoding writes for each byte: printable ones stand for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + number): byte for number, byte in enumerate(others)}
