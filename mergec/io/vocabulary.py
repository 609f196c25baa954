"""A model's vocabulary: its tokens and their numbers, read from the tokenizer's files without transformers or torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

from mergec.errors import InputError, path_text
from mergec.io.checkpoint import DATA, is_absent, parse_json, small_file_digest
from mergec.io.hub import small_file

Kind: TypeAlias = Literal["BPE", "Unigram", "WordPiece", "WordLevel"]

FAST_NAME, CONFIG_NAME, SPECIAL_NAME = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
CONVERT = "load it with transformers' AutoTokenizer and save it again: that writes tokenizer.json"
# of these a piece's number in tokenizer.model is its token's; others shift them
_PIECE_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast", "CodeLlamaTokenizer")


@dataclass(frozen=True)
class AddedToken:
    """A token that text is searched for before it is cut into others, with the flags of the tokenizers library."""

    content: str
    id: int
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False

    @property
    def flags(self) -> dict[str, bool]:
        return {name: getattr(self, name) for name in _FLAGS}

    def to_json(self) -> dict[str, Any]:
        """Its entry under `added_tokens` of tokenizer.json."""
        plain = asdict(self)
        return {"id": plain.pop("id"), **plain}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer by their text, with their numbers; `file` is where most of them stand.

    `added` are those that are marked as added tokens, by text, in the order of their numbers. `special` maps a role,
    such as `eos_token`, to its token. `document` is tokenizer.json as it was read, None where there is none;
    `config` is tokenizer_config.json. Equal files give one value, which is shared: nobody may change the mappings.
    """

    file: str
    kind: Kind
    ids: Mapping[str, int] = field(repr=False)
    added: Mapping[str, AddedToken] = field(repr=False)
    special: Mapping[str, str]
    document: Mapping[str, Any] | None = field(default=None, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def size(self) -> int:
        """One more than the largest number: the rows that an embedding needs for all tokens."""
        return 1 + max(self.ids.values(), default=-1)

    @cached_property
    def tokens(self) -> Mapping[int, str]:
        """The token of each number that has one, by ascending number; rows of a model without one are padding."""
        return dict(sorted((number, token) for token, number in self.ids.items()))

    @cached_property
    def merges(self) -> tuple[tuple[str, str], ...]:
        """The pairs that byte-pair encoding joins, first ones first; none for other kinds."""
        written = (self.document or {}).get("model", {}).get("merges") or ()
        return tuple(_pair(self.file, one) for one in written)

    @property
    def templates(self) -> Mapping[str, str]:
        """The chat templates of tokenizer_config.json, by name; the one that is used unless asked is `default`."""
        found = self.config.get("chat_template")
        if isinstance(found, str):
            return {"default": found}
        entries = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        return {str(one.get("name")): one["template"] for one in entries if isinstance(one.get("template"), str)}

    def __len__(self) -> int:
        return len(self.ids)

    def __hash__(self) -> int:
        return hash((self.file, len(self.ids)))


def read_vocabulary(name: str, side_files: Mapping[str, str]) -> Vocabulary | None:
    """The vocabulary of the model `name`, from the files beside its weights; None if no file of it holds tokens.

    Read are tokenizer.json, else vocab.json, vocab.txt or, where its numbers are the tokens', tokenizer.model; with
    them added_tokens.json, tokenizer_config.json and special_tokens_map.json. Files on the hub are fetched. Raises
    InputError: E350 for a file that is not what it should be, E351 for a tokenizer of a kind that is not read.
    """
    main = next((one for one in (FAST_NAME, "vocab.json", "vocab.txt", "tokenizer.model") if one in side_files), None)
    if main is None:
        odd = [one for one in sorted(side_files) if one.endswith((".tiktoken", ".model"))]
        if odd:
            raise InputError("E351", f"the tokenizer of '{name}' is {odd[0]}, which is not read", CONVERT)
        return None
    names = (main, CONFIG_NAME, SPECIAL_NAME, "added_tokens.json", *(("merges.txt",) if main == "vocab.json" else ()))
    files = [(one, side_files[one]) for one in names if one in side_files]
    for _, path in files:
        if is_absent(path):
            what = f"the tokenizer of '{name}' is known by its digest alone, for the model is not here"
            raise InputError("E351", what, "fetch the model")
    return _read(tuple(_File(one, small_file_digest(path), path, name) for one, path in files))


@dataclass(frozen=True)
class _File:
    """A tokenizer file: what it is called, its digest, where it lies and of which model, which make no difference."""

    name: str
    digest: str
    path: str = field(compare=False)
    model: str = field(compare=False)


@lru_cache(maxsize=16)
def _read(files: tuple[_File, ...]) -> Vocabulary:
    """The vocabulary of files, the first of which holds most tokens; equal ones are read once."""
    paths = {one.name: one.path for one in files}
    main, name = files[0].name, files[0].model
    config = _object(paths[CONFIG_NAME]) if CONFIG_NAME in paths else {}
    document = _object(paths[main]) if main == FAST_NAME else None
    kind, ids, added = _fast(paths[main], document) if document is not None else _slow(name, main, paths, config)
    _add(ids, added, [*_decoder(paths.get(CONFIG_NAME, ""), config), *_plain(paths.get("added_tokens.json"))])
    special = {**_special(_object(paths[SPECIAL_NAME]) if SPECIAL_NAME in paths else {}), **_special(config)}
    _check(paths[main], ids)
    ordered = {one.content: one for one in sorted(added.values(), key=lambda one: one.id)}
    return Vocabulary(paths[main], kind, ids, ordered, special, document, config)


def _add(ids: dict[str, int], added: dict[str, AddedToken], more: Iterable[AddedToken]) -> None:
    """Take in added tokens of files beside the main one; where these disagree with it they are out of date."""
    taken = set(ids.values())
    for one in more:
        if one.content not in ids and one.id not in taken:
            ids[one.content] = one.id
            taken.add(one.id)
        if one.content not in added and ids.get(one.content) == one.id:
            added[one.content] = one


def _fast(path: str, document: Mapping[str, Any]) -> tuple[Kind, dict[str, int], dict[str, AddedToken]]:
    """Kind, tokens and added tokens of tokenizer.json."""
    model = document.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        raise _broken(path, "it has no model with a vocab")
    kind: Any = model.get("type") or ("Unigram" if isinstance(model["vocab"], list) else "BPE")
    if kind not in ("BPE", "Unigram", "WordPiece", "WordLevel"):
        raise InputError("E351", f"{path_text(path)} is a tokenizer of the kind {kind!r}, which is not read")
    if kind == "Unigram":
        if not isinstance(model["vocab"], list) or not all(map(_is_piece, model["vocab"])):
            raise _broken(path, "its vocab is not a list of tokens with scores")
        ids = {piece[0]: number for number, piece in reversed(list(enumerate(model["vocab"])))}
    else:
        ids = _numbers(path, "its vocab", model["vocab"])
    entries = document.get("added_tokens") or []
    if not isinstance(entries, list):
        raise _broken(path, "its added_tokens are not a list")
    added = {one.content: one for one in (_added(path, entry) for entry in entries)}
    for one in added.values():
        if ids.setdefault(one.content, one.id) != one.id:
            raise _broken(path, f"{one.content!r} has the number {ids[one.content]} in the vocab, {one.id} as added")
    return kind, ids, added


def _slow(
    name: str, main: str, paths: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[Kind, dict[str, int], dict[str, AddedToken]]:
    """The same of the files that tokenizers had before tokenizer.json."""
    if main == "vocab.json":
        return "BPE" if "merges.txt" in paths else "WordLevel", _numbers(paths[main], "it", _object(paths[main])), {}
    if main == "vocab.txt":
        return "WordPiece", {token: number for number, token in enumerate(_lines(paths[main]))}, {}
    return "Unigram", _pieces(name, paths[main], config), {}


def _is_piece(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)


def _added(path: str, entry: Any, number: Any = None) -> AddedToken:
    number = entry.get("id") if number is None and isinstance(entry, dict) else number
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or not _is_number(number):
        raise _broken(path, f"an added token is {str(entry)[:60]}, expected content and id")
    flags = {name: bool(entry.get(name, False)) for name in _FLAGS}
    return AddedToken(entry["content"], number, **flags)


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _numbers(path: str, what: str, found: Any) -> dict[str, int]:
    if not isinstance(found, dict) or not all(map(_is_number, found.values())):
        raise _broken(path, f"{what} does not map each token to a number")
    return dict(found)


def _decoder(path: str, config: Mapping[str, Any]) -> Iterator[AddedToken]:
    """The added tokens of tokenizer_config.json."""
    found = config.get("added_tokens_decoder") or {}
    if not isinstance(found, dict) or not all(map(str.isdecimal, found)):
        raise _broken(path, "its added_tokens_decoder does not map numbers to tokens")
    for number, entry in found.items():
        yield _added(path, entry, int(number))


def _plain(path: str | None) -> Iterator[AddedToken]:
    """Those of added_tokens.json, which has no flags."""
    if path is not None:
        for token, number in _numbers(path, "it", _object(path)).items():
            yield AddedToken(token, number)


def _special(document: Mapping[str, Any]) -> dict[str, str]:
    found = {role: _content(document.get(role)) for role in ROLES}
    return {role: token for role, token in found.items() if token is not None}


def _content(value: Any) -> str | None:
    """A token that is written as text, or with flags."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def _check(path: str, ids: Mapping[str, int]) -> None:
    """A number stands for one token."""
    if len(set(ids.values())) == len(ids):
        return
    first: dict[int, str] = {}
    for token, number in ids.items():
        if first.setdefault(number, token) != token:
            raise _broken(path, f"{first[number]!r} and {token!r} both have the number {number}")


def _lines(path: str) -> Iterable[str]:
    try:
        return small_file(path).decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise _broken(path, f"it is no text: {error}") from None


def _object(path: str) -> dict[str, Any]:
    try:
        found = parse_json(small_file(path))
    except RecursionError:
        raise _broken(path, "it is nested too deeply") from None
    except ValueError as error:
        raise _broken(path, f"it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _broken(path, "it is not a JSON object")
    return found


def open_tokenizer(file: str) -> Any:
    """The tokenizer that a tokenizer.json is of, as the tokenizers library reads it. Raises InputError (E350)."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(small_file(file))
    except Exception as error:  # the library raises no narrower ones
        raise _broken(file, str(error)) from None


def _pair(file: str, written: Any) -> tuple[str, str]:
    parts = written.split(" ") if isinstance(written, str) else written
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise _broken(file, f"a merge is {str(written)[:60]!r}, expected two tokens")
    return parts[0], parts[1]


def _pieces(name: str, path: str, config: Mapping[str, Any]) -> dict[str, int]:
    """The pieces of a SentencePiece model: field 1 of its protocol buffer, whose field 1 is the text."""
    kind = config.get("tokenizer_class")
    if kind not in _PIECE_CLASSES:
        what = (
            f"the tokenizer of '{name}' is {os.path.basename(path)} of the class {kind}, whose numbers may be shifted"
        )
        raise InputError("E351", what, CONVERT)
    try:
        texts = [
            next(bytes(text).decode() for number, text in _fields(piece) if number == 1)
            for field_number, piece in _fields(memoryview(small_file(path)))
            if field_number == 1
        ]
    except (IndexError, ValueError, StopIteration, RuntimeError):
        raise _broken(path, "it is no SentencePiece model") from None
    return {text: number for number, text in reversed(list(enumerate(texts)))}


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protocol buffer that hold bytes, with their numbers; those of other types are passed over."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == 0:
            _, position = _varint(data, position)
        elif wire == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise ValueError("truncated")
            yield tag >> 3, data[position : position + length]
            position += length
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
        else:
            raise ValueError("no such type")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("too long")


def _broken(path: str, why: str) -> InputError:
    shown = "what a stage makes" if path.startswith(DATA) else path_text(path)
    return InputError("E350", f"{shown} is no sound tokenizer file: {why}", "fetch or copy it again")
