"""The recipe language on one page: frozen models of what a user may write; anything else is an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from mergec.recipe.document import Document, Path
from mergec.recipe.reference import reference_text

_SCALAR = {"type": ["number", "boolean", "string"]}
_VALUE = {
    "anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1, "description": "a gradient over layers"}]
}
_CHOICE = {
    "type": "object",
    "properties": {
        "value": _VALUE,
        "filter": {"type": "string", "description": "applies to tensors whose name contains this; left out: to all"},
    },
    "required": ["value"],
    "additionalProperties": False,
}
SETTING_SCHEMA: dict[str, Any] = {
    "description": "a value, knots over the layers, or a list of {filter, value} of which the first match wins",
    "anyOf": [*_VALUE["anyOf"], _CHOICE, {"type": "array", "items": _CHOICE, "minItems": 1}],
}

Dtype: TypeAlias = Annotated[
    Literal["bfloat16", "float16", "float32", "float64"],
    BeforeValidator(lambda value: value.removeprefix("torch.") if isinstance(value, str) else value),
]
_PATH_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"path": {"type": "string", "minLength": 1}, "revision": {"type": "string", "minLength": 1}},
            "required": ["path"],
            "additionalProperties": False,
        },
    ]
}
_REFERENCE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"model": _PATH_SCHEMA, "lora": _PATH_SCHEMA},
            "required": ["model"],
            "additionalProperties": False,
        },
    ]
}
SlotId: TypeAlias = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
ModelReference: TypeAlias = Annotated[SlotId, BeforeValidator(reference_text), WithJsonSchema(_REFERENCE_SCHEMA)]
Settings: TypeAlias = Annotated[
    dict[str, Annotated[Any, WithJsonSchema(SETTING_SCHEMA)]],
    BeforeValidator(lambda value: {} if value is None else value),  # `parameters:` with nothing under it
]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class ModelEntry(_Strict):
    """One model of a merge and the settings that hold for it alone."""

    model: ModelReference = Field(
        description="a folder, a .safetensors file, or a Hugging Face id with optional @revision"
    )
    id: SlotId | None = Field(
        default=None,
        description="what the model is called from version to version; left out: the reference. Random numbers are "
        "keyed by it, so that with an id the path may change and no tensor does",
    )
    parameters: Settings = Field(default={}, description="settings for this model; they win over the top level's")

    @property
    def slot(self) -> str:
        """The slot id: the model's `id`, else its reference as written."""
        return self.id or self.model


LayerRange: TypeAlias = Annotated[list[Annotated[int, Field(ge=0, le=100_000)]], Field(min_length=2, max_length=2)]


class SourceEntry(ModelEntry):
    """One model of a slice: which of its layers are merged with those of the slice's other sources."""

    layer_range: LayerRange = Field(description="[first, end]: layers first to end - 1 of the model, counted from 0")


class SliceEntry(_Strict):
    """Layers that follow those of the slices before it; its sources are merged layer by layer."""

    sources: list[SourceEntry] = Field(min_length=1, description="equally many layers of each of these models")
    base_model: ModelReference | None = Field(
        default=None, description="the model that deltas are taken from in this slice; it must be one of its sources"
    )
    parameters: Settings = Field(default={}, description="settings for this slice; they win over the top level's")


class ModuleEntry(_Strict):
    """A part of a model that has several, such as its text decoder, merged in its own way."""

    models: list[ModelEntry] = Field(default=[], description="as the recipe's own 'models', for this module alone")
    slices: list[SliceEntry] = Field(default=[], description="as the recipe's own 'slices', for this module alone")
    parameters: Settings = Field(default={}, description="settings for this module; they win over the top level's")


class TokenSource(_Strict):
    """Where the rows of a token are taken from: a model's rows of a token, by default of the same one, or zeros."""

    kind: Literal["model_token", "zero"] = Field(description="model_token: a row of a model; zero: zeros")
    model: ModelReference | None = Field(default=None, description="the model whose row it is")
    token: str | None = Field(default=None, description="the model's token; left out: the one that is described")
    token_id: int | None = Field(default=None, ge=0, description="the row's number, in place of the token")


