"""Lower: for each output tensor, resolve its settings and let the method build the graph of its kind.

Tensors with equal shapes, dtypes and resolved settings share one graph; what differs - the bytes they are loaded
from, the name their randomness is keyed by - is bound per output. A model with 100,000 tensors so has a few
hundred graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from mergec.compiler.inventory import Inventory
from mergec.compiler.models import STAGE, is_staged
from mergec.compiler.names import fold
from mergec.compiler.passes import rewrite
from mergec.compiler.source import Derived, Embedded, Loader, Source, promoted, refs_of, slots_for, structure_of
from mergec.compiler.values import Starts, UnsetError, Values, filters_of, resolve_tensor, starts_of
from mergec.errors import Place, Problem, count
from mergec.graph import Graph, Node, slots_of
from mergec.io.artifact import SHARED_FILE, expert_file, part_name
from mergec.io.tensors import FLOATS, TensorRef
from mergec.ops.artifact import Artifact, pieces
from mergec.ops.basic import cast, diff
from mergec.ops.parts import gate
from mergec.ops.registry import Arithmetic, Draw, ParameterError
from mergec.recipe.bound import Bound
from mergec.recipe.schema import Recipe
from mergec.recipe.settings import FractionError, Resolved


@dataclass(frozen=True)
class Lowered:
    """An output tensor before it has a place in a file: its graph and the tensors that are loaded into it.

    A part of an artifact names its `file`, the `tensor` of the model it belongs to, and the tensors that are stored
    one after the other in its bytes; for any other output these are the defaults.
    """

    name: str
    root: Node
    sources: tuple[TensorRef, ...]
    file: str = ""
    tensor: str = ""
    stored: tuple[tuple[str, tuple[int, ...]], ...] = ()
    identity: frozenset[str] = frozenset()
    """What stands for the methods that made it in its key."""

    @property
    def entries(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes in the header of its file."""
        return self.stored or ((self.name, self.root.type.shape),)


@dataclass(frozen=True)
class _Root:
    """What a method made of one kind of tensor, with the slots it loads; `file` and `part` are "" but for parts."""

    file: str
    part: str
    node: Node
    slots: tuple[int, ...]


Staged: TypeAlias = Mapping[TensorRef, Lowered]
"""What stages have made of tensors that lie in no file."""
Parts: TypeAlias = Sequence[tuple[Bound, Inventory]]


def lower(
    parts: Parts, stages: Mapping[str, Parts] = MappingProxyType({})
) -> tuple[list[str], list[Lowered], Graph, list[Problem]]:
    """The slot ids that loads are numbered by, the graphs of all output tensors, or every reason why some have none.

    `stages` are what some of the models are made of, each after those it needs; their graphs become parts of the
    graphs of those who take them.
    """
    shared = _Shared()
    if stages or len(parts) > 1:  # else one slice's models would number those of another
        named = [("", parts), *((f"{name}/", own) for name, own in stages.items())]
        for slot in sorted({prefix + one.slot for prefix, own in named for bound, _ in own for one in bound.inputs}):
            shared.number(slot)
    for name, own in stages.items():
        shared.staged[f"{STAGE}{name}"] = {one.name: one for one in _lower(own, shared, f"{name}/")}
    outputs = list(_lower(parts, shared, ""))
    return list(shared.slots), outputs, shared.graph, shared.problems()


def _lower(parts: Parts, shared: _Shared, prefix: str) -> Iterator[Lowered]:
    for bound, inventory in parts:
        lowering = _Lowering(bound, inventory, shared, prefix)
        for name, row in inventory.rows.items():
            yield from lowering.tensor(name, row, inventory.t(name))


