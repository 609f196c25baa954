"""Adapters: which tensors of a model an adapter changes and how, with every tensor of it accounted for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mergec.compiler.names import few, has_vocabulary, is_head, natural
from mergec.compiler.source import Adapted, Shifted, Source
from mergec.errors import InputError, near
from mergec.io.adapter import ADAPTER_PREFIX, AdapterConfig
from mergec.io.tensors import FLOATS, TensorRef

_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.default)?(?P<rest>\.weight|\.bias)?"
)
_WHOLE = re.compile(r"\.(base_layer|modules_to_save(\.default)?|original_module)(?=\.)")


@dataclass
class _Change:
    """What an adapter has for one module, by part: A, B, bias, lengths."""

    parts: dict[str, TensorRef] = field(default_factory=dict)
    is_embedding: bool = False


def adapted(
    name: str, config: AdapterConfig, stored: Mapping[str, TensorRef], model: Mapping[str, Source], is_tied: bool
) -> dict[str, Source]:
    """A model's tensors with those that the adapter `name` changes or replaces.

    Raises InputError: E342 for tensors of the adapter that belong to nothing in the model, E343 for one that does
    not fit, E344 for half of a pair.
    """
    changes, replaced = _sorted(name, stored)
    targets = {f"{module}.weight" for module in changes} | replaced.keys()
    heads = [target for target in targets if is_head(target)]
    if is_tied and heads:
        what = f"the adapter '{name}' changes {heads[0]}, which the model's config ties to its input embedding"
        raise InputError("E342", what, "merge the adapter into an untied copy of the model")
    place = _placed(name, targets, model)
    result = dict(model)
    for target, ref in replaced.items():
        result[place[target]] = _replaced(name, ref, place[target], model[place[target]])
    _check_rows(name, model, result)
    for module, change in changes.items():
        target = place[f"{module}.weight"]
        result[target] = _adapted(name, config, module, change, result[target])
        if "bias" in change.parts:
            bias = f"{target.removesuffix('weight')}bias"
            result[bias] = _shifted(name, config, module, change.parts["bias"], result.get(bias))
    return result


def _sorted(name: str, stored: Mapping[str, TensorRef]) -> tuple[dict[str, _Change], dict[str, TensorRef]]:
    """An adapter's tensors: factors and the like by module, and whole tensors by the name of what they replace."""
    changes: dict[str, _Change] = {}
    replaced: dict[str, TensorRef] = {}
    for full, ref in stored.items():
        if ref.dtype not in FLOATS:
            raise InputError("E343", f"the adapter '{name}' has {full} as {ref.dtype}, expected floats")
        short = full.removeprefix(ADAPTER_PREFIX)
        found = _FACTOR.fullmatch(short)
        if not found and ("lora_" in short or "token_adapter" in short):
            what = f"the adapter '{name}' has {full}, a tensor of no known kind"
            raise InputError("E341", what, "merge it into its model with PEFT, and name the result")
        if not found:
            replaced[_WHOLE.sub("", short)] = ref
            continue
        change = changes.setdefault(found["module"], _Change())
        change.is_embedding |= "embedding" in found["part"]
        part = "lengths" if found["part"].endswith("vector") else found["part"][-1]
        if found["rest"] == ".bias":
            part = "bias" if part == "B" else f"bias of {part}"
        change.parts[part] = ref
    for module, change in changes.items():
        odd = sorted({"A", "B"} ^ (change.parts.keys() & {"A", "B"})) or sorted(
            change.parts.keys() - {"A", "B", "bias", "lengths"}
        )
        if odd:
            has = ", ".join(sorted(ref.name for ref in change.parts.values()))
            raise InputError("E344", f"the adapter '{name}' has {has}, expected A and B of {module}", "fetch it again")
    return changes, replaced


def _placed(name: str, targets: Iterable[str], model: Mapping[str, Source]) -> dict[str, str]:
    """The model's name of each tensor that the adapter names.

    A checkpoint of a bare model lacks the first word of the names that one with a head has (`transformer.h.0` is
    `h.0`), and the other way round: all names of an adapter differ in the same way.
    """
    ordered = sorted(targets, key=natural)
    if not ordered:
        raise InputError("E342", f"the adapter '{name}' has no tensors", "fetch it again")
    ways = [("", "")]
    head, _, rest = ordered[0].partition(".")
    ways += [(f"{head}.", "")] if rest in model else []
    ways += [("", one.removesuffix(ordered[0])) for one in model if one.endswith(f".{ordered[0]}")]
    for cut, added in ways:
        places = {one: added + one.removeprefix(cut) for one in ordered}
        if all(place in model for place in places.values()):
            return places
    absent = [one for one in ordered if one not in model]
    what = f"the adapter '{name}' is for {few(absent)}, which the model does not have"
    raise InputError("E342", what, near(absent[0], list(model)[:5000]) or "is it of this model?")


