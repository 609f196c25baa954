"""A plan: everything a run needs, decided before a weight is read - files, kinds of graphs, outputs, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from mergec.graph import Node
from mergec.io.checkpoint import Checkpoint
from mergec.io.layout import Shard, SideFile
from mergec.io.tensors import TensorRef

KindClass: TypeAlias = Literal["copy", "map", "reduce", "row", "whole", "model", "states"]


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
    held beside the tiles, or by the model whose states are found before; `row` is the number of entries that must stay
    together (1 where any split will do). `identity` stands for the methods in keys.
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


@dataclass(frozen=True, slots=True)
class Rows:
    """Of a tensor with a row per token, how many rows a model gives to the merge by one rule, and whose they are."""

    tensor: str
    model: str
    rule: str
    of: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, decided before a weight is read; comparable and serialisable.

    `slots` are the slot ids of the inputs, by the slot number of load nodes. `notes` are the rules by which tensors or
    inputs were left out; `warnings` are printed problems. `rows` say whence those of tensors come whose vocabularies
    were made one.
    """

    nodes: tuple[Node, ...]
    kinds: tuple[Kind, ...]
    outputs: tuple[Output, ...]
    shards: tuple[Shard, ...]
    memory: Memory
    files: tuple[SourceFile, ...] = ()
    side_files: tuple[SideFile, ...] = ()
    name: str = ""
    method: str = ""
    recipe_text: str = ""
    models: tuple[ModelUse, ...] = ()
    rows: tuple[Rows, ...] = ()
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((self.outputs, self.side_files))

    def _compared(self) -> list[Any]:
        """Every field; nodes of two graphs are equal where their ops, attributes and inputs are."""
        nodes = [(n.op, tuple(i.index for i in n.inputs), repr(n.attrs), n.type, n.op_class) for n in self.nodes]
        return [nodes, *(getattr(self, part.name) for part in fields(Plan) if part.name != "nodes")]
