"""Saved: models as a lock or a plan has kept their headers, to compile with where the models themselves are absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from mergec.compiler.models import Model, open_model
from mergec.errors import InputError, Place
from mergec.io.checkpoint import Checkpoint, WeightFile
from mergec.io.layouts import tensors_of
from mergec.io.lockfile import LockedModel, LockedRecipe
from mergec.plan import Plan
from mergec.recipe.document import Document
from mergec.recipe.load import read_recipe
from mergec.recipe.schema import Recipe

_ABSENT = ("E300", "E301")


def locked_models(locked: LockedRecipe, lock: str) -> dict[str, Model]:
    """The models of a lock's recipe, as far as it has kept their headers; `lock` is where the lock lies.

    Raises InputError (E621) for a layout that is none.
    """
    models = {}
    for reference, model in locked.models.items():
        named = {_path(reference, name): (locked.layouts or {}).get(f.layout or "") for name, f in model.files.items()}
        layouts = {path: lines for path, lines in named.items() if lines is not None}
        if not model.files or len(layouts) < len(model.files):
            continue
        try:
            models[reference] = _model(reference, model, layouts, lock)
        except ValueError as error:
            raise InputError("E621", f"{lock} is no sound lock: {error}", "lock again") from None
    return models


def _path(reference: str, name: str) -> str:
    return f"lock://{reference}/{name}"


def _model(reference: str, model: LockedModel, layouts: Mapping[str, tuple[str, ...]], lock: str) -> Model:
    files = tuple(
        WeightFile(_path(reference, name), file.bytes, file.data or 0, file.header, file.sha256)
        for name, file in model.files.items()
    )
    beside = {name: _beside(digest, f"{reference}/{name}") for name, digest in (model.beside or {}).items()}
    checkpoint = Checkpoint(f"lock://{reference}", files, tensors_of(files, layouts), model.config, beside)
    return Model(reference, Place(lock, 1, 1), "", checkpoint)


def planned_models(plan: Plan, name: str) -> dict[str, Model]:
    """The models of a plan as it has kept their headers; `name` is the plan's file."""
    copied = {one.source: one.digest for one in plan.side_files if one.source}
    models = {}
    for reference, one in plan.checkpoints.items():
        beside = {file: _beside(copied.get(path, ""), path) for file, path in one.side_files.items()}
        models[reference] = Model(reference, Place(name, 1, 1), "", replace(one, side_files=beside))
    return models


def _beside(digest: str, path: str) -> str:
    """A path for a file beside the weights that need not be there: its digest, or else what tells it from others."""
    return f"sha256:{digest}" if digest and "://" not in digest else digest or f"lock://{path}"


class Headers:
    """Opens models for several recipes, each once; those that are not there as they were saved."""

    def __init__(self, saved: Iterable[Callable[[], Mapping[str, Model]]] = ()) -> None:
        self._where = tuple(saved)
        self._opened: dict[tuple[Path, str], Model] = {}
        self.used: set[str] = set()
        """Where saved headers stood in for models."""

    @cached_property
    def _saved(self) -> Mapping[str, Model]:
        """What was kept, the first place first; locks are not read before a model is absent."""
        return {name: model for where in reversed(self._where) for name, model in where().items()}

    def known(self, document: Document) -> dict[str, Model]:
        """The models a document and its stages refer to, as far as they could be opened."""
        found = {}
        for reference in _references(document):
            model = self._open(reference, document.folder)
            if model is not None:
                found[reference] = model
        return found

    def _open(self, reference: str, folder: Path) -> Model | None:
        key = (folder.resolve(), reference)
        if key not in self._opened:
            try:
                self._opened[key] = open_model(reference, folder)
            except InputError as error:
                saved = self._saved.get(reference) if error.code in _ABSENT else None
                if saved is None:
                    return None  # compiling says what is wrong, and where
                self.used.add(saved.place.file)
                self._opened[key] = saved
        return self._opened[key]


def _references(document: Document) -> list[str]:
    """Every text of a document that may name a model; nothing is opened that its recipe does not use."""
    found: list[str] = []
    names = {one.value["name"] for one in document.stages}
    for one in (*document.stages, document):
        recipe: Recipe | None = read_recipe(one)[0]
        found += [name for name in recipe.references if name not in names] if recipe else []
    return list(dict.fromkeys(found))
