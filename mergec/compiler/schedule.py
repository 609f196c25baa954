"""Schedule: sweeps over tiles, what is freed when, the bytes of every output file, and the memory it all takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice, repeat
from math import ceil, lcm, prod
from types import MappingProxyType

from mergec.compiler.lower import Lowered
from mergec.compiler.names import natural
from mergec.compiler.statistics import feeds, rounds, statistics
from mergec.errors import InputError, Place
from mergec.graph import PER_ENTRY, Graph, Node, slots_of, walk
from mergec.io.checkpoint import WeightFile
from mergec.io.layout import Shard
from mergec.io.tensors import ITEM_BYTES, header_bytes
from mergec.ops.embed import INDEX_BYTES, index_rows
from mergec.ops.op import OPS
from mergec.plan import Kind, KindClass, Memory, Output, Plan, SourceFile, Step

DEFAULT_SHARD_BYTES = 5_000_000_000
LARGEST_TILE = 1 << 18
SMALLEST_TILE = 1 << 12
# Beside the tiles: buffers for staging, threads, the journal; and per worker histograms.
_FIXED_BYTES = 24 << 20
_WORKER_BYTES = 8 << 20
_REDUCE_BYTES = 2 << 20
_ALLOCATOR_SHARE = 1.5  # the C allocator keeps freed tiles of other sizes for a while
_GIVEN = ("model", "states")  # known before a tensor is made, so that nothing below them is evaluated
_NOWHERE = Place("", 1, 1)


@dataclass(frozen=True)
class Options:
    """What a run may choose without changing a tensor: layout, workers, memory."""

    shard_bytes: int = DEFAULT_SHARD_BYTES
    workers: int | None = None
    limit_bytes: int | None = None
    allow_nonfinite: bool = False


DEFAULTS = Options()


def schedule(
    lowered: Sequence[Lowered],
    graph: Graph,
    files: Iterable[WeightFile] = (),
    options: Options = DEFAULTS,
    *,
    stem: str = "model",
    place: Callable[[str], Place] = lambda _: _NOWHERE,
) -> Plan:
    """What of a plan follows from graphs: kinds, statistics, every output's bytes, the files that are read, memory.

    The plan has no name and no files beside the weights. `place` says where a parameter is set; raises RecipeError
    (E630, E631) for statistics that do not agree, InputError (E403) where the memory's limit is too low.
    """
    roots = {one.root.index: one.root for one in lowered}
    made_by: dict[int, set[str]] = {index: set() for index in roots}
    for one in lowered:
        made_by[one.root.index] |= one.identity
    fed = feeds(list(roots.values()), place)
    turns = rounds(fed)
    kinds = [
        replace(make_kind(root, graph.nodes, turns), identity="+".join(sorted(made_by[index])))
        for index, root in roots.items()
    ]
    numbers = {index: number for number, index in enumerate(roots)}
    outputs, shards = lay_out(lowered, [numbers[one.root.index] for one in lowered], options.shard_bytes, stem)
    read = {ref.file for one in lowered for ref in one.sources}
    return Plan(
        nodes=tuple(graph.nodes),
        kinds=tuple(kinds),
        outputs=tuple(outputs),
        shards=tuple(shards),
        memory=promise_memory(kinds, outputs, options.workers, options.limit_bytes, len(fed)),
        files=tuple({file.path: SourceFile(**asdict(file)) for file in files if file.path in read}.values()),
        statistics=statistics(fed, turns, outputs),
        allow_nonfinite=options.allow_nonfinite,
    )


def sweeps(*roots: Node) -> tuple[tuple[Step, ...], ...]:
    """The passes over a tensor's tiles: a reduction ends a pass, and what depends on it waits for the next.

    Values per tile are computed anew in each pass, never kept; scalars are evaluated once, in the pass that first
    can. Roots are the node of the result, or reductions that feed statistics; a statistic itself is known before.
    """
    ready: dict[int, int] = {}  # the first pass in which a node's value is there
    order = inside(*roots)
    for node in order:
        level = max((ready[source.index] for source in node.inputs if node.op_class not in _GIVEN), default=0)
        ready[node.index] = level + 1 if node.op_class == "reduce" else level
    last = max(ready[root.index] - (root.op_class == "reduce") for root in roots)
    return tuple(_sweep(_ends(order, ready, number, roots), ready, number) for number in range(last + 1))


def inside(*roots: Node) -> list[Node]:
    """The nodes that roots depend on, inputs first, as far as what is given: statistics, states."""
    found: dict[int, Node] = {}
    pending = list(roots)
    while pending:
        node = pending.pop()
        if node.index not in found:
            found[node.index] = node
            pending += node.inputs if node.op_class not in _GIVEN else ()
    return [found[index] for index in sorted(found)]


def _ends(order: Sequence[Node], ready: dict[int, int], number: int, roots: Sequence[Node]) -> list[Node]:
    """What a pass is run for: the reductions that can be made in it, and in the last pass the root."""
    reductions = [node for node in order if node.op_class == "reduce" and ready[node.index] == number + 1]
    return reductions + [root for root in roots if root.op_class != "reduce" and ready[root.index] == number]


def _sweep(ends: list[Node], ready: dict[int, int], number: int) -> tuple[Step, ...]:
    needed: dict[int, Node] = {}
    pending = list(ends)
    while pending:
        node = pending.pop()
        done_before = node.op_class == "model" or (node.op_class == "reduce" and ready[node.index] <= number)
        if node.index not in needed and not done_before:
            needed[node.index] = node
            pending += node.inputs if node.op_class != "states" else ()
    order = [needed[index] for index in sorted(needed)]
    last_use = {source.index: position for position, node in enumerate(order) for source in node.inputs}
    return tuple(
        Step(
            node.index,
            tuple(sorted({s.index for s in node.inputs if s.type.space != "scalar" and last_use[s.index] == position})),
        )
        for position, node in enumerate(order)
    )


def tile_bytes(passes: Sequence[Sequence[Step]], nodes: Sequence[Node], entries: int) -> int:
    """The most bytes that are live at once, per entry of a tile; what is loaded stays in its buffer.

    `entries` are those of the whole tensor: a part, such as factors, may have more. What is held is not counted.
    """
    peak = 0
    for steps in passes:
        live: dict[int, int] = {}
        for step in steps:
            node = nodes[step.node]
            if not node.is_held:
                live[node.index] = node.type.item_bytes * ceil(node.type.numel / max(1, entries))
            scratch = OPS[node.op].scratch(node) if node.op in OPS else node.type.item_bytes
            peak = max(peak, sum(live.values()) + scratch)
            for freed in step.frees:
                if nodes[freed].op_class != "load":
                    live.pop(freed, None)
    return peak


def make_kind(root: Node, nodes: Sequence[Node], rounds: Mapping[int, int] = MappingProxyType({})) -> Kind:
    """How tensors with this graph are evaluated; `rounds` says when each `over_model` node's statistic is found."""
    order = walk(root)
    passes = sweeps(root)
    surveys = _surveys(order, rounds)
    kind_class = _class_of(order)
    swept = next((node.type for node in order if node.type.space in PER_ENTRY), root.type)
    together = lcm(*(OPS[node.op].rows for node in order if node.op_class == "row"))
    row = max(1, {"row": swept.row * together, "whole": swept.numel, "states": swept.numel}.get(kind_class, 1))
    if any(node.type.space == "bits" for node in order):
        row = lcm(row, 8)
    peak = tile_bytes([*passes, *(steps for survey in surveys for steps in survey)], nodes, swept.numel)
    held = sum(node.type.numel * node.type.item_bytes for node in inside(root) if node.is_held)
    held += sum(node.attr("bytes") for node in order if node.op_class == "states")
    held += sum(INDEX_BYTES * index_rows(text) for node in order if node.op == "embed" for text in node.attr("rows"))
    return Kind(root.index, kind_class, slots_of(root), passes, peak, row, swept.shape, surveys, held_bytes=held)