class TokenEntry(_Strict):
    """What stands for a token in models that lack it, or with `force` in all."""

    source: Annotated[
        TokenSource | None,
        BeforeValidator(lambda value: {"kind": "model_token", "model": value} if isinstance(value, str) else value),
    ] = Field(default=None, description="a model, whose row of the token is taken, or {kind: model_token | zero, ...}")
    force: bool = Field(default=False, description="whether models that have the token get that row too")


class TokenizerEntry(_Strict):
    """The vocabulary of the result; rows of every model are put in its order, token by token."""

    source: ModelReference = Field(
        default="union",
        description="`union`: the first model's tokens, then those that others add; `base` or a model: its tokens; "
        "`truncate`: the rows that all models have, by number",
    )
    tokens: Annotated[
        dict[str, Annotated[TokenEntry, BeforeValidator(lambda value: {} if value is None else value)]],
        BeforeValidator(lambda value: {} if value is None else value),
    ] = Field(default={}, description="tokens with rules of their own, by their text; those that are new are added")
    pad_to_multiple_of: int | None = Field(
        default=None, ge=1, description="rows up to a multiple of this follow the tokens; other padding is dropped"
    )


class ShuffledModel(_Strict):
    """A model that layers are drawn from."""

    model: ModelReference = Field(description="a model that layers are drawn from")
    id: SlotId | None = Field(default=None, description="what the model is called from version to version")
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="how often it is drawn beside the others")


class ShuffleEntry(_Strict):
    """Layers drawn from models at random by the recipe's `seed`, and stacked."""

    models: list[ShuffledModel] = Field(min_length=1, description="the models that layers are drawn from")
    layers: int = Field(ge=1, le=100_000, description="how many layers are drawn")
    full_random: bool = Field(default=False, description="any layer in each place; else the one of that number")


RULE_WAYS = ("method", "copy", "keep", "drop")


class RuleEntry(_Strict):
    """What is done with the tensors whose names match a pattern, in place of the recipe's own method."""

    match: str = Field(min_length=1, description="a pattern for names of tensors; * stands for any letters, dots too")
    method: str | None = Field(default=None, description="the method that merges them")
    copied: ModelReference | None = Field(default=None, alias="copy", description="the model they are copied from")
    keep: Literal[True] | None = Field(default=None, description="true: they are copied from the base or first model")
    drop: Literal[True] | None = Field(default=None, description="true: they are not in the result")
    parameters: Settings = Field(default={}, description="settings of the method for these tensors; they win")

    def way(self, name: str) -> str | bool | None:
        """What it says under one of `RULE_WAYS`."""
        found: str | bool | None = self.copied if name == "copy" else getattr(self, name)
        return found


class RouterEntry(_Strict):
    """How a mixture of an artifact's experts is chosen for an input."""

    scores: Literal["subspace", "none"] = Field(
        default="subspace", description="subspace: by how much an input lies in what a task's deltas listen to"
    )
    rank: int = Field(default=1, ge=1, description="directions per matrix and task that the subspace has")
    rule: Literal["softmax", "argmax", "top-k"] = Field(default="top-k", description="from scores to weights")
    top_k: int = Field(default=1, ge=1, description="how many experts rule: top-k mixes")
    file: str | None = Field(default=None, description="a router of your own, a file that is copied into the artifact")


Prompts: TypeAlias = Annotated[
    list[Annotated[str, StringConstraints(min_length=1)]], BeforeValidator(lambda value: [] if value is None else value)
]
GateMode: TypeAlias = Literal["hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random"]


