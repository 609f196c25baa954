"""Plans as people read them: the summary of a plan, and one tensor explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergec.compiler.align import OWN
from mergec.compiler.analysis import Analysis
from mergec.compiler.models import STAGE, is_staged
from mergec.compiler.names import few
from mergec.compiler.schedule import evaluated_bytes, inside
from mergec.compiler.source import Embedded, refs_of
from mergec.compiler.values import resolve_tensor
from mergec.errors import UsageError, count, did_you_mean, path_text, size_text
from mergec.graph import Node, listing
from mergec.io.tensors import FLOATS, TensorRef
from mergec.keys import plan_hash
from mergec.plan import Kind, ModelUse, Output, Plan, Statistic
from mergec.recipe.expand import expansion_lines
from mergec.recipe.settings import Resolved

_MOST_INPUTS = 12


def plan_text(plan: Plan) -> str:
    """The whole plan for a terminal; the same for the same plan."""
    found = statistic_rows(plan)
    sections = [
        [f"plan {plan_hash(plan)[:12]}  {plan.name}  {plan.method}"],
        ["models", *table(model_rows(plan))],
        [f"result: {', '.join(result_facts(plan))}", *table(shard_rows(plan))],
        *row_sections(plan),
        ["statistics of the whole model, found first", *table(found)] if found else [],
        ["work", *table(work_rows(plan))],
        _graphs(plan),
        [f"read {size_text(plan.read_bytes)}, write {size_text(plan.written_bytes)}", f"  {memory_text(plan)}"],
        ["notes", *(f"  {note}" for note in plan.notes)] if plan.notes else [],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def row_sections(plan: Plan) -> list[list[str]]:
    """For tensors whose vocabularies were made one, of what each model's rows are; tensors that agree together."""
    alike: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for name in dict.fromkeys(one.tensor for one in plan.rows):
        alike.setdefault(tuple(row_origins(plan, name)), []).append(name)
    return [[f"rows by token: {few(names, 3)}", *table(rows)] for rows, names in alike.items()]


def row_origins(plan: Plan, tensor: str) -> list[tuple[str, str, str]]:
    """A line for each model and rule by which rows of a tensor come: model, number, whose rows and by which rule."""
    lines = []
    for one in plan.rows:
        if one.tensor == tensor and one.rows:
            whose = f"of {' and '.join(one.of)}: {one.rule}" if one.of and one.rule != OWN else one.rule
            lines.append((one.model, f"{one.rows:,}", whose))
    return lines


def result_facts(plan: Plan) -> list[str]:
    """How much the result is: tensors, parameters, parts of an artifact if it has some, bytes."""
    dense = [output for output in plan.outputs if not output.is_part]
    parts = [count(len(plan.outputs) - len(dense), "part")] if len(dense) < len(plan.outputs) else []
    numel = f"{sum(output.numel for output in dense):,} parameters"
    return [count(len(dense), "tensor"), numel, *parts, size_text(plan.written_bytes)]


def model_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """One row per model: its role, how the recipe names it, where it lies, how it was found."""
    return [(model.role, model.reference, origin_text(model), model.note) for model in plan.models]


def shard_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """One row per file of weights: its name, its size, how many tensors are in it."""
    tensors = Counter(output.shard for output in plan.outputs)
    return [(s.file, size_text(s.file_bytes), count(tensors[n], "tensor")) for n, s in enumerate(plan.shards)]


def origin_text(model: ModelUse) -> str:
    """Where a model lies: an absolute path if the recipe gives one, else one from the current folder."""
    return model.origin if Path(model.reference).is_absolute() else path_text(model.origin)


def peak_text(plan: Plan) -> str:
    """The promise: what the run allocates at most, beyond the runtime's own."""
    return f"{plan.memory.peak_bytes / 2**20:,.0f} MiB"


def memory_text(plan: Plan) -> str:
    """The promise, and what it is made of."""
    memory = plan.memory
    limit = f" (limit {memory.limit_bytes / 2**20:,.0f} MiB)" if memory.limit_bytes else ""
    return (
        f"at most {peak_text(plan)} beyond the runtime's own{limit}: "
        f"{count(memory.workers, 'worker')}, tiles of {memory.tile:,} entries"
    )


def place_text(plan: Plan, output: Output) -> str:
    """Where a tensor will lie: its file, and the bytes in it."""
    return f"{plan.shards[output.shard].file}, bytes {output.begin:,} to {output.end:,}"


