"""Extract: from a model and the base it was tuned from to the plan of a LoRA adapter, which streams like any other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mergec.compiler.analyse import analyse
from mergec.compiler.analysis import all_models
from mergec.compiler.compile import compile_analysis, lowered_of
from mergec.compiler.inventory import line_up
from mergec.compiler.lower import Lowered
from mergec.compiler.models import Model, is_staged, open_model
from mergec.compiler.names import few, is_embedding
from mergec.compiler.passes import rewrite
from mergec.compiler.schedule import Options, schedule
from mergec.compiler.sidefiles import copied_file, json_text, written_file
from mergec.compiler.source import Derived, Loader, Source, refs_of, structure_of
from mergec.compiler.stages import stage_model
from mergec.errors import RecipeError, UsageError, count, did_you_mean
from mergec.graph import Graph, Node, slots_of
from mergec.io.adapter import ADAPTER_PREFIX, factor_names
from mergec.io.checkpoint import ADAPTER_CONFIG_NAME, WeightFile, is_tokenizer_file
from mergec.io.layout import SideFile
from mergec.io.tensors import FLOATS, TensorRef
from mergec.ops.basic import cast, diff
from mergec.ops.parts import factorise
from mergec.plan import ModelUse, Plan
from mergec.recipe.load import read_document

_STEM = "adapter_model"
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # their Conv1D is stored in x out


@dataclass(frozen=True)
class Wanted:
    """What to extract: the largest rank, which modules by regular expressions, the dtype of the factors."""

    rank: int
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dtype: str = "float32"
    save_embeddings: bool = False
    embed: bool = False
    """Whether embeddings become factors too."""
    save: tuple[str, ...] = ()
    """Modules that are stored whole, by their names or the ends of them."""

    def saves(self, module: str) -> bool:
        return any(f".{module}".endswith(f".{name}") for name in self.save)

    def takes(self, module: str) -> bool:
        """Whether a module is one of those: some `include` is found in its name, or none is given, and no `exclude`."""
        included = not self.include or any(re.search(pattern, module) for pattern in self.include)
        return included and not any(re.search(pattern, module) for pattern in self.exclude)


@dataclass(frozen=True)
class Extraction:
    """The plan of an adapter, and what its tensors are made from: base and model, by the name of the model's tensor.

    `sizes` are those of all files of both; `merge` is the plan that makes the model, where a recipe stands for it.
    """

    plan: Plan
    rows: Mapping[str, tuple[Source, Source]]
    sizes: Mapping[str, int]
    merge: Plan | None = None

    @property
    def stored(self) -> dict[str, tuple[TensorRef, TensorRef]]:
        """Those of the rows that are not computed from others, such as float8 weights."""
        return {n: (w, x) for n, (w, x) in self.rows.items() if isinstance(w, TensorRef) and isinstance(x, TensorRef)}


@dataclass(frozen=True)
class _Side:
    """Where the tensors of the base, or of the model, come from: slots of their own, or the graphs of a recipe."""

    name: str
    numbers: dict[str, int]
    """Every slot's number, by its id; what both sides have in common."""
    made: Mapping[str, Lowered] = field(default_factory=dict)

    def slots(self, source: Source) -> list[tuple[int, TensorRef]]:
        """What is loaded for a tensor, with its slots."""
        if is_staged(source):
            one = self.made[source.name]
            return list(zip(slots_of(one.root), one.sources, strict=True))
        return [(self._number(f"{self.name} +{n}" if n else self.name), ref) for n, ref in enumerate(refs_of(source))]

    def _number(self, slot: str) -> int:
        return self.numbers.setdefault(slot, len(self.numbers))

    def structure(self, source: Source) -> object:
        """What tells sources apart whose graphs differ."""
        return self.made[source.name].root.index if is_staged(source) else structure_of(source)

    def identity(self, source: Source) -> frozenset[str]:
        return self.made[source.name].identity if is_staged(source) else frozenset()

    def node(self, graph: Graph, source: Source, dtype: str) -> Node:
        """The tensor's values."""
        if is_staged(source):
            return rewrite(cast(self.made[source.name].root, dtype=dtype))
        loaded = Loader(graph, [slot for slot, _ in self.slots(source)])
        compute = "float64" if dtype == "float64" else "float32"
        node = source.build(loaded, compute) if isinstance(source, Derived) else loaded(source, "weight")
        return rewrite(cast(node, dtype=dtype))


