"""Resolved: the value of every setting for every merged tensor; tensors that must agree share one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mergec.compiler.analysis import Analysis, Part
from mergec.compiler.models import STAGE, is_staged
from mergec.compiler.source import refs_of
from mergec.compiler.values import Values, filters_of, resolve_tensor
from mergec.io.tensors import FLOATS
from mergec.recipe.settings import Resolved


def resolve_all(analysis: Analysis) -> dict[str, Values]:
    """The settings of each tensor that is merged (integers are copied), in the models' order of names.

    The analysed recipe must have a value for everything that is required, as a plan has.
    """
    found: dict[str, Values] = {}
    for part in analysis.parts:
        found |= _of_part(analysis, part)
    return found


def _of_part(analysis: Analysis, part: Part) -> dict[str, Values]:
    filters = sorted(filters_of(part.bound))
    known: dict[Any, Values] = {}
    found = {}
    for name, row in part.inventory.rows.items():
        if row[0].dtype not in FLOATS:
            continue
        names = dict.fromkeys((name, *(ref.name for ref in row)))
        t = part.inventory.t(name)
        key = (t, tuple(one in each for one in filters for each in names), len(names))
        if key not in known:
            known[key] = resolve_tensor(part.bound, name, row, t)
        found[name] = known[key]
    return found


class Setting(NamedTuple):
    """A parameter as it is set for a tensor: of one model, by its slot id, or of the merge (`slot` is "").

    `stage` is the name of the stage that it is set in, "" for the result itself.
    """

    parameter: str
    slot: str
    stage: str = ""


def settings_by_tensor(analysis: Analysis) -> dict[str, Mapping[Setting, Resolved]]:
    """The same by parameter and slot id, with those of the stages that a tensor is made of.

    Tensors that must agree share one mapping.
    """
    staged = {name: settings_by_tensor(one) for name, one in analysis.stages.items()}
    tables: dict[tuple[int, ...], Mapping[Setting, Resolved]] = {}
    found = {}
    for name, values in resolve_all(analysis).items():
        part = analysis.of_tensor[name]
        refs = [
            (ref.file.removeprefix(STAGE), ref.name)
            for source in part.inventory.rows[name]
            for ref in refs_of(source)
            if is_staged(ref)
        ]
        beneath = [(stage, staged[stage].get(tensor, {})) for stage, tensor in refs]
        key = (id(values), id(part), *(id(table) for _, table in beneath))
        if key not in tables:
            tables[key] = dict(_settings(part, values)) | {
                setting if setting.stage else setting._replace(stage=stage): one
                for stage, table in beneath
                for setting, one in table.items()
            }
        found[name] = tables[key]
    return found


def _settings(part: Part, values: Values) -> Iterator[tuple[Setting, Resolved]]:
    slots = [one.slot for one in part.bound.inputs if not one.is_base]
    for parameter, found in values.resolved.items():
        if isinstance(found, Resolved):
            yield Setting(parameter, ""), found
        else:
            yield from ((Setting(parameter, slot), one) for slot, one in zip(slots, found, strict=True))
