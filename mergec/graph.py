"""The nouns of the middle: TensorType, Node, Graph, Kind, Output, Plan - frozen, printable, no torch, no I/O."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeAlias

from mergec.io.checkpoint import Checkpoint, WeightFile
from mergec.io.layout import Shard, SideFile
from mergec.io.layouts import layout_name, layouts_of, tensors_of
from mergec.io.tensors import ITEM_BYTES, TensorRef

Space: TypeAlias = Literal["weight", "delta", "sign", "probability", "mask", "bits", "part", "scalar"]
OpClass: TypeAlias = Literal["load", "map", "reduce", "scalar", "row", "whole", "model"]
KindClass: TypeAlias = Literal["copy", "map", "reduce", "row", "whole", "model"]
Attr: TypeAlias = "bool | int | float | str | tuple[Attr, ...]"

Identify: TypeAlias = "Callable[[str, TensorRef], str]"
"""What stands for an input tensor in a key, given its model's slot id and its address."""

PLAN_FORMAT = 2
PER_ENTRY: frozenset[Space] = frozenset(("weight", "delta", "sign", "probability", "mask"))
_SIMPLE = (
    "name",
    "method",
    "recipe_text",
    "slots",
    "notes",
    "warnings",
    "allow_nonfinite",
    "recipe_path",
    "overrides",
)


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape, dtype and space of a node's value.

    The space is a unit: a *weight* is a point, a *delta* the difference of two, a *sign* an elected direction per
    entry, a *probability* a chance to be kept per entry, a *mask* whether an entry takes part, a *scalar* a few
    numbers about a whole tensor. What an artifact stores of a tensor has no value per entry: *bits* are a mask with
    eight entries a byte, lowest bit first; a *part* is anything else, such as factors or the entries that were kept.
    """

    shape: tuple[int, ...]
    dtype: str
    space: Space

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Entries in a row: the last axis; a 0-d tensor is one row of one entry."""
        return self.shape[-1] if self.shape else 1

    @property
    def item_bytes(self) -> int:
        return 0 if self.space == "scalar" else ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        if self.space == "scalar":
            return "scalar"
        return f"{self.dtype}[{','.join(map(str, self.shape))}] {self.space}"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value: an op applied to nodes. Interned by its graph, so equal means identical.

    `index` is the node's number in its graph; inputs always have smaller numbers.
    """

    op: str
    inputs: tuple[Node, ...]
    attrs: tuple[tuple[str, Attr], ...]
    type: TensorType
    op_class: OpClass
    index: int
    graph: Graph = field(repr=False)

    def attr(self, name: str) -> Any:
        return dict(self.attrs)[name]

    @property
    def is_held(self) -> bool:
        """Whether its value is a stored part, perhaps cast: needed whole for every tile, so it is made once."""
        is_stored = self.op_class == "load" or (self.op == "cast" and self.inputs[0].is_held)
        return self.type.space == "part" and is_stored


def _attr_text(value: Attr) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_attr_text, value))})"
    return f"{value!r}" if isinstance(value, (float, str)) else str(value).lower()


class Graph:
    """A hash-consing table of nodes, in an order in which inputs come first."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._interned: dict[tuple[Any, ...], Node] = {}

    def node(
        self,
        op: str,
        inputs: tuple[Node, ...],
        attrs: Mapping[str, Attr],
        type: TensorType,
        op_class: OpClass,
    ) -> Node:
        """The one node with this op, these inputs and attributes; made on first use."""
        items = tuple(sorted(attrs.items()))
        # repr tells 1 from 1.0 and True, and -0.0 from 0.0, where == does not
        key = (op, tuple(node.index for node in inputs), repr(items), type)
        known = self._interned.get(key)
        if known is None:
            known = Node(op, inputs, items, type, op_class, len(self.nodes), self)
            self.nodes.append(known)
            self._interned[key] = known
        return known


def walk(root: Node) -> list[Node]:
    """The nodes a root depends on, inputs first, the root last."""
    found: dict[int, Node] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if node.index not in found:
            found[node.index] = node
            pending += node.inputs
    return [found[index] for index in sorted(found)]


class Line(NamedTuple):
    """A node of a graph as people read it: its op, the numbers of its inputs, its attributes as text, its type."""

    op: str
    inputs: tuple[int, ...]
    attrs: str
    type: str