def _replaced(name: str, ref: TensorRef, target: str, old: Source) -> TensorRef:
    has_other_tokens = has_vocabulary(target) and ref.shape[:1] and ref.shape[1:] == old.shape[1:]
    if ref.shape != old.shape and not has_other_tokens:
        what = f"the adapter '{name}' replaces {target} of shape {list(old.shape)} by one of {list(ref.shape)}"
        raise InputError("E343", what, "is it of this model?")
    return ref


def _check_rows(name: str, model: Mapping[str, Source], result: Mapping[str, Source]) -> None:
    """That an adapter which was trained with more tokens has all tensors with a row for each."""
    changed = {one.shape[0]: target for target, one in result.items() if one.shape != model[target].shape}
    for rows, target in changed.items():
        before = model[target].shape[0]
        for other, one in result.items():
            if has_vocabulary(other) and one.shape[:1] == (before,):
                what = f"the adapter '{name}' replaces {target} by one of {rows:,} rows, and {other} keeps {before:,}"
                hint = "train it with modules_to_save for both, or resize the model's vocabulary first"
                raise InputError("E343", what, hint)


def _adapted(name: str, config: AdapterConfig, module: str, change: _Change, weight: Source) -> Adapted:
    left, right, lengths = change.parts["B"], change.parts["A"], change.parts.get("lengths")
    if len(weight.shape) != 2 or len(left.shape) != 2 or len(right.shape) != 2:
        what = f"the adapter '{name}' has {right.name} of shape {list(right.shape)} for {module} of "
        raise InputError(
            "E341", f"{what}{list(weight.shape)}, and only matrices are computed here", "merge it with PEFT"
        )
    rank = config.rank(module)
    if (left.shape[1], right.shape[0]) != (rank, rank):
        what = f"the adapter '{name}' has {right.name} of shape {list(right.shape)} and {left.name} of "
        raise InputError("E343", f"{what}{list(left.shape)}, its config says rank {rank}", "is it the right config?")
    product = (left.shape[0], right.shape[1])
    transposed = change.is_embedding or (config.fan_in_fan_out and not is_head(f"{module}.weight"))
    if transposed and not change.is_embedding and product == weight.shape != product[::-1]:
        transposed = False  # a plain linear layer among transposed ones
    if weight.shape != (product[::-1] if transposed else product):
        what = f"the adapter '{name}' has factors of a {list(product)} matrix for {module}, which is "
        hint = "is it of this model?"
        raise InputError("E343", f"{what}{list(weight.shape)}", hint)
    if lengths is not None:
        lengths = _lengths(name, lengths, module, weight, transposed)
    elif config.use_dora:
        raise InputError("E344", f"the adapter '{name}' is DoRA and has no lora_magnitude_vector for {module}")
    return Adapted(
        weight.name, weight.dtype, weight.shape, weight, left, right, config.scale(module), transposed, lengths
    )


def _lengths(name: str, lengths: TensorRef, module: str, weight: Source, transposed: bool) -> TensorRef:
    if transposed:
        what = f"the adapter '{name}' is DoRA on {module}, whose weight is stored transposed"
        raise InputError("E341", f"{what}, which is not computed here", "merge it into its model with PEFT")
    if lengths.numel != weight.shape[0]:
        what = f"the adapter '{name}' has {lengths.name} of shape {list(lengths.shape)}, expected {weight.shape[0]}"
        raise InputError("E343", what, "is it of this model?")
    return lengths._replace(shape=(lengths.numel,))


def _shifted(name: str, config: AdapterConfig, module: str, change: TensorRef, bias: Source | None) -> Shifted:
    if bias is None:
        raise InputError("E342", f"the adapter '{name}' has a bias for {module}, and the model has none there")
    if bias.shape != change.shape:
        what = f"the adapter '{name}' has {change.name} of shape {list(change.shape)}, expected {list(bias.shape)}"
        raise InputError("E343", what, "is it of this model?")
    return Shifted(bias.name, bias.dtype, bias.shape, bias, change, config.scale(module))
