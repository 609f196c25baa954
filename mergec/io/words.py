"""Words: what a token of any tokenizer stands for - bytes of text, or a role - so that two can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from mergec.io.vocabulary import Vocabulary

_SPACE = "▁"  # how SentencePiece writes a space
_BYTE_SPACE = "Ġ"  # how byte-level encodings do
_ASCII = 128


class Word(NamedTuple):
    """Bytes of text; or, with a `role`, what is not text: `bos_token`, ..., `added`, or the `byte` of a letter."""

    data: bytes
    role: str = ""

    @property
    def prefixes(self) -> Iterator[Word]:
        """The words that it begins with, the longest first; none that is only space."""
        if not self.role:
            shorter = (self.data[:end] for end in range(len(self.data) - 1, 0, -1))
            yield from (Word(data) for data in shorter if data.strip())

    @property
    def twins(self) -> Iterator[Word]:
        """The token of its one byte for a letter, and the letter for the token of a byte."""
        if len(self.data) == 1 and self.role in ("", "byte"):
            yield Word(self.data, "" if self.role else "byte")


class Token(NamedTuple):
    """The words that a token may be known by, the closest first, and its text: "" for bytes that are none."""

    words: tuple[Word, ...]
    text: str


def tokens_of(vocabulary: Vocabulary) -> dict[int, Token]:
    """What the token of each number stands for.

    A special token is known by its roles and by its text; other tokens by their bytes, whether they are written as
    SentencePiece does (`▁the`) or byte by byte (`Ġthe`). SentencePiece's `<0x41>` is not the letter A, which has a
    token of its own; `<0xE2>`, which is no letter, is the byte.
    """
    roles: dict[str, list[str]] = {}
    for role, token in vocabulary.special.items():
        roles.setdefault(token, []).append(role)
    is_bytes = _counts(vocabulary, _BYTE_SPACE) > _counts(vocabulary, _SPACE)
    found: dict[int, Token] = {}
    for token, number in vocabulary.ids.items():
        added = vocabulary.added.get(token)
        if token in roles or (added and added.special):
            named = (Word(b"", role) for role in roles.get(token, ()))
            found[number] = Token((*named, Word(token.encode(), "added")), token)
        elif added:
            found[number] = Token((Word(token.encode()), Word(token.encode(), "added")), token)
        else:
            word = Word(_from_byte_level(token)) if is_bytes else _from_piece(token)
            found[number] = Token((word,), _text(word.data))
    return dict(sorted(found.items()))


def numbers_of(tokens: Mapping[int, Token]) -> dict[Word, int]:
    """The lowest number of each word, of those tokens of which it is the closest if there are any."""
    found: dict[Word, int] = {}
    for first in (True, False):
        for number, token in tokens.items():
            for word in token.words[:1] if first else token.words[1:]:
                found.setdefault(word, number)
    return found


def _counts(vocabulary: Vocabulary, mark: str) -> int:
    return sum(token.startswith(mark) for token in vocabulary.ids)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""


def _from_piece(token: str) -> Word:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            byte = int(token[3:5], 16)
            return Word(bytes([byte]), "byte" if byte < _ASCII else "")
        except ValueError:
            pass
    return Word(token.replace(_SPACE, " ").encode())


def _from_byte_level(token: str) -> bytes:
    known = _letters()
    return bytes(known[letter] for letter in token) if all(letter in known for letter in token) else token.encode()


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The letter that GPT-2's encoding writes for each byte: printable ones stand for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + number): byte for number, byte in enumerate(others)}