def _surveys(order: Sequence[Node], rounds: Mapping[int, int]) -> tuple[tuple[tuple[Step, ...], ...], ...]:
    """The passes that feed the statistics of each round."""
    fed: dict[int, list[Node]] = {}
    for node in order:
        if node.op_class == "model":
            fed.setdefault(rounds[node.index], []).append(node.inputs[0])
    return tuple(sweeps(*fed[number]) if number in fed else () for number in range(max(fed, default=-1) + 1))


def _class_of(order: Sequence[Node]) -> KindClass:
    classes = {node.op_class for node in order}
    if classes == {"load"}:
        return "copy"
    named: tuple[KindClass, ...] = ("states", "whole", "row", "model", "reduce")
    return next((name for name in named if name in classes), "map")


def lay_out(
    lowered: Sequence[Lowered], kinds: Sequence[int], shard_bytes: int, stem: str = "model"
) -> tuple[list[Output], list[Shard]]:
    """Every output tensor's place: shards filled in natural order of names, wide dtypes first inside each.

    The order inside a shard is the safetensors library's and keeps every tensor aligned. A tensor larger than
    `shard_bytes` gets a shard of its own. The files of an artifact's parts follow, one each.
    """
    groups: list[list[int]] = [[]]
    filled = 0
    ordered = sorted(range(len(lowered)), key=lambda i: natural(lowered[i].name))
    for number in (i for i in ordered if not lowered[i].file):
        size = _size(lowered[number])
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(number)
        filled += size
    files = [f"{stem}.safetensors"]
    if len(groups) > 1:
        files = [f"{stem}-{number + 1:05d}-of-{len(groups):05d}.safetensors" for number in range(len(groups))]
    beside = sorted({one.file for one in lowered if one.file})
    groups += [[i for i in ordered if lowered[i].file == file] for file in beside]
    outputs: list[Output] = []
    shards: list[Shard] = []
    for position, (file, group) in enumerate(zip([*files, *beside], groups, strict=True)):
        group.sort(key=lambda i: -lowered[i].root.type.item_bytes)
        shard, placed = _shard(file, position, [(lowered[i], kinds[i]) for i in group])
        shards.append(shard)
        outputs += placed
    return outputs, shards


