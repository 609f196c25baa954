"""Models: what a recipe names, opened - a folder, a file or a repository of the hub, with an adapter or without."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from mergec.compiler.adapters import adapted
from mergec.compiler.names import is_embedding, is_head
from mergec.compiler.nested import set_rows
from mergec.compiler.quantised import dequantised
from mergec.compiler.source import Source
from mergec.errors import InputError, Place, Problem, did_you_mean
from mergec.io import hub
from mergec.io.adapter import read_config
from mergec.io.checkpoint import ADAPTER_NAME, Checkpoint, is_tokenizer_file, open_checkpoint
from mergec.io.tensors import TensorRef
from mergec.plan import ModelUse

STAGE = "stage:"
"""What the file of a tensor is called that a stage of the recipe computes, before the stage's name."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")


@dataclass(frozen=True)
class Model:
    """A model of the recipe, opened: what it was called, where, and what its headers say.

    `sources` are its tensors where they are not simply those of the checkpoint; `beside` what else it is made of;
    `notes` say what was left out of it.
    """

    reference: str
    place: Place
    found: str
    checkpoint: Checkpoint
    sources: Mapping[str, Source] | None = None
    beside: tuple[ModelUse, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tensors(self) -> Mapping[str, Source]:
        return self.checkpoint.tensors if self.sources is None else self.sources

    @property
    def head(self) -> str | None:
        return next((name for name in self.tensors if is_head(name)), None)

    @property
    def embedding(self) -> Source | None:
        return next((ref for name, ref in self.tensors.items() if is_embedding(name)), None)

    @property
    def is_tied(self) -> bool:
        """Whether its head is its input embedding: its config says so, or says nothing and no head is stored."""
        config = self.checkpoint.config or {}
        said = config.get("tie_word_embeddings", self.checkpoint.text_config.get("tie_word_embeddings"))
        return bool(said) if said is not None else self.head is None


def is_staged(source: Source) -> bool:
    """Whether a tensor is one that a stage computes, and so lies in no file."""
    return isinstance(source, TensorRef) and source.file.startswith(STAGE)


def open_models(
    references: Mapping[str, Place], folder: Path, known: Mapping[str, Model] = MappingProxyType({})
) -> tuple[dict[str, Model], list[Problem]]:
    """Open every model a recipe names; `folder` is the recipe's own, tried before the current one.

    Those in `known` are open already.
    """
    models: dict[str, Model] = {}
    problems: list[Problem] = []
    for reference, place in references.items():
        if reference in known:
            models[reference] = replace(known[reference], place=place)
            continue
        try:
            models[reference] = open_model(reference, folder, place)
        except InputError as error:
            problems.append(error.at(place))
    return models, problems


def open_model(reference: str, folder: Path, place: Place | None = None, as_stored: bool = False) -> Model:
    """Open one model: a path beside the recipe, then in the current folder, then a hub id. Raises InputError.

    `as_stored` shows quantised tensors as they are.
    """
    place = place or Place(reference, 1, 1)
    with _looking_for(reference):
        base, adapter = _split(reference, folder)
        checkpoint, found = _open(base, folder)
        opened = _of_adapter if checkpoint.adapter is not None and not adapter else _plain
        model = Model(reference, place, found, checkpoint)
        model = model if as_stored else opened(model, folder)
        return _with_adapter(model, adapter, *_open(adapter, folder, adapter=True)) if adapter else model


def add_adapter(model: Model, name: str, folder: Path) -> Model:
    """A model with an adapter, such as a stage. Raises InputError."""
    reference = f"{model.reference}+{name}"
    with _looking_for(reference):
        return replace(_with_adapter(model, name, *_open(name, folder, adapter=True)), reference=reference)


@contextmanager
def _looking_for(reference: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # a name that is too long, a home or a folder that is closed to us
        why = getattr(error, "strerror", None) or str(error)
        raise InputError("E300", f"cannot look for the model '{reference}': {why}", "is the path right?") from None


def _plain(model: Model, folder: Path) -> Model:
    """A model whose float8 tensors are the weights they stand for."""
    sources, notes = dequantised(model.reference, model.checkpoint)
    return replace(model, sources=sources, notes=notes) if notes else model


def _split(reference: str, folder: Path) -> tuple[str, str]:
    """A model and the adapter that is added to it, "" if none; in a path that exists `+` is a letter like others."""
    places = [number for number, letter in enumerate(reference) if letter == "+"]
    if not places or exists(reference, folder):
        return reference, ""
    ways = [(reference[:place], reference[place + 1 :]) for place in places]
    known = [way for way in ways if exists(way[0], folder)] if len(ways) > 1 else ways
    if len(known) != 1 or not all(known[0]):
        what = f"'{reference}' is not one model and one adapter, as in BASE+ADAPTER"
        raise InputError("E340", what, "merge adapters one after the other")
    return known[0]


def exists(reference: str, folder: Path) -> bool:
    """Whether a reference is a path, beside the recipe or in the current folder."""
    return any(os.path.exists(start / Path(reference).expanduser()) for start in (folder, Path()))


def _with_adapter(model: Model, name: str, adapter: Checkpoint, found: str) -> Model:
    if adapter.adapter is None:
        what = f"'{name}' is no adapter: it has no {ADAPTER_NAME}"
        raise InputError("E340", what, "a sum of models is a merge: list them under 'models:'")
    if model.checkpoint.adapter is not None:
        raise InputError("E340", f"'{name}' is added to an adapter, expected a model", "name the model itself")
    sources = adapted(name, read_config(name, adapter.adapter), adapter.tensors, model.tensors, model.is_tied)
    files = {file.path: file for file in (*model.checkpoint.files, *adapter.files)}
    joined = replace(model.checkpoint, files=tuple(files.values()), side_files=_side_files(model.checkpoint, adapter))
    use = ModelUse("adapter", name, adapter.origin, found)
    made = replace(model, checkpoint=joined, sources=sources, beside=(use,))
    before, after = (one.embedding.shape[0] if one.embedding else 0 for one in (model, made))
    if before == after or joined.config is None:
        return made
    config = copy.deepcopy(dict(joined.config))
    set_rows(config, before, after)
    return replace(made, checkpoint=replace(joined, config=config))


def _side_files(base: Checkpoint, adapter: Checkpoint) -> Mapping[str, str]:
    """Those of the model; an adapter that brings a tokenizer was trained with it."""
    own = {name: path for name, path in adapter.side_files.items() if is_tokenizer_file(name)}
    kept = {name: path for name, path in base.side_files.items() if not (own and is_tokenizer_file(name))}
    return kept | own


def _of_adapter(model: Model, folder: Path) -> Model:
    """The model that an adapter's config names, with the adapter."""
    name, adapter = model.reference, model.checkpoint
    config = read_config(name, adapter.adapter or {})
    base = config.base_model_name_or_path
    if not base:
        raise InputError("E340", f"'{name}' is an adapter, and does not say of what model", f"write BASE+{name}")
    if config.revision and "@" not in base and not exists(base, folder):
        base = f"{base}@{config.revision}"
    try:
        checkpoint, found = _open(base, folder)
    except InputError as error:
        what = f"'{name}' is an adapter of '{base}': {error.what}"
        raise InputError("E340", what, f"name the model it is added to: BASE+{name}") from None
    made = _with_adapter(_plain(replace(model, checkpoint=checkpoint), folder), name, adapter, model.found)
    use = ModelUse(f"base of {name}", base, checkpoint.origin, found)
    return replace(made, checkpoint=replace(made.checkpoint, origin=adapter.origin), beside=(use,))


def _open(reference: str, folder: Path, adapter: bool = False) -> tuple[Checkpoint, str]:
    path = Path(reference).expanduser()
    for start, found in ((folder, "beside the recipe"), (Path(), "in the current folder")):
        if (start / path).exists():
            return open_checkpoint(start / path, adapter), "" if path.is_absolute() else found
    if not _HUB_ID.fullmatch(reference) or hub.is_offline():
        raise InputError("E300", _not_found(reference, folder), _near(path, folder))
    try:
        return hub.open_checkpoint(reference, adapter), "on the hub"
    except InputError as error:  # more often a folder's name is misspelt than the hub is wrong
        hint = _near(path, folder)
        raise InputError(error.code, error.what, hint if hint.startswith("did") else error.hint) from None


def _not_found(reference: str, folder: Path) -> str:
    beside = f"{folder} or " if folder.resolve() != Path().resolve() else ""
    where = "" if Path(reference).expanduser().is_absolute() else f" in {beside}the current folder"
    offline = ", and the hub is switched off (HF_HUB_OFFLINE)" if _HUB_ID.fullmatch(reference) else ""
    return f"no model '{reference}'{where}{offline}"


def _near(path: Path, folder: Path) -> str:
    parent = folder / path.parent
    try:
        folders = [entry.name for entry in parent.iterdir() if entry.is_dir() and any(entry.glob("*.safetensors*"))]
    except (OSError, ValueError):
        is_hub_id = _HUB_ID.fullmatch(str(path)) and hub.is_offline()
        online = "; without HF_HUB_OFFLINE it is looked for on the hub" if is_hub_id else ""
        return f"the folder {path.parent} does not exist{online}"
    return did_you_mean(path.name, folders) if folders else ""


def model_uses(models: Mapping[str, Model], roles: Mapping[str, str]) -> tuple[ModelUse, ...]:
    """The models as the plan lists them, and the adapters that belong to them."""
    own = [
        ModelUse(role, reference, models[reference].checkpoint.origin, models[reference].found)
        for reference, role in roles.items()
    ]
    beside = [use for reference in roles for use in models[reference].beside]
    return tuple({use.reference: use for use in reversed([*own, *beside])}.values())[::-1]
