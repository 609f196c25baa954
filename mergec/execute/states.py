"""States: what prompts are at the layers of a model, found with the whole model before any tensor is made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mergec.errors import MergecError, RunError, count, path_text, remark
from mergec.execute.process import one_torch_thread
from mergec.execute.tensors import read_entries
from mergec.graph import Node, walk
from mergec.io.checkpoint import Checkpoint
from mergec.io.reader import Reader
from mergec.ops.route import unit
from mergec.plan import Output, Plan

if TYPE_CHECKING:
    from torch import Tensor

Tokens: TypeAlias = tuple[int, ...]

_ALIKE = 5.0  # a condition number above which rows hardly tell tokens apart


@dataclass(frozen=True)
class States:
    """The flat values of `prompt_states` nodes, by node; the bytes read for them; what is odd about them."""

    values: Mapping[int, Tensor] = field(default_factory=dict)
    read_bytes: int = 0
    remarks: tuple[str, ...] = ()


def find_states(plan: Plan, outputs: Sequence[Output], device: Any) -> States:
    """The values of the `prompt_states` nodes that outputs need.

    The model is computed in one thread, one prompt at a time, so that nothing depends on the others or on padding.
    """
    kinds = {output.kind: output for output in outputs}
    found = {node.index: (node, kinds[kind]) for kind in kinds for node in walk(plan.root(plan.kinds[kind]))}
    needed = {index: pair for index, pair in found.items() if pair[0].op_class == "states"}
    models: dict[tuple[str, str], list[Node]] = {}
    for node, output in needed.values():
        models.setdefault((_file(plan, node, output), node.attr("dtype")), []).append(node)
    rows: dict[int, Tensor] = {}
    read_bytes = 0
    for (file, dtype), nodes in models.items():
        checkpoint = _checkpoint(plan, file)
        with one_torch_thread(), _quiet(), _told(checkpoint):
            rows |= _of_model(_model(plan, checkpoint, dtype, device), nodes)
        read_bytes += sum(one.file_bytes for one in checkpoint.files)
    alike = [pair[1].name for index, pair in needed.items() if _condition(rows[index]) > _ALIKE]
    values = {index: one.view(-1).to(device) for index, one in rows.items()}
    return States(values, read_bytes, tuple(_remarks(alike)))


def _file(plan: Plan, node: Node, output: Output) -> str:
    """A file of the model that a node is of; it stands for all of them."""
    sources = dict(zip(plan.kinds[output.kind].slots, output.sources, strict=True))
    return sources[node.inputs[0].attr("slot")].file


def _checkpoint(plan: Plan, file: str) -> Checkpoint:
    """The model that a file is of."""
    for one in plan.checkpoints.values():
        if any(file == own.path for own in one.files):
            return one
    raise RunError("E705", f"the plan does not know the model of {path_text(file)}", "make a new plan")


def _of_model(model: Any, nodes: Sequence[Node]) -> dict[int, Tensor]:
    """The rows of nodes that are of one model, each prompt computed once."""
    asked = dict.fromkeys((tokens, node.attr("state")) for node in nodes for tokens in _prompts(node))
    states = {(tokens, which): _states(model, tokens, which) for tokens, which in asked}
    return {node.index: _rows(node, states) for node in nodes}


def _prompts(node: Node) -> Iterator[Tokens]:
    for asked in node.attr("prompts"):
        for some in asked:
            yield from some


def _condition(rows: Tensor) -> float:
    """The condition number of rows: 1 where they are at right angles, without bound where they are alike."""
    import torch

    lengths = torch.linalg.svdvals(rows.double()).tolist()
    return lengths[0] / lengths[-1] if lengths[-1] > 1e-6 * lengths[0] else float("inf")


def _remarks(alike: Sequence[str]) -> Iterator[str]:
    if alike:
        others = f" and in {count(len(alike) - 1, 'other router')}" if len(alike) > 1 else ""
        what = f"the experts' rows are nearly alike in {alike[0]}{others}, so that they hardly tell tokens apart"
        yield remark("W705", what, "prompts that differ more, in their last token above all, or gate_mode: hidden_avg")


@contextmanager
def _told(checkpoint: Checkpoint) -> Iterator[None]:
    """What transformers makes of a config or weights that are not what they should be may be any exception."""
    try:
        yield
    except MergecError:
        raise
    except Exception as error:
        what = f"transformers cannot compute {path_text(checkpoint.origin)}: {type(error).__name__}: {error}"
        raise RunError("E705", what.partition("\n")[0], "does it load there?") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers prints while it loads a model."""
    import transformers

    log: Any = transformers.utils.logging
    before, has_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if has_bar:
            log.enable_progress_bar()


def _model(plan: Plan, checkpoint: Checkpoint, dtype: str, device: Any) -> Any:
    """The model with its weights, read as a run reads all weights; its code is transformers' own."""
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    said = {key: value for key, value in (checkpoint.config or {}).items() if key not in ("auto_map", "model_type")}
    config = AutoConfig.for_model((checkpoint.config or {})["model_type"], **said)
    weights: dict[str, Tensor] = {}
    with Reader((file.path, file.file_bytes) for file in plan.files) as reader:
        for name, ref in checkpoint.tensors.items():
            weights[name] = read_entries(reader, ref, 0, ref.numel).view(ref.shape)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    made, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        torch_dtype=getattr(torch, dtype),
        attn_implementation="eager",
        output_loading_info=True,
    )
    if info["missing_keys"]:
        what = f"{path_text(checkpoint.origin)} lacks {min(info['missing_keys'])}, so it cannot read the prompts"
        raise RunError("E705", what, "fetch the model again, or take gate_mode: random")
    return made.to(device).eval()


def _states(model: Any, tokens: Tokens, which: str) -> Tensor:
    """What goes into each layer for a prompt, layers x hidden, float64: that of the last token, or the mean."""
    import torch

    with torch.no_grad():
        ids = torch.tensor([tokens], device=model.device)
        found = model.base_model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[:-1]
    each = [one[0, -1].double() if which == "last" else one[0].double().mean(dim=0) for one in found]
    return torch.stack(each).cpu()


def _rows(node: Node, states: Mapping[tuple[Tokens, str], Tensor]) -> Tensor:
    """A row of length 1 for each expert, float32: the mean over prompts for it, less that over prompts for others."""
    import torch

    def mean(prompts: Sequence[Tokens]) -> Tensor:
        return torch.stack([states[tokens, node.attr("state")][node.attr("layer")] for tokens in prompts]).mean(dim=0)

    made = [mean(some) - mean(others) if others else mean(some) for some, others in node.attr("prompts")]
    return unit(torch.stack(made)).float()