def compile_extraction(base: str, model: str, wanted: Wanted, options: Options) -> Extraction:
    """The plan of the adapter that takes `base` closest to `model`: an SVD of each matrix' difference.

    `model` may be a recipe: its result is then made tensor by tensor and never written. Matrices become factors of at
    most `wanted.rank`, biases and norms are stored whole, embeddings if that is wished.
    Raises RecipeError for models that do not fit, UsageError (E348) where nothing can be extracted.
    """
    if Path(model).suffix in (".yml", ".yaml"):
        return _of_recipe(base, model, wanted, options)
    opened = [open_model(reference, Path()) for reference in (base, model)]
    numbers = {"base": 0, "model": 1}
    made = _Adapter(wanted, Graph(), _Side("base", numbers), _Side("model", numbers))
    return _extraction(opened, made, options)


def _of_recipe(base: str, recipe: str, wanted: Wanted, options: Options) -> Extraction:
    """The adapter of what a recipe makes; the base's slots come after those of the recipe."""
    analysis = analyse(read_document(Path(recipe)))
    if analysis.method.makes_artifact:
        what = f"{analysis.method.name} makes an artifact, and an adapter is made of one dense model"
        raise UsageError("E348", what, "mergec materialize one of its tasks")
    slots, lowered, graph = lowered_of(analysis)
    if any(node.op_class == "model" for node in graph.nodes):
        what = f"{recipe} takes numbers over the whole model, of which an adapter has some tensors only"
        raise UsageError("E348", what, "run it, and give its output as MODEL; or set scope: tensor")
    start = analysis.recipe.document.place(())
    opened = [open_model(base, Path()), stage_model(recipe, start, analysis)]
    numbers = {slot: number for number, slot in enumerate(slots)}
    model = _Side(recipe, numbers, {one.name: one for one in lowered})
    made = _Adapter(wanted, graph, _Side("base of the adapter", numbers), model)
    found = _extraction(opened, made, options, all_models(analysis).values())
    merge = compile_analysis(analysis, (), options)
    plan = replace(found.plan, recipe_text=merge.recipe_text, recipe_path=merge.recipe_path, warnings=merge.warnings)
    return replace(found, plan=plan, merge=merge)


def _extraction(opened: Sequence[Model], made: _Adapter, options: Options, sources: Iterable[Model] = ()) -> Extraction:
    """What is taken from base and model; `sources` are the models that the second is merged from."""
    if str((opened[0].checkpoint.config or {}).get("model_type")) in _TRANSPOSED:
        what = f"'{opened[0].reference}' stores its weights transposed, which extract-lora does not decompose"
        raise UsageError("E348", what, "only linear layers stored as out x in are decomposed")
    inventory, problems = line_up(list(opened))
    if problems:
        hint = "base and model must have the same tensors"
        raise RecipeError(replace(one, hint=hint) if one.code == "E320" else one for one in problems)
    _check_head(opened[0], opened[1], made.wanted)
    rows = {name: (row[0], row[1]) for name, row in inventory.rows.items() if row[0].dtype in FLOATS}
    _check_saved(made.wanted, rows)
    for name, row in rows.items():
        made.factors(name, *row)
    if not made.ranks:
        what = f"no matrix of '{opened[1].reference}' is chosen"
        raise UsageError("E348", what, "mind --include-regex and --exclude-regex")
    for name, (_, tuned) in rows.items():
        made.whole(name, tuned)
    files = {file.path: file for one in (*opened, *sources) for file in one.checkpoint.files}
    sizes = {path: file.file_bytes for path, file in files.items()}
    return Extraction(_plan(opened, made, options, files.values()), rows, sizes)


def _check_head(base: Model, model: Model, wanted: Wanted) -> None:
    """An adapter of a head needs a base that has one of its own."""
    module = (model.head or "").rpartition(".")[0]
    if base.is_tied and module and not model.is_tied and (wanted.saves(module) or wanted.takes(module)):
        what = f"'{model.reference}' has a head of its own, and '{base.reference}' ties its to the input embedding"
        raise UsageError("E348", what, f"--exclude-regex {module} leaves it out; or untie the base first")


def _check_saved(wanted: Wanted, rows: Iterable[str]) -> None:
    modules = {name.rpartition(".")[0] for name in rows}
    for name in wanted.save:
        if not any(replace(wanted, save=(name,)).saves(module) for module in modules):
            known = {module.rpartition(".")[2] for module in modules}
            raise UsageError("E348", f"no module '{name}' to save", did_you_mean(name, known))


