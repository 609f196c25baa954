"""mergekit's recipe language as mergekit 0.1.5 reads it: its keys, its methods, and where it looks parameters up.

It reads over every key that is not here, and over parameters that stand where it does not look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KEYS: Mapping[str, frozenset[str]] = {
    "recipe": frozenset(
        (
            *("merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype", "name"),
            *("tokenizer_source", "tokenizer", "chat_template"),
        )
    ),
    "models": frozenset(("model", "parameters")),
    "slices": frozenset(("sources", "base_model", "parameters")),
    "sources": frozenset(("model", "layer_range", "parameters")),
    "modules": frozenset(("models", "slices", "parameters")),
    "setting": frozenset(("value", "filter")),
    "reference": frozenset(("model", "lora")),
    "path": frozenset(("path", "revision")),
    "tokenizer": frozenset(("source", "tokens", "pad_to_multiple_of")),
    "token": frozenset(("source", "force")),
    "token source": frozenset(("kind", "model", "token", "token_id")),
}
"""What may stand in a recipe, an entry of one of its lists, an entry of a filter list, a mapping for a model, ..."""


@dataclass(frozen=True)
class PeerMethod:
    """A method's parameters: those looked up for each model, and those looked up once.

    `is_base_read` says whether the base's own entry is one of those whose parameters count; `idle` are parameters
    that are read and change no number.
    """

    per_model: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    is_base_read: bool = False
    idle: frozenset[str] = frozenset()

    @property
    def parameters(self) -> frozenset[str]:
        return self.per_model | self.shared


def _deltas(*more: str, idle: tuple[str, ...] = ()) -> PeerMethod:
    """One of the methods that sum deltas."""
    shared = frozenset(("normalize", "rescale", "lambda", "int8_mask"))
    return PeerMethod(frozenset(("weight", "density", *more)), shared, idle=frozenset(("int8_mask", *idle)))


def _shared(*names: str) -> PeerMethod:
    return PeerMethod(shared=frozenset(names))


METHODS: Mapping[str, PeerMethod] = {
    "linear": PeerMethod(frozenset({"weight"}), frozenset({"normalize"}), is_base_read=True),
    "passthrough": PeerMethod(frozenset({"scale"}), is_base_read=True),
    "karcher": PeerMethod(shared=frozenset({"max_iter", "tol"}), is_base_read=True),
    "slerp": _shared("t"),
    "nearswap": _shared("t"),
    "arcee_fusion": _shared(),
    "model_stock": _shared("filter_wise"),
    "nuslerp": PeerMethod(frozenset({"weight"}), frozenset({"nuslerp_flatten", "nuslerp_row_wise"})),
    "multislerp": PeerMethod(frozenset({"weight"}), frozenset({"normalize_weights", "eps"})),
    "sce": PeerMethod(shared=frozenset({"int8_mask", "select_topk"}), idle=frozenset({"int8_mask"})),
    "ram": _shared("epsilon"),
    "ramplus_tl": _shared("r", "alpha", "epsilon"),
    "task_arithmetic": _deltas(idle=("density", "rescale")),
    "ties": _deltas(),
    "dare_linear": _deltas(),
    "dare_ties": _deltas(),
    "breadcrumbs": _deltas("gamma"),
    "breadcrumbs_ties": _deltas("gamma"),
    "della": _deltas("epsilon"),
    "della_linear": _deltas("epsilon"),
}