class ExpertEntry(_Strict):
    """One expert of a mixture: the dense model that its MLPs are from, and the prompts that are routed to it."""

    source_model: ModelReference = Field(
        description="a dense model: a folder, a .safetensors file, or a Hugging Face id with optional @revision"
    )
    id: SlotId | None = Field(default=None, description="what the model is called from version to version")
    positive_prompts: Prompts = Field(default=[], description="texts that should be routed to this expert")
    negative_prompts: Prompts = Field(default=[], description="texts that should be routed to others")
    noise_scale: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="how much gaussian noise is added to its MLPs"
    )
    residual_scale: float | None = Field(
        default=None, allow_inf_nan=False, description="what the last matrix of its MLPs is multiplied by"
    )

    @property
    def slot(self) -> str:
        """The slot id: the `id`, else the reference as written."""
        return self.id or self.source_model


class Recipe(_Strict):
    """A merge recipe."""

    merge_method: str = Field(description="how the models are merged; `mergec methods` lists the methods")
    models: list[ModelEntry] = Field(default=[], description="what is merged, in order, each as `- model: PATH`")
    slices: list[SliceEntry] = Field(
        default=[], description="in place of models: layers of models, stacked in the order of this list"
    )
    shuffle: ShuffleEntry | None = Field(
        default=None, description="in place of slices: layers drawn from models by the seed, and stacked"
    )
    modules: dict[str, ModuleEntry] = Field(
        default={},
        description="in place of models: each module of the models by name, with models or slices of its own",
    )
    experts: list[ExpertEntry] = Field(
        default=[], description="in place of models: what becomes the experts of a mixture, each a dense model"
    )
    shared_experts: Annotated[list[ExpertEntry], BeforeValidator(lambda value: [] if value is None else value)] = Field(
        default=[], description="experts that every token is sent to"
    )
    base_model: ModelReference | None = Field(
        default=None, description="the model that deltas are taken from; it also gives config and tokenizer"
    )
    gate_mode: GateMode = Field(
        default="hidden", description="what a mixture's routers are made of: the prompts, or random numbers"
    )
    experts_per_token: int = Field(default=2, ge=1, description="how many experts of a mixture a token is sent to")
    architecture: str | None = Field(
        default=None, min_length=1, description="the mixture's kind: mixtral, deepseek, qwen or qwen3"
    )
    parameters: Settings = Field(default={}, description="settings for all models and for the method")
    rules: list[RuleEntry] = Field(
        default=[], description="tensors to be merged otherwise, by name; the first rule that matches one takes it"
    )
    tensors: Literal["strict", "intersection", "union"] = Field(
        default="strict",
        description="what is done with tensors that some models lack: `strict` refuses them, `intersection` leaves "
        "them out, `union` merges each from the models that have it",
    )
    steps: list[Any] | None = Field(
        default=None, min_length=1, description="what `merge_method: pipeline` does, step by step"
    )
    post: list[Any] | None = Field(
        default=None, min_length=1, description="passes over the merged tensors, such as `svc` or `svc: {alpha: 0.2}`"
    )
    dtype: Dtype | None = Field(default=None, description="what inputs are cast to before they are merged")
    out_dtype: Dtype | None = Field(
        default=None, description="what the result is stored as; left out: dtype, or as the inputs"
    )
    compute_dtype: Literal["float32", "float64"] | None = Field(
        default=None, description="what the arithmetic is done in; left out: float32, or float64 for float64 inputs"
    )
    lora_merge_dtype: Dtype | None = Field(
        default=None,
        description="what a model with an adapter is rounded to before it is merged; left out: it is not rounded",
    )
    seed: int = Field(default=0, ge=0, lt=2**64, description="what random methods draw from, with tensor and model")
    tokenizer_source: ModelReference | None = Field(
        default=None,
        description="`base`, one of the models, `union` or `truncate`: short for `tokenizer: {source: ...}`",
    )
    tokenizer: TokenizerEntry | None = Field(
        default=None, description="the vocabulary of the result, where the models' differ or tokens are added"
    )
    chat_template: str | None = Field(
        default=None, min_length=1, description="`auto` (what most models have), a template's name, or a Jinja template"
    )
    compat: Literal["mergekit"] | None = Field(
        default=None,
        description="`mergekit`: that tool's arithmetic where it differs, and its unknown parameters as warnings",
    )
    random_order: Literal["mergekit"] | None = Field(
        default=None,
        description="`mergekit`, with compat: mergekit: the numbers that tool draws for this seed, tensor after tensor",
    )
    router: RouterEntry | None = Field(
        default=None, description="for methods that make an artifact: how its experts are chosen"
    )
    name: str | None = Field(default=None, min_length=1, description="a name for the merge; free text")
    metadata: Any = Field(default=None, description="anything you want to keep with the recipe")

    _document: Document

    def says(self, key: str) -> bool:
        """Whether it says something under a key that would not be so without."""
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    @property
    def document(self) -> Document:
        """The text this recipe was read from, with the place of every value."""
        return self._document

    @property
    def entries(self) -> Iterator[tuple[Path, ModelEntry]]:
        """Every entry that names a model to be merged, with its path, in the order of the recipe."""
        yield from _entries((), self.models, self.slices)
        for name, module in self.modules.items():
            yield from _entries(("modules", name), module.models, module.slices)

    @property
    def all_experts(self) -> Iterator[tuple[Path, ExpertEntry]]:
        """Every expert of a mixture with its path, those that are shared last."""
        for key, entries in (("experts", self.experts), ("shared_experts", self.shared_experts)):
            yield from (((key, number), entry) for number, entry in enumerate(entries))

    @property
    def bases(self) -> Iterator[tuple[Path, str]]:
        """Every `base_model`, with its path: the recipe's own first, then those of slices."""
        if self.base_model:
            yield ("base_model",), self.base_model
        stacks: list[tuple[Path, list[SliceEntry]]] = [((), self.slices)]
        stacks += [(("modules", name), module.slices) for name, module in self.modules.items()]
        for path, slices in stacks:
            for number, one in enumerate(slices):
                if one.base_model:
                    yield (*path, "slices", number, "base_model"), one.base_model

    @property
    def vocabulary(self) -> TokenizerEntry | None:
        """What the recipe says of the result's vocabulary, under either key."""
        return TokenizerEntry(source=self.tokenizer_source) if self.tokenizer_source else self.tokenizer

    @property
    def vocabulary_path(self) -> Path:
        """The path of what it says of its source."""
        return ("tokenizer_source",) if self.tokenizer_source else ("tokenizer", "source")

    @property
    def copies(self) -> Iterator[tuple[Path, str]]:
        """The models that rules copy tensors from, with their paths."""
        for number, rule in enumerate(self.rules):
            if rule.copied:
                yield ("rules", number, "copy"), rule.copied

    @property
    def references(self) -> tuple[str, ...]:
        """The distinct models in the order in which the recipe names them, the base first."""
        own = [self.base_model] if self.base_model else []
        listed = [entry.model for _, entry in self.entries]
        listed += [entry.source_model for _, entry in self.all_experts]
        others = [reference for _, reference in (*self.bases, *self.copies)]
        return tuple(dict.fromkeys([*own, *listed, *others]))

    def slot(self, reference: str) -> str:
        """The slot id of a model by its reference; a base gets an `id` by being listed under `models` too."""
        slots = {entry.source_model: entry.slot for _, entry in self.all_experts}
        slots |= {entry.model: entry.slot for _, entry in reversed(list(self.entries))}
        return slots.get(reference, reference)


def _entries(path: Path, models: list[ModelEntry], slices: list[SliceEntry]) -> Iterator[tuple[Path, ModelEntry]]:
    for number, entry in enumerate(models):
        yield (*path, "models", number), entry
    for number, one in enumerate(slices):
        for which, source in enumerate(one.sources):
            yield (*path, "slices", number, "sources", which), source