def class_text(kind: Kind) -> str:
    """How a tensor of a kind is made: its class, and how often its inputs are swept."""
    return kind.kind_class if kind.kind_class == "copy" else f"{kind.kind_class}, {count(len(kind.passes), 'sweep')}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with aligned columns, indented."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def work_rows(plan: Plan) -> list[tuple[str, ...]]:
    """One row per class of work: how many tensors, how many bytes, how it is done."""
    how = {
        "copy": "bytes copied, not decoded",
        "map": "one sweep over tiles",
        "reduce": "sweeps for the scalars, then one of tiles",
        "model": "statistics of the whole model first, then sweeps of tiles",
        "row": "blocks of whole rows",
        "whole": "one tensor at a time",
        "states": "the base is loaded whole first, and reads the prompts",
    }
    rows: list[tuple[str, ...]] = []
    for kind_class, text in how.items():
        outputs = [output for output in plan.outputs if plan.kinds[output.kind].kind_class == kind_class]
        if outputs:
            size = sum(output.end - output.begin for output in outputs)
            note = f", {_largest(plan, outputs)}" if kind_class in ("whole", "states") else ""
            rows.append((kind_class, count(len(outputs), "tensor"), size_text(size), text + note))
    return rows


def _largest(plan: Plan, outputs: Sequence[Output]) -> str:
    """Which tensor takes the most memory while it is merged: inputs, result and the op's scratch."""
    needed = {output: evaluated_bytes(plan.kinds[output.kind], output, plan.memory.tile) for output in outputs}
    worst = max(outputs, key=needed.__getitem__)
    return f"at most {size_text(needed[worst])} of memory, for {worst.name}"


def statistic_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """One row per statistic: what it is, over how many tensors, and the bytes that one sweep for it reads."""
    rows = []
    for one in plan.statistics:
        reduction = plan.nodes[one.nodes[0][1]].inputs[0]
        what = " ".join([reduction.op, *(f"{name}={value}" for name, value in reduction.attrs)])
        refs = {ref for number in one.members for ref in _fed(plan, one, plan.outputs[number])}
        size = size_text(sum(ref.end - ref.begin for ref in refs))
        rows.append((one.name, what, f"over {count(len(one.members), 'tensor')}", f"{size} a sweep"))
    return rows


def _fed(plan: Plan, statistic: Statistic, output: Output) -> list[TensorRef]:
    """The inputs of an output that a statistic looks at."""
    kind = plan.kinds[output.kind]
    used = {node.attr("slot") for node in inside(*_reductions(plan, statistic, output)) if node.op == "load"}
    return [ref for slot, ref in zip(kind.slots, output.sources, strict=True) if slot in used]


def _reductions(plan: Plan, statistic: Statistic, output: Output) -> list[Node]:
    return [plan.nodes[node].inputs[0] for kind, node in statistic.nodes if kind == output.kind]


def members(plan: Plan) -> dict[int, list[Output]]:
    """The tensors of each kind, the kind that makes most bytes first."""
    found: dict[int, list[Output]] = {}
    for output in plan.outputs:
        found.setdefault(output.kind, []).append(output)
    return dict(sorted(found.items(), key=lambda item: (-sum(o.end - o.begin for o in item[1]), item[0])))


def _graphs(plan: Plan) -> list[str]:
    """The graph that makes most bytes, with the tensors that share it, and how many others there are."""
    found = members(plan)
    if not found:
        return []
    largest, outputs = next(iter(found.items()))
    which = "" if len(found) == 1 else ", the one that makes most bytes"
    lines = [f"{count(len(found), 'graph')}{which}: {few((output.name for output in outputs), 2)}"]
    return lines + [f"  {line}" for line in listing(plan.root(plan.kinds[largest]))]


def find_output(plan: Plan, name: str) -> Output:
    """The output of that name; raises UsageError (E405) with the nearest one."""
    for output in plan.outputs:
        if output.name == name:
            return output
    raise UsageError(
        "E405", f"the result has no tensor '{name}'", did_you_mean(name, [o.name for o in plan.outputs][:5000])
    )


def explain_text(analysis: Analysis, plan: Plan, name: str) -> str:
    """One tensor: where it will lie, its formula, its inputs, every setting with the line it comes from, its graph."""
    output = find_output(plan, name)
    bound, inventory = analysis.of_tensor[output.tensor]
    kind = plan.kinds[output.kind]
    row, layer = inventory.rows[output.tensor], inventory.layers.get(output.tensor)
    where = (
        f"layer {layer.index} of {layer.count} in {layer.stack}, t = {layer.t:.4g}"
        if layer
        else "outside the layers, t = 0"
    )
    lines = [
        name,
        *table(
            [
                ("output", f"{output.dtype} {list(output.shape)}, {size_text(output.end - output.begin)}"),
                ("place", place_text(plan, output)),
                ("layer", where),
                ("method", f"{bound.method.name} (version {bound.method.version}): {bound.method.summary}"),
                ("formula", formula(bound.method.doc)),
                ("class", class_text(kind)),
            ]
        ),
        "",
        "inputs",
        *table([line for slot in range(len(row)) for line in _input_rows(analysis, output, slot)]),
    ]
    origins = row_origins(plan, output.tensor)
    lines += ["", "rows by token", *table(origins)] if origins else []
    if row[0].dtype in FLOATS:
        lines += ["", "settings", *table(_setting_rows(analysis, output.tensor))]
    for stage, tensor in _staged(analysis, output.tensor):
        own = analysis.stages[stage]
        lines += ["", f"stage {stage}: {own.method.name}, {tensor}", *table(_setting_rows(own, tensor))]
    pipeline = expansion_lines(bound.method, bound.recipe.parameters)
    if pipeline:
        lines += ["", "as a pipeline", *(f"  {line}" for line in pipeline)]
    return "\n".join([*lines, "", "graph", *(f"  {line}" for line in listing(plan.root(kind)))])