def _size(lowered: Lowered) -> int:
    return lowered.root.type.numel * lowered.root.type.item_bytes


def _shard(file: str, number: int, members: list[tuple[Lowered, int]]) -> tuple[Shard, list[Output]]:
    entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    begins: list[int] = []
    end = 0
    for lowered, _ in members:
        begins.append(end)
        for name, shape in lowered.entries:
            begin, end = end, end + prod(shape) * lowered.root.type.item_bytes
            entries[name] = (lowered.root.type.dtype, shape, begin, end)
    header = header_bytes(entries)
    outputs = []
    for (one, kind), begin in zip(members, begins, strict=True):
        found, place = one.root.type, len(header) + begin
        span = number, place, place + _size(one)
        outputs.append(Output(one.name, found.dtype, found.shape, kind, one.sources, *span, one.tensor))
    return Shard(file, header, len(header) + end), outputs


def promise_memory(
    kinds: Sequence[Kind],
    outputs: Sequence[Output],
    workers: int | None,
    limit_bytes: int | None,
    statistics: int = 0,
) -> Memory:
    """Choose tile and workers, and state the peak; raises InputError (E403) if no choice fits the limit.

    Each statistic is held once for all workers, beside the parts they fill.
    """
    most = sum(_tiles(kinds[output.kind], output, LARGEST_TILE) for output in outputs)
    wanted = min(workers or _cores(), max(1, most))
    for count in range(wanted, 0, -1):
        tile = LARGEST_TILE
        while tile >= SMALLEST_TILE:
            peak = peak_bytes(kinds, outputs, tile, count, statistics)
            if limit_bytes is None or peak <= limit_bytes:
                return Memory(tile, count, peak, limit_bytes)
            tile //= 2
    least = peak_bytes(kinds, outputs, SMALLEST_TILE, 1, statistics)
    worst = max(outputs, key=lambda output: evaluated_bytes(kinds[output.kind], output, SMALLEST_TILE))
    raise InputError(
        "E403",
        f"the merge needs {least / 2**20:,.0f} MiB, the limit is {(limit_bytes or 0) / 2**20:,.0f} MiB; "
        f"the most is taken by {worst.name}",
        f"--max-memory {ceil(least / 2**20)}MiB is enough",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_bytes(kinds: Sequence[Kind], outputs: Sequence[Output], tile: int, workers: int, statistics: int = 0) -> int:
    """What a run may allocate: for each worker the most expensive tile there may be, and what is held in any case.

    A model whose states are found is loaded before all else, and is gone when the first output is made.
    """
    given = [output for output in outputs if kinds[output.kind].kind_class == "states"]
    loaded = max((evaluated_bytes(kinds[output.kind], output, tile) for output in given), default=0)
    others = (output for output in outputs if kinds[output.kind].kind_class != "states")
    costs = sorted(
        ((evaluated_bytes(kinds[one.kind], one, tile), _tiles(kinds[one.kind], one, tile)) for one in others),
        reverse=True,
    )
    dearest = islice(chain.from_iterable(repeat(cost, tiles) for cost, tiles in costs), workers)
    working = statistics * _REDUCE_BYTES + workers * _WORKER_BYTES + sum(dearest)
    return _FIXED_BYTES + sum(8 * output.numel for output in given) + max(loaded, working)


def evaluated_bytes(kind: Kind, output: Output, tile: int) -> int:
    if kind.kind_class == "copy":
        return 0
    if kind.kind_class == "states":
        return kind.held_bytes
    swept = _swept(kind, output)
    entries = min(swept, tile_entries(kind, tile))
    live = entries * (kind.tile_bytes + ITEM_BYTES[output.dtype] * ceil(output.numel / max(1, swept)))
    live += 2 * kind.held_bytes  # an op may need them in another layout
    sweeps = max([len(kind.passes) - 1, *map(len, kind.surveys)])
    reductions = _REDUCE_BYTES * sweeps * len(kind.slots)
    return int(live * _ALLOCATOR_SHARE) + reductions


def _swept(kind: Kind, output: Output) -> int:
    """How many entries are swept for an output."""
    return kind.entries if output.is_part else output.numel


def _tiles(kind: Kind, output: Output, tile: int) -> int:
    """Into how many tiles an output is cut, which workers may share."""
    return 1 if kind.kind_class in ("copy", "states") else ceil(_swept(kind, output) / tile_entries(kind, tile))


def tile_entries(kind: Kind, tile: int) -> int:
    """The size of a tile of this kind: whole rows where rows must stay together."""
    return max(kind.row, tile // kind.row * kind.row)
