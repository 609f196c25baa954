"""Stages: the result of one recipe as a model of another, known by its headers before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mergec.compiler.inventory import STAGE, Model
from mergec.compiler.lower import stored_dtype
from mergec.compiler.sidefiles import result_config
from mergec.errors import Place
from mergec.io.checkpoint import Checkpoint
from mergec.io.tensors import ITEM_BYTES, TensorRef

if TYPE_CHECKING:
    from mergec.compiler.compile import Analysis


def stage_model(name: str, place: Place, analysis: Analysis) -> Model:
    """What a run of a stage would write, as a model."""
    tensors = {ref.name: ref for ref in _tensors(f"{STAGE}{name}", analysis)}
    inventories = [part.inventory for part in analysis.parts]
    config, _ = result_config(analysis.recipe, analysis.models, inventories, list(tensors.values()))
    donor = analysis.models[analysis.recipe.references[0]].checkpoint
    checkpoint = Checkpoint(f"{STAGE}{name}", (), tensors, config, donor.side_files)
    return Model(name, place, "a stage of this recipe", checkpoint)


def _tensors(file: str, analysis: Analysis) -> Iterator[TensorRef]:
    for name, (bound, inventory) in analysis.of_tensor.items():
        row = inventory.rows[name]
        dtype = stored_dtype(bound.recipe, row)
        yield TensorRef(file, name, dtype, row[0].shape, 0, row[0].numel * ITEM_BYTES[dtype])