def _staged(analysis: Analysis, name: str) -> dict[tuple[str, str], None]:
    """The stages, with their tensors, that a tensor is made of, each before those that it needs itself."""
    found: dict[tuple[str, str], None] = {}
    for ref in (ref for source in analysis.of_tensor[name].inventory.rows[name] for ref in refs_of(source)):
        if is_staged(ref):
            stage = ref.file.removeprefix(STAGE)
            found |= {(stage, ref.name): None, **_staged(analysis.stages[stage], ref.name)}
    return found


def formula(doc: str) -> str:
    """The line of a method's docstring that says what it computes."""
    return next((line.strip() for line in doc.splitlines() if line.strip().startswith("result = ")), "")


def _input_rows(analysis: Analysis, output: Output, slot: int) -> list[tuple[str, ...]]:
    """A row for each stored tensor that an input is made of."""
    bound, inventory = analysis.of_tensor[output.tensor]
    one, source = bound.inputs[slot], inventory.rows[output.tensor][slot]
    if is_staged(source):
        shape = f"{source.dtype} {list(source.shape)}"
        return [(one.label, one.reference, shape, "made by a stage of this recipe", "")]
    refs = refs_of(source)
    if not refs:
        return [(one.label, one.reference, f"{source.dtype} {list(source.shape)}", "drawn, nothing is read for it", "")]
    read = "" if set(refs) & set(output.sources) else f"not read: {_why_unread(analysis, output.tensor, slot)}"
    whose = source.slots if isinstance(source, Embedded) else (one.reference, *("" for _ in refs[1:]))
    heads = [("" if number else one.label, reference, "" if number else read) for number, reference in enumerate(whose)]
    rows: list[tuple[str, ...]] = [
        (label, reference, f"{ref.dtype} {list(ref.shape)}", f"{ref.name} in {_where(ref)}", why)
        for ref, (label, reference, why) in zip(refs, heads, strict=True)
    ]
    more = len(rows) - _MOST_INPUTS  # a row of an embedding for each token of many prompts
    return [*rows[:_MOST_INPUTS], ("", "", "", f"and {more:,} more", "")] if more > 0 else rows


def _where(ref: TensorRef) -> str:
    return f"the stage {ref.file.removeprefix(STAGE)}" if is_staged(ref) else path_text(ref.file)


def _why_unread(analysis: Analysis, name: str, slot: int) -> str:
    """What makes an input unnecessary: its own weight or density of 0; else that the others alone give the result."""
    bound, inventory = analysis.of_tensor[name]
    row = inventory.rows[name]
    if row[0].dtype not in FLOATS:
        return "integers are copied from the first model"
    values = resolve_tensor(bound, name, row, inventory.t(name))
    number = slot - sum(one.is_base for one in bound.inputs[:slot])
    if not bound.inputs[slot].is_base:
        for parameter, found in values.resolved.items():
            if not isinstance(found, Resolved) and found[number].value == 0 and parameter in ("weight", "density"):
                return f"{parameter} 0"
    return "the result does not depend on it"


def _setting_rows(analysis: Analysis, name: str) -> list[tuple[str, str, str, str]]:
    bound, inventory = analysis.of_tensor[name]
    t = analysis.of_tensor[name].inventory.t(name)
    values = resolve_tensor(bound, name, inventory.rows[name], t)
    models = [one for one in bound.inputs if not one.is_base]
    rows = []
    for parameter, found in values.resolved.items():
        if isinstance(found, Resolved):
            rows.append((parameter, "", *_provenance(found, t)))
        else:
            rows += [(parameter, one.reference, *_provenance(r, t)) for one, r in zip(models, found, strict=True)]
    return rows


def value_text(value: Any) -> str:
    """A setting's value for people: numbers to six digits, truth in YAML's words."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _provenance(found: Resolved, t: float) -> tuple[str, str]:
    value = value_text(found.value)
    if found.choice is None:
        return value, "default of the method"
    how = f", gradient {list(found.choice.knots)} at t = {t:.4g}" if found.choice.is_gradient else ""
    matched = f", filter '{found.choice.filter}'" if found.choice.filter else ""
    return value, f"{found.choice.place}{how}{matched}"