def lines(root: Node) -> list[Line]:
    """A root's graph, inputs first, numbered from 0."""
    order = walk(root)
    number = {node.index: position for position, node in enumerate(order)}
    return [
        Line(
            node.op,
            tuple(number[source.index] for source in node.inputs),
            " ".join(f"{name}={_attr_text(value)}" for name, value in node.attrs),
            str(node.type),
        )
        for node in order
    ]


def listing(root: Node) -> list[str]:
    """The text of a root's graph, one node a line, numbered from %0."""
    return [
        " ".join(filter(None, [f"%{number} = {line.op}", *(f"%{i}" for i in line.inputs), line.attrs, ":", line.type]))
        for number, line in enumerate(lines(root))
    ]


@dataclass(frozen=True, slots=True)
class Step:
    """Evaluate one node for the current tile, then forget the values in `frees` (node indices)."""

    node: int
    frees: tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """The structure many outputs share: a root node, how it is evaluated, and what that costs.

    `slots` names the load nodes in the order of an output's `sources`. `passes` are sweeps over the tiles of a
    tensor of `shape`, which is the root's unless the root is a part: all but the last end in reductions, the last
    yields the root. `surveys` are, for each round of the plan's statistics, the passes that feed them (none where a
    kind has no part in a round). `tile_bytes` is the peak of live values per entry of a tile, `held_bytes` what is
    held beside the tiles; `row` is the number of entries that must stay together (1 where any split will do).
    `identity` stands for the methods in keys.
    """

    root: int
    kind_class: KindClass
    slots: tuple[int, ...]
    passes: tuple[tuple[Step, ...], ...]
    tile_bytes: int
    row: int
    shape: tuple[int, ...]
    surveys: tuple[tuple[tuple[Step, ...], ...], ...] = ()
    identity: str = ""
    held_bytes: int = 0

    @property
    def entries(self) -> int:
        """How many entries are swept."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Statistic:
    """Numbers about all tensors of a merge: a reduction that is fed by many outputs before any of them is made.

    `nodes` pairs each kind that takes part with its `over_model` node, whose input is the reduction. `members` are
    the numbers of the outputs that feed it, one per tensor, in natural order of names: the order in which their parts
    are added up and in which ties are broken. Statistics of one `round` are found together, those they depend on
    before.
    """

    name: str
    round: int
    nodes: tuple[tuple[int, int], ...]
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of the result: what it is, what it is computed from, and the bytes it will occupy.

    `begin` and `end` are absolute offsets in the shard's file. `tensor` is the tensor of the model that it belongs
    to, by which random numbers are keyed: its own name, unless it is a part of an artifact.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: int
    sources: tuple[TensorRef, ...]
    shard: int
    begin: int
    end: int
    tensor: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensor", self.tensor or self.name)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_part(self) -> bool:
        """Whether it is a part of an artifact and not a tensor of the model itself."""
        return self.tensor != self.name


@dataclass(frozen=True)
class ModelUse:
    """A model as the recipe names it, what the name was resolved to, and what it is used for."""

    role: str
    reference: str
    origin: str
    note: str = ""


@dataclass(frozen=True)
class SourceFile:
    """A weight file that will be read, as it was when the plan was made: sizes, the SHA-256 of its header.

    `sha256` is the whole file's, if it is known without reading it: the hub tells.
    """

    path: str
    file_bytes: int
    header_bytes: int
    header_sha256: str
    sha256: str | None = None


@dataclass(frozen=True)
class Memory:
    """What the run may allocate beyond the runtime's own: the promise and what it is made of.

    Each of `workers` holds one tile of up to `tile` entries; `peak_bytes` bounds them all together.
    """

    tile: int
    workers: int
    peak_bytes: int
    limit_bytes: int | None = None


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, decided before a weight is read; comparable and serialisable.

    `slots` are the slot ids of the inputs, by the slot number of load nodes. `notes` are the rules by which tensors or
    inputs were left out; `warnings` are printed problems.
    """

    name: str
    method: str
    recipe_text: str
    models: tuple[ModelUse, ...]
    files: tuple[SourceFile, ...]
    nodes: tuple[Node, ...]
    kinds: tuple[Kind, ...]
    outputs: tuple[Output, ...]
    shards: tuple[Shard, ...]
    side_files: tuple[SideFile, ...]
    memory: Memory
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    allow_nonfinite: bool = False
    recipe_path: str = ""
    overrides: tuple[tuple[str, str], ...] = ()
    statistics: tuple[Statistic, ...] = ()
    slots: tuple[str, ...] = ()
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    """What the headers of each model said, by reference: enough to compile another recipe of the same models."""

    @property
    def read_bytes(self) -> int:
        """Bytes of distinct input tensors the run reads at least once."""
        return sum(ref.end - ref.begin for ref in {ref for out in self.outputs for ref in out.sources})

    @property
    def written_bytes(self) -> int:
        return sum(shard.file_bytes for shard in self.shards)

    def root(self, kind: Kind) -> Node:
        return self.nodes[kind.root]

    def statistics_of(self, kind: int) -> tuple[Statistic, ...]:
        """The statistics that outputs of a kind need, and those that these need: in the order of the plan."""
        needed: set[str] = set()
        kinds, seen = [kind], {kind}
        while kinds:
            number = kinds.pop()
            for one in self.statistics:
                if any(member == number for member, _ in one.nodes) and one.name not in needed:
                    needed.add(one.name)
                    fresh = {member for member, _ in one.nodes} - seen
                    seen |= fresh
                    kinds += fresh
        return tuple(one for one in self.statistics if one.name in needed)

    def inputs_of(self, output: Output) -> frozenset[TensorRef]:
        """Every input tensor that an output's bytes depend on.

        Its own sources, and those of all tensors that feed a statistic it needs: a key of such an output has to
        cover the whole set, since a change of any of them may change it.
        """
        fed = {number for one in self.statistics_of(output.kind) for number in one.members}
        return frozenset(ref for one in [output, *(self.outputs[number] for number in fed)] for ref in one.sources)

    def keys(self, content: Identify | None = None) -> dict[str, str]:
        """A digest per output tensor, by name, of everything its bytes depend on: equal keys, equal bytes.

        A key is of the graph, of its methods' identity (unless bytes are only copied), of the tensor's own name
        where random numbers are drawn, of each source's dtype and shape with what `content` says of it, given its
        slot id and address, and of all that feeds the statistics it needs. By default `content` is slot id and tensor
        name, known from headers alone: the *plan key*. With a digest of each source's bytes instead it is the *action
        key*, good from one state of the inputs to another.
        """
        kinds = [_kind_text(self, kind) for kind in self.kinds]
        fed = self._statistic_keys(content)
        keys = {}
        for output in self.outputs:
            text, is_random = kinds[output.kind]
            statistics = tuple(fed[one.name] for one in self.statistics_of(output.kind))
            named = output.tensor if is_random or statistics else ""  # ties of a statistic are broken by name
            keys[output.name] = _digest(repr((text, named, self._sources(output, content), *statistics)))
        return keys

    def statistic_keys(self, content: Identify) -> dict[str, str]:
        """The same for the statistics of the whole model: equal keys, equal numbers."""
        fed = self._statistic_keys(content)
        return {
            one.name: _digest(repr((fed[one.name], sorted(fed[name] for name in self._inside(one)))))
            for one in self.statistics
        }

    def _inside(self, statistic: Statistic) -> set[str]:
        """The names of other statistics that one is made of."""
        nodes = (node for _, number in statistic.nodes for node in walk(self.nodes[number].inputs[0]))
        return {str(node.attr("name")) for node in nodes if node.op_class == "model"}

    def _statistic_keys(self, content: Identify | None) -> dict[str, str]:
        """For each statistic a key of its name and, of every tensor that feeds it, of graph and inputs below it."""
        keys = {}
        for one in self.statistics:
            nodes = {kind: self.nodes[node] for kind, node in one.nodes}
            texts = {kind: (_numbered(node), self.kinds[kind].identity) for kind, node in nodes.items()}
            seen = {kind: _loaded(node) for kind, node in nodes.items()}
            members = [self.outputs[number] for number in one.members]
            parts = [(m.tensor, texts[m.kind], m.shape, self._sources(m, content, seen[m.kind])) for m in members]
            keys[one.name] = _digest(repr((one.name, parts)))
        return keys

    def _sources(
        self, output: Output, content: Identify | None, seen: Sequence[int] | None = None
    ) -> list[tuple[str, str, tuple[int, ...]]]:
        """What stands for an output's inputs in a key, or for those in `seen` slots; without slots, files' names do."""
        numbers = self.kinds[output.kind].slots
        named = [
            (self.slots[number] if self.slots else ref.file.rpartition("/")[2], ref)
            for number, ref in zip(numbers, output.sources, strict=True)
            if seen is None or number in seen
        ]
        identify = content or _plan_identity
        return [(identify(slot, ref), ref.dtype, ref.shape) for slot, ref in named]

    def hash(self) -> str:
        """A digest of the result: every tensor's plan key and every file beside the weights that says what they are.

        Equal for equal results, whatever the recipe's wording, the paths, the layout in files, or the machine.
        """
        files = [(one.name, one.digest) for one in self.side_files if not one.is_record]
        return _digest(repr((sorted(self.keys().items()), sorted(files))))

    def to_json(self) -> str:
        """The whole plan as JSON; `Plan.from_json` gives it back equal in every field."""
        nodes = [[n.op, [i.index for i in n.inputs], n.attrs, _type_json(n.type), n.op_class] for n in self.nodes]
        file_numbers = {source.path: number for number, source in enumerate(self.files)}
        outputs = [_output_json(output, file_numbers) for output in self.outputs]
        simple = {part.name: getattr(self, part.name) for part in fields(self) if part.name in _SIMPLE}
        document = {
            "format": PLAN_FORMAT,
            "hash": self.hash(),
            **simple,
            "models": [asdict(model) for model in self.models],
            "files": [asdict(source) for source in self.files],
            "nodes": nodes,
            "kinds": [asdict(kind) for kind in self.kinds],
            "outputs": outputs,
            "shards": [{**asdict(shard), "header": shard.header.decode("latin-1")} for shard in self.shards],
            "side_files": [asdict(side_file) for side_file in self.side_files],
            "memory": asdict(self.memory),
            "statistics": [asdict(statistic) for statistic in self.statistics],
            **_checkpoints_json(self.checkpoints),
        }
        return json.dumps({**document, "digest": _digest(json.dumps(document))}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back; raises ValueError when it is not one of this format."""
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("format") != PLAN_FORMAT:
            raise ValueError(f"not a plan of format {PLAN_FORMAT}")
        if document.pop("digest", None) != _digest(json.dumps(document)):
            raise ValueError("it was changed after it was made")
        files = tuple(SourceFile(**source) for source in document["files"])
        return cls(
            name=document["name"],
            method=document["method"],
            recipe_text=document["recipe_text"],
            slots=tuple(document["slots"]),
            models=tuple(ModelUse(**model) for model in document["models"]),
            files=files,
            nodes=tuple(_nodes_from_json(document["nodes"])),
            kinds=tuple(_kind_from_json(kind) for kind in document["kinds"]),
            outputs=tuple(_output_from_json(output, files) for output in document["outputs"]),
            shards=tuple(Shard(**{**s, "header": s["header"].encode("latin-1")}) for s in document["shards"]),
            side_files=tuple(SideFile(**side_file) for side_file in document["side_files"]),
            memory=Memory(**document["memory"]),
            notes=tuple(document["notes"]),
            warnings=tuple(document["warnings"]),
            allow_nonfinite=document["allow_nonfinite"],
            recipe_path=document["recipe_path"],
            overrides=tuple((key, value) for key, value in document["overrides"]),
            statistics=tuple(_statistic_from_json(statistic) for statistic in document["statistics"]),
            checkpoints=_checkpoints_from_json(document["checkpoints"], document["layouts"]),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.hash())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _plan_identity(slot: str, ref: TensorRef) -> str:
    return repr((slot, ref.name))


def _kind_text(plan: Plan, kind: Kind) -> tuple[str, bool]:
    """What tensors of a kind have in common, and whether random numbers are drawn for them.

    A copy is a copy by whatever method.
    """
    order = walk(plan.root(kind))
    is_random = any(name == "stream" for node in order for name, _ in node.attrs)
    return "\n".join([*graph_text(plan, kind), str(kind.shape), "" if len(order) == 1 else kind.identity]), is_random


def graph_text(plan: Plan, kind: Kind) -> tuple[str, ...]:
    """A kind's graph as text; what it loads is numbered from 0, for which number a model has says nothing."""
    return _numbered(plan.root(kind))


def _numbered(root: Node) -> tuple[str, ...]:
    numbers = {slot: number for number, slot in enumerate(_loaded(root))}
    return tuple(
        line.replace(f"slot={node.attr('slot')}", f"slot={numbers[node.attr('slot')]}", 1)
        if node.op == "load"
        else line
        for node, line in zip(walk(root), listing(root), strict=True)
    )


def _loaded(root: Node) -> tuple[int, ...]:
    """The slots that a graph loads."""
    return tuple(sorted({node.attr("slot") for node in walk(root) if node.op == "load"}))


def _type_json(type: TensorType) -> list[Any]:
    return [list(type.shape), type.dtype, type.space]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _nodes_from_json(rows: Iterable[Any]) -> Iterator[Node]:
    graph = Graph()
    for op, inputs, attrs, (shape, dtype, space), op_class in rows:
        sources = tuple(graph.nodes[index] for index in inputs)
        yield graph.node(op, sources, _frozen_attrs(attrs), TensorType(tuple(shape), dtype, space), op_class)


def _frozen_attrs(attrs: Iterable[Any]) -> dict[str, Attr]:
    return {name: _frozen(value) for name, value in attrs}


def _kind_from_json(kind: Mapping[str, Any]) -> Kind:
    surveys = tuple(_passes_from_json(passes) for passes in kind["surveys"])
    plain = {name: tuple(kind[name]) for name in ("slots", "shape")}
    return Kind(**{**kind, **plain, "passes": _passes_from_json(kind["passes"]), "surveys": surveys})


def _passes_from_json(passes: Iterable[Any]) -> tuple[tuple[Step, ...], ...]:
    return tuple(tuple(Step(step["node"], tuple(step["frees"])) for step in steps) for steps in passes)


def _statistic_from_json(statistic: Mapping[str, Any]) -> Statistic:
    nodes = tuple((kind, node) for kind, node in statistic["nodes"])
    return Statistic(statistic["name"], statistic["round"], nodes, tuple(statistic["members"]))


def _output_json(output: Output, file_numbers: Mapping[str, int]) -> list[Any]:
    sources = [
        [file_numbers[ref.file], ref.name, ref.dtype, list(ref.shape), ref.begin, ref.end] for ref in output.sources
    ]
    place = [output.shard, output.begin, output.end, *([output.tensor] if output.is_part else [])]
    return [output.name, output.dtype, list(output.shape), output.kind, sources, *place]


def _output_from_json(row: list[Any], files: tuple[SourceFile, ...]) -> Output:
    name, dtype, shape, kind, sources, shard, begin, end, *tensor = row
    refs = tuple(TensorRef(files[f].path, n, d, tuple(s), b, e) for f, n, d, s, b, e in sources)
    return Output(name, dtype, tuple(shape), kind, refs, shard, begin, end, *tensor)


def _checkpoints_json(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Models by reference, and the layouts of their files, each once."""
    layouts: dict[str, tuple[str, ...]] = {}
    models = {}
    for reference, one in checkpoints.items():
        lines = layouts_of(one)
        layouts |= {layout_name(some): some for some in lines.values()}
        files = [{**asdict(file), "layout": layout_name(lines[file.path])} for file in one.files]
        models[reference] = {"origin": one.origin, "config": one.config, "side_files": one.side_files, "files": files}
    return {"checkpoints": models, "layouts": layouts}


def _checkpoints_from_json(models: Mapping[str, Any], layouts: Mapping[str, Any]) -> dict[str, Checkpoint]:
    found = {}
    for reference, one in models.items():
        named = {file["path"]: layouts[file["layout"]] for file in one["files"]}
        files = tuple(WeightFile(**{k: v for k, v in file.items() if k != "layout"}) for file in one["files"])
        tensors = tensors_of(files, named)
        found[reference] = Checkpoint(one["origin"], files, tensors, one["config"], one["side_files"])
    return found