class _Shared:
    """What the parts of a merge have in common: the graph, the slots' numbers, stages' tensors, what was refused."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.slots: dict[str, int] = {}
        self.staged: dict[str, dict[str, Lowered]] = {}
        self._found: dict[tuple[Place, str], tuple[Problem, list[str]]] = {}

    def number(self, slot: str) -> int:
        return self.slots.setdefault(slot, len(self.slots))

    def refuse(self, problem: Problem, name: str) -> None:
        """Note a problem of one tensor; `{}` in it stands for the names of all that have it."""
        self._found.setdefault((problem.place, problem.what), (problem, []))[1].append(name)

    def problems(self) -> list[Problem]:
        """What was refused, once per reason, with the tensors it concerns."""
        return [replace(one, what=one.what.replace("{}", _some(names))) for one, names in self._found.values()]


class _Lowering:
    """Makes graphs of the tensors of one part; `prefix` tells the slots of a stage from those of others."""

    def __init__(self, bound: Bound, inventory: Inventory, shared: _Shared, prefix: str) -> None:
        self.bound = bound
        self._starts = starts_of(bound, inventory) if bound.recipe.random_order else {}
        self._routed = frozenset(inventory.layers)
        self._shared, self._prefix = shared, prefix
        self.graph = shared.graph
        self._roots: dict[Any, tuple[_Root, ...]] = {}
        self._filters = sorted(filters_of(bound))
        recipe = bound.recipe
        for one in bound.inputs:  # models come before what else is loaded
            shared.number(prefix + one.slot)
        slots = tuple(one.slot for one in bound.inputs if not one.is_base)
        self._draw = Draw(recipe.seed, bound.method.stream, slots)
        self._arithmetic = Arithmetic(mergekit=bound.is_mergekit)

    def tensor(self, name: str, row: Sequence[Source], t: float) -> list[Lowered]:
        """What is made of one tensor: itself, and in an artifact the parts of each task."""
        refs = [ref for source in row for ref in refs_of(source)]
        computed = {ref: self._shared.staged[ref.file].get(ref.name) for ref in refs if is_staged(ref)}
        staged = {ref: one for ref, one in computed.items() if one}
        if len(staged) < len(computed):
            return []  # what is wrong with the stage was noted
        if row[0].dtype not in FLOATS:
            root, sources = self._stored(0, row[0], staged), self._sources(row[:1], staged)
            return [Lowered(name, root, tuple(sources[slot] for slot in slots_of(root)))]
        # whatever settings can depend on: tensors that agree in it share a graph, and nothing is resolved twice
        names = {name, *(ref.name for ref in row)}
        matches = tuple(one in each for one in self._filters for each in sorted(names))
        structures = tuple(map(structure_of, row))
        starts = self._starts.get(name)
        roots_of_stages = tuple(staged[ref].root.index if ref in staged else None for ref in refs) if staged else ()
        key = (row[0].shape, structures, t, matches, starts, roots_of_stages)
        if key not in self._roots:
            built = self._resolved(name, row, staged, t, starts)
            if built is None:
                return []
            self._roots[key] = built
        # embeddings, heads and norms are not what a layer's input is routed by
        roots = [root for root in self._roots[key] if root.part != "gate" or name in self._routed]
        sources = self._sources(row, staged)
        identity = frozenset({self.bound.method.identity}.union(*(one.identity for one in staged.values())))
        return [replace(_lowered(name, sources, root, row[0].shape), identity=identity) for root in roots]

    def _sources(self, row: Sequence[Source], staged: Staged) -> dict[int, TensorRef]:
        """The tensors that are loaded, by the number of the slot; those of a stage's tensor in place of itself."""
        sources: dict[int, TensorRef] = {}
        for number, source in enumerate(row):
            for slot, ref in zip(self._slots(number, source), refs_of(source), strict=True):
                one = staged.get(ref)
                sources |= dict(zip(slots_of(one.root), one.sources, strict=True)) if one else {slot: ref}
        return sources

    def _slots(self, number: int, source: Source) -> list[int]:
        """The slots of what an input's tensor is made of: the model's own first, but where rows are of several."""
        if isinstance(source, Embedded):
            return [self._shared.number(self._prefix + slot) for slot in source.slots]
        slots = slots_for(self._prefix + self.bound.inputs[number].slot, source)
        return [self._shared.number(slot) for slot in slots]

    def _resolved(
        self, name: str, row: Sequence[Source], staged: Staged, t: float, starts: Starts | None
    ) -> tuple[_Root, ...] | None:
        """The graphs of one tensor; None, and a note of the reason, where its settings do not allow one."""
        try:
            values = resolve_tensor(self.bound, name, row, t)
        except UnsetError as unset:
            self._shared.refuse(self._unset_problem(unset), name)
            return None
        except FractionError as error:
            self._shared.refuse(replace(error.problem, what=f"{error.problem.what} (for {{}})"), name)
            return None
        try:
            return self._build(row, staged, values.plain(), starts)
        except ParameterError as error:
            place = self._place(error.parameter, values)
            self._shared.refuse(Problem(place, "E206", f"{error.what} (for {{}})", error.hint), name)
            return None

    def _build(
        self,
        row: Sequence[Source],
        staged: Staged,
        values: Mapping[str, Any],
        starts: Starts | None,
    ) -> tuple[_Root, ...]:
        recipe, method = self.bound.recipe, self.bound.method
        given = recipe.dtype or promoted([ref.dtype for ref in row])
        compute = (
            given
            if self.bound.is_mergekit
            else recipe.compute_dtype or ("float64" if given == "float64" else "float32")
        )
        loads = [self._load(number, source, staged, compute) for number, source in enumerate(row)]
        base = next((node for one, node in zip(self.bound.inputs, loads, strict=True) if one.is_base), None)
        models = [node for one, node in zip(self.bound.inputs, loads, strict=True) if not one.is_base]
        merged = method(base, models, values, replace(self._draw, starts=starts), self._arithmetic)
        out = stored_dtype(recipe, row)
        if isinstance(merged, Node):
            return (self._root("", "", merged, out),)
        return tuple(self._artifact(merged, self._gates(base, models), out))

    def _gates(self, base: Node | None, models: Sequence[Node]) -> list[Mapping[str, Node]]:
        """For each task what its router needs of a matrix."""
        router = self.bound.router
        if base is None or router.scores == "none" or len(base.type.shape) != 2:
            return [{} for _ in models]
        rank = min(router.rank, *base.type.shape)
        return [{"gate": gate(diff(model, base), rank=rank)} for model in models]

    def _artifact(self, made: Artifact, gates: list[Mapping[str, Node]], dtype: str) -> Iterator[_Root]:
        """The backbone's tensor, and what is stored beside it; a part without entries is not."""
        yield self._root("", "", made.backbone, dtype)
        if made.shared is not None:
            yield self._root(SHARED_FILE, "delta", made.shared, dtype)
        for task, parts, routed in zip(self.bound.tasks, made.experts, gates, strict=True):
            for part, node in {**parts, **routed}.items():
                if node.type.numel:
                    yield self._root(expert_file(task), part, node, dtype)

    def _root(self, file: str, part: str, node: Node, dtype: str) -> _Root:
        """A node in the dtype it is stored in: that of the result for floats, but for a part's numbers."""
        if node.type.dtype in FLOATS and part not in ("scale", "ratio"):
            node = cast(node, dtype=dtype)
        root = rewrite(self._exact(node))
        return _Root(file, part, root, slots_of(root))

    def _load(self, number: int, source: Source, staged: Staged, compute: str) -> Node:
        """An input's values as the method takes them."""
        recipe = self.bound.recipe
        node = self._stored(number, source, staged, compute)
        given = [recipe.dtype or source.dtype]
        if isinstance(source, Embedded):
            given = [recipe.dtype] if recipe.dtype else []
        elif isinstance(source, Derived):
            given = [dtype for dtype in (self._rounded(source), recipe.dtype) if dtype]
        for dtype in (*given, compute):
            node = cast(node, dtype=dtype)
        return node

    def _rounded(self, source: Derived) -> str | None:
        """What a computed tensor is rounded to before the merge, if it is."""
        return self.bound.recipe.lora_merge_dtype or (source.dtype if self.bound.is_mergekit else None)

    def _stored(self, number: int, source: Source, staged: Staged, compute: str = "") -> Node:
        """A tensor as it is stored, or as it is made of what is stored; integers are copied from the first model."""
        made = {ref: staged[ref].root for ref in refs_of(source) if ref in staged}
        loaded = Loader(self.graph, self._slots(number, source), made, self._rounded)
        if isinstance(source, Derived):
            return source.build(loaded, "float64" if "float64" in (source.dtype, compute) else "float32")
        return loaded(source, "weight")

    def _exact(self, root: Node) -> Node:
        """Casts to a wider dtype and back again cancel out when nothing happens in between."""
        root = rewrite(root)
        if root.op == "cast" and root.inputs[0].op == "cast":
            inner = root.inputs[0].inputs[0]
            if widens(inner.type.dtype, root.inputs[0].type.dtype):
                return cast(inner, dtype=root.type.dtype)
        return root

    def _place(self, parameter: str, values: Values) -> Place:
        found = values.resolved.get(parameter)
        several = found if isinstance(found, tuple) and not isinstance(found, Resolved) else (found,)
        for one in several:
            if isinstance(one, Resolved) and one.choice is not None:
                return one.choice.place
        return self.bound.recipe.document.place(("merge_method",))

    def _unset_problem(self, unset: UnsetError) -> Problem:
        name = unset.parameter.name
        if unset.input is None:
            place, whom = self.bound.recipe.document.place(("merge_method",)), ""
        else:
            place, whom = unset.input.place, f" for '{unset.input.reference}'"
        settings = [*(unset.input.settings.get(name, ()) if unset.input else ()), *self.bound.settings.get(name, ())]
        if settings:
            what = f"no entry of '{name}' matches {{}}{whom}"
            return Problem(settings[-1].place, "E204", what, "end the list with an entry that has no filter")
        what = f"{self.bound.method.name} needs a '{name}'{whom}, and the recipe gives none"
        return Problem(place, "E201", what, f"add {name} under 'parameters:'")


def _lowered(name: str, row: Mapping[int, TensorRef], root: _Root, shape: tuple[int, ...]) -> Lowered:
    """A kind's root bound to one tensor; `row` is keyed by the numbers of slots."""
    sources = tuple(row[slot] for slot in root.slots)
    if not root.part:
        return Lowered(name, root.node, sources)
    stored = tuple((f"{name}.{piece}", shape) for piece, shape in pieces(root.part, shape, root.node.type))
    return Lowered(part_name(root.file, name, root.part), root.node, sources, root.file, name, stored)


def stored_dtype(recipe: Recipe, row: Sequence[Source]) -> str:
    """The dtype that a merged tensor is stored in; integers stay what they are."""
    if row[0].dtype not in FLOATS:
        return row[0].dtype
    return recipe.out_dtype or recipe.dtype or promoted([ref.dtype for ref in row])


def widens(narrow: str, wide: str) -> bool:
    """Whether every value of one dtype is a value of the other."""
    return narrow == wide or wide == "float64" or (wide == "float32" and narrow in ("float16", "bfloat16"))


def _some(names: Sequence[str]) -> str:
    listed = fold(names)
    return listed[0] if len(listed) == 1 else f"{names[0]} and {count(len(names) - 1, 'more tensor')}"