class _Adapter:
    """The tensors of an adapter, as graphs; what is left out of it is noted."""

    def __init__(self, wanted: Wanted, graph: Graph, base: _Side, model: _Side) -> None:
        self.wanted, self.graph = wanted, graph
        self._base, self._model = base, model
        self.lowered: list[Lowered] = []
        self.ranks: dict[str, int] = {}
        self.saved: list[str] = []
        self.left_out: list[str] = []
        self._roots: dict[object, Node] = {}

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(self._base.numbers)

    def factors(self, name: str, origin: Source, tuned: Source) -> None:
        """B and A of a matrix, if it is one that is wanted."""
        module, _, part = name.rpartition(".")
        transposed = is_embedding(name)
        if part != "weight" or len(tuned.shape) != 2 or (transposed and not self.wanted.embed):
            return
        if self.wanted.saves(module) or not self.wanted.takes(module):
            return
        rows, columns = tuned.shape[::-1] if transposed else tuned.shape
        rank = min(self.wanted.rank, rows, columns)
        compute = "float64" if "float64" in (origin.dtype, tuned.dtype) else "float32"
        key = (tuned.shape, transposed, self._base.structure(origin), self._model.structure(tuned))
        if key not in self._roots:
            base = self._base.node(self.graph, origin, compute)
            made = factorise(
                diff(self._model.node(self.graph, tuned, compute), base),
                rank=rank,
                **({"transposed": True} if transposed else {}),
            )
            self._roots[key] = rewrite(cast(made, dtype=self.wanted.dtype))
        left, right = factor_names(module, transposed)
        names = ((left, (rows, rank)), (right, (rank, columns)))
        refs = dict([*self._base.slots(origin), *self._model.slots(tuned)])
        self._add(f"{module}.lora", self._roots[key], refs, self._model.identity(tuned), name, names)
        self.ranks[module] = rank

    def whole(self, name: str, tuned: Source) -> None:
        """A bias, a norm or a wanted embedding, as it is in the model."""
        module, _, part = name.rpartition(".")
        if module in self.ranks and part == "weight":
            return
        is_kept = len(tuned.shape) == 1 or (is_embedding(name) and self.wanted.save_embeddings)
        if not self.wanted.saves(module) and not (is_kept and self.wanted.takes(module)):
            self.left_out.append(name)
            return
        key = ("whole", tuned.shape, self._model.structure(tuned))
        if key not in self._roots:
            self._roots[key] = self._model.node(self.graph, tuned, tuned.dtype)
        if module not in self.ranks and module not in self.saved:
            self.saved.append(module)
        inner = ".base_layer" if module in self.ranks else ""
        refs = dict(self._model.slots(tuned))
        self._add(f"{ADAPTER_PREFIX}{module}{inner}.{part}", self._roots[key], refs, self._model.identity(tuned))

    def _add(
        self,
        name: str,
        root: Node,
        refs: Mapping[int, TensorRef],
        identity: frozenset[str],
        tensor: str = "",
        stored: tuple[tuple[str, tuple[int, ...]], ...] = (),
    ) -> None:
        sources = tuple(refs[slot] for slot in slots_of(root))
        self.lowered.append(Lowered(name, root, sources, "", tensor, stored, identity | {"extract-lora"}))


def _plan(opened: Sequence[Model], made: _Adapter, options: Options, files: Iterable[WeightFile]) -> Plan:
    plan = schedule(made.lowered, made.graph, files, options, stem=_STEM)
    if len(plan.shards) > 1:
        what = f"the adapter would be {count(len(plan.shards), 'file')}, and PEFT reads one"
        raise UsageError("E348", what, "a lower rank, or a larger --shard-size")
    uses = (
        ModelUse("base", opened[0].reference, opened[0].checkpoint.origin, opened[0].found),
        ModelUse("model", opened[1].reference, opened[1].checkpoint.origin, opened[1].found),
    )
    return replace(
        plan,
        name=f"{Path(opened[1].reference).name}-lora",
        method=f"extract-lora, rank {made.wanted.rank}",
        slots=made.slots,
        models=uses,
        side_files=_side_files(opened, made.wanted, made),
        notes=(f"not in the adapter: {few(made.left_out)}",) if made.left_out else (),
    )


def _side_files(opened: Sequence[Model], wanted: Wanted, made: _Adapter) -> tuple[SideFile, ...]:
    """What PEFT needs to know, and the model's tokenizer."""
    base, model = opened
    origin = base.checkpoint.origin
    named = base.reference.partition("@") if origin.startswith("hf://") else (origin, "", "")
    architectures = (base.checkpoint.config or {}).get("architectures")
    smaller = {module: rank for module, rank in made.ranks.items() if rank != wanted.rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if "ForCausalLM" in str(architectures) else None,
        "base_model_name_or_path": named[0],
        "revision": named[2] or None,
        "inference_mode": True,
        "r": wanted.rank,
        "lora_alpha": wanted.rank,
        "lora_dropout": 0.0,
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "target_modules": list(made.ranks),
        "modules_to_save": made.saved or None,
        "bias": "lora_only" if any(".base_layer." in one.name for one in made.lowered) else "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
    }
    copied = [copied_file(name, path) for name, path in model.checkpoint.side_files.items() if is_tokenizer_file(name)]
    return (*copied, written_file(ADAPTER_CONFIG_NAME, json_text(config)))
